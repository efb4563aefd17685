# SPDX-License-Identifier: Apache-2.0
"""The import finder is installed while it waits for a module; others may patch it meanwhile."""

from __future__ import annotations

import pytest

FINDER = """
import types
for name in "fastapi", "fastapi.concurrency":  # modules of that name stand in, if it is not there
    try:
        __import__(name)
    except ModuleNotFoundError:
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].run_in_threadpool = None
def finders():
    return [f for f in sys.meta_path if type(f).__name__ == "ModuleFinder"]
def import_all_but(*names):
    # Import the modules that install() waits for.
    for name in set(memcg.hooks._waiting) - set(names):
        try:
            __import__(name)
        except ModuleNotFoundError:
            pass
"""
BARE = "import sys, memcg\n"


def test_others_may_wrap_what_the_finder_has_and_take_it_off(run_program):
    run_program(
        FINDER
        + """
memcg.install()
[finder] = finders()
asked = []
def wrap(find_spec):
    def wrapped(name, path=None, target=None):
        asked.append(name)
        return find_spec(name, path, target)
    return wrapped
for f in sys.meta_path:  # as marimo does with each entry; an entry may be a class
    if not isinstance(f, type):
        f.find_spec = wrap(f.find_spec)
finder.something = 5
finder.__module__ = "mine"
import sched
import concurrent.futures.thread
assert {"sched", "concurrent.futures.thread"} <= set(asked)
with memcg.group("a"), concurrent.futures.ThreadPoolExecutor(1) as pool:
    assert pool.submit(lambda: memcg.current().path).result() == "a"
del finder.find_spec
assert finder.find_spec("anything") is None
""",
        prelude=BARE,
    )


def test_the_finder_leaves_when_nothing_is_waited_for(run_program):
    run_program(
        FINDER
        + """
memcg.install()
assert len(finders()) == 1
others = [f for f in sys.meta_path if f not in finders()]
mine = type("Mine", (), {"find_spec": lambda *args: None})()
sys.meta_path.append(mine)
going_through = iter(sys.meta_path)
next(going_through)
import_all_but()
import numpy
assert memcg.hooks._waiting == {} and finders() == []
assert sys.meta_path == [*others, mine] == list(going_through)
import sched
with memcg.group("a") as a:
    array = numpy.zeros(10**6)
    assert a.current > array.nbytes
""",
        prelude=BARE,
    )


def test_the_finder_is_not_there_when_all_was_imported_before(run_program):
    run_program(
        FINDER
        + """
import concurrent.futures.thread, multiprocessing.pool, numpy
before = list(sys.meta_path)
memcg.install()
import_all_but()
assert sys.meta_path == before
""",
        prelude=BARE,
    )


@pytest.mark.parametrize("name", ["numpy.core._multiarray_umath", "numpy._core._multiarray_umath"])
def test_numpys_other_name_is_not_waited_for(run_program, name):
    run_program(
        FINDER
        + f"""
memcg.install()
import warnings
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import {name}
assert not [waiting for waiting in memcg.hooks._waiting if waiting.startswith("numpy")]
""",
        prelude=BARE,
    )


def test_a_module_that_is_looked_for_or_fails_is_hooked_when_it_is_imported(run_program):
    run_program(
        FINDER
        + """
import importlib.util
memcg.install()
name = "concurrent.futures.thread"
for _ in range(3):
    assert importlib.util.find_spec(name).name == name
sys.modules["queue"] = None  # the import fails without it
try:
    import concurrent.futures.thread
    raise SystemExit("imported")
except ImportError:
    del sys.modules["queue"]
from concurrent.futures.thread import ThreadPoolExecutor
with memcg.group("a"), ThreadPoolExecutor(1) as pool:
    assert pool.submit(lambda: memcg.current().path).result() == "a"
    assert pool.submit.__qualname__.count("take_bound") <= 1
assert name not in memcg.hooks._waiting
""",
        prelude=BARE,
    )


def test_a_thread_that_imports_while_the_finder_leaves_passes_over_no_other(run_program):
    run_program(
        FINDER
        + """
import threading
memcg.install()
[finder] = finders()
asked, gone, failed = threading.Event(), threading.Event(), []
class Slow:
    def find_spec(self, name, path=None, target=None):
        asked.set()
        assert gone.wait(timeout=30)
from _frozen_importlib import BuiltinImporter
sys.meta_path.insert(sys.meta_path.index(BuiltinImporter), Slow())
name = next(n for n in sys.builtin_module_names if n not in sys.modules)  # found by the next finder
def imports():
    try:
        __import__(name)
    except BaseException as error:
        failed.append(error)
thread = threading.Thread(target=imports); thread.start()
assert asked.wait(timeout=30)
finder.leave()
gone.set()
thread.join()
assert not failed and not finders(), failed
""",
        prelude=BARE,
    )
