# SPDX-License-Identifier: Apache-2.0
"""Other interpreters of the process allocate for the root, also when a group calls them."""

from __future__ import annotations

import sys

import pytest

pytestmark = pytest.mark.skipif(
    sys.version_info < (3, 14), reason="concurrent.interpreters is new in 3.14"
)

# A job is sent to another interpreter by the name of its module.
JOBS = """
def make(n): return len(bytes(n))
def fill(): return [bytes(1000) for _ in range(20_000)]
def fail(n): return bytes(n)[n]
"""
START = """
from concurrent import interpreters
from concurrent.futures import InterpreterPoolExecutor
import jobs
g = memcg.group("g", max="16MiB")
"""


@pytest.fixture
def run(run_program, tmp_path):
    (tmp_path / "jobs.py").write_text(JOBS)
    return lambda source: run_program(START + source)


def test_what_another_interpreter_makes_is_the_roots(run):
    run(
        """
before = memcg.root.current
with g:
    other = interpreters.create()
    other.prepare_main(path=sys.path[0])
    other.exec("import sys; sys.path.insert(0, path); import jobs")
    other.exec("kept = jobs.fill(), bytes(32 << 20)")
    assert memcg.current() is g and g.current < MIB, g.current
    assert memcg.root.current - before > 50 * MIB
    assert other.call(jobs.make, 64 * MIB) == 64 * MIB
    thread = other.call_in_thread(jobs.make, 64 * MIB); thread.join()
    assert memcg.current() is g
    own = bytes(4 * MIB)
    assert 4 * MIB < g.current < 5 * MIB, g.current
    other.exec("del kept")
    other.close()
assert memcg.root.current - before < 8 * MIB and g.events["fail"] == 0
assert g.nr_inside == 0
g.close()
"""
    )


def test_a_full_group_calls_other_interpreters_and_is_refused_a_new_one(run):
    run(
        """
other = interpreters.create()
with g:
    kept = []
    try:
        while True: kept.append(bytes(1 << 17))
    except MemoryError: pass
    assert other.call(jobs.make, 64 * MIB) == 64 * MIB
    try: interpreters.create()  # its structure is more than 64 KiB
    except interpreters.InterpreterError as error:
        while error.__context__: error = error.__context__
        assert type(error) is MemoryError, error
    else: raise SystemExit("created")
    items = interpreters.create_queue()
    items.put(kept[0])
    try: items.put(bytes(MIB))
    except MemoryError: pass
    else: raise SystemExit("made")
    assert len(items.get()) == 1 << 17
    assert memcg.current() is g
other.close()
interpreters.create().close()
"""
    )


def test_jobs_of_an_interpreter_pool_can_be_submitted_in_a_group(run):
    run(
        """
with g:
    with InterpreterPoolExecutor(2) as pool:
        assert pool.submit(jobs.make, 64 * MIB).result(30) == 64 * MIB
        assert list(pool.map(jobs.make, range(5))) == list(range(5))
        try: pool.submit(jobs.fail, 5).result(30)
        except IndexError: pass
        else: raise SystemExit("no error")
    assert memcg.current() is g
assert g.current < 4 * MIB and g.events["fail"] == 0 and g.nr_inside == 0
"""
    )
