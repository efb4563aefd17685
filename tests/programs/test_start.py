# SPDX-License-Identifier: Apache-2.0
"""Importing and installing read few modules; libraries are hooked whenever they are imported."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from environment import SOURCE


def bare(program: str) -> str:
    """Return what a program prints without an environment and without site, which imports."""
    program = f"import sys\nsys.path.insert(0, {str(SOURCE)!r})\n{program}"
    run = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


def added(statements: str) -> set[str]:
    """Return the modules that `statements` read from files, without memcg's own.

    A module that is built into CPython or frozen costs neither a file nor a compiled body.
    """
    program = f"""
before = set(sys.modules)
{statements}
for name in set(sys.modules) - before:
    spec = vars(sys.modules[name]).get("__spec__")
    if spec and spec.has_location and not spec.origin.startswith({str(SOURCE)!r}):
        print(name)
"""
    return set(bare(program).split())


def test_installing_reads_no_module_of_the_standard_library_but_one(native):
    assert added("import memcg; memcg.install(); memcg.group('a', max='1GiB').close()") == {
        "__future__"
    }


@pytest.mark.parametrize("module", ["typing", "threading", "re"])
def test_a_module_that_is_read_is_seen(module):
    assert module in added(f"import {module}")


def test_what_few_programs_need_is_not_read_by_installing(native):
    bare(
        """
import memcg; memcg.install(); memcg.group("a", max="1GiB").close()
rarely = {"memcg.cache", "memcg.core.fault_attr", "memcg.report", "memcg.locking.lockless"}
rarely.add("_tracemalloc")
assert not rarely & set(sys.modules), rarely & set(sys.modules)
"""
    )


def test_what_few_programs_need_is_read_when_it_is_used(run_program):
    run_program(
        """
import sys
from memcg import *
assert KmemCache is memcg.KmemCache is sys.modules["memcg.cache"].KmemCache
from memcg.locking import Atomic
assert Atomic is sys.modules["memcg.locking.lockless"].Atomic
for module in (memcg, sys.modules["memcg.locking"]):
    try:
        module.nothing
    except AttributeError as error:
        assert str(error) == f"module {module.__name__!r} has no attribute 'nothing'"
    else:
        raise AssertionError(module)
""",
        prelude="import memcg; memcg.install()\n",
    )


def test_the_first_use_of_a_cache_charges_no_group_for_reading_the_file(run_program):
    run_program(
        """
with memcg.group("a", max="1GiB") as g:
    before = g.current
    memcg.KmemCache
    assert g.current - before < 4096, g.current - before  # the file's code is 20 KiB
""",
        prelude="import memcg; memcg.install()\n",
    )


def test_the_import_finder_has_a_module_as_others_have(run_program):
    run_program(
        "import sys\nassert sys.meta_path[0].__module__ == 'memcg.hooks'\n",
        prelude="import memcg; memcg.install()\n",
    )


INHERITS = """
from concurrent.futures import ThreadPoolExecutor
seen = []
look = lambda: seen.append(memcg.current().path)
with memcg.group("a"), ThreadPoolExecutor(1) as pool:
    thread = threading.Thread(target=look); thread.start(); thread.join()
    pool.submit(look).result()
assert seen == ["a", "a"], seen
"""


@pytest.mark.parametrize("before", ["", "import threading", "import concurrent.futures.thread"])
def test_libraries_are_hooked_whenever_they_are_imported(run_program, before):
    install = "import memcg; memcg.install()"
    run_program(f"{before}\n{install}\nimport threading\n{INHERITS}", prelude="")


def test_a_loader_that_modules_share_hooks_those_that_were_asked_for(run_program, tmp_path):
    library = tmp_path / "library.zip"
    with zipfile.ZipFile(library, "w") as archive:
        for name in ("threading.py", "concurrent/futures/thread.py"):
            archive.write(Path(os.__file__).parent / name, name)
        archive.writestr("neighbour.py", "_start_new_thread = None")
    run_program(
        f"import sys; sys.path.insert(0, {str(library)!r})\n"
        "import memcg; memcg.install()\nimport threading, neighbour\n"
        f"import concurrent.futures as futures\n"
        f"futures.__path__[:] = [{str(library / 'concurrent/futures')!r}]\n"
        "assert 'library.zip' in threading.__file__ and neighbour._start_new_thread is None\n"
        + INHERITS
        + "assert 'library.zip' in sys.modules['concurrent.futures.thread'].__file__\n",
        prelude="",
    )
