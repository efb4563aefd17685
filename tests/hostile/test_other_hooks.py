# SPDX-License-Identifier: Apache-2.0
"""Profilers hook what we hook: before us, after us, under load, and while the process ends."""

from __future__ import annotations

import pytest

LOAD = """
import contextlib
def load(n=1):
    for _ in range(n):
        with memcg.group("a") if memcg else contextlib.nullcontext():
            rows = [[bytes(i % 3000), str(i)] for i in range(3000)]
    return rows
class Churn:
    # Threads allocate and free in groups until the end of the block.
    def __enter__(self):
        self.stop, self.rounds = [], [0] * 3
        self.threads = [threading.Thread(target=self.run, args=(i,)) for i in range(3)]
        for t in self.threads: t.start()
    def run(self, i):
        while not self.stop:
            load(); self.rounds[i] += 1
    def __exit__(self, *exc):
        self.stop.append(1)
        for t in self.threads: t.join()
        assert min(self.rounds) > 0
def check():
    import gc
    gc.collect()
    memcg.control.workqueue.flush(); memcg.root.reclaim()
    g = memcg.group("a")
    live = sum(size for _, size, _ in memcg.core.live_blocks(g))
    assert g.current <= 256 * 1024 and live <= g.current, (g.current, live)
"""
BEFORE = "import threading, time, sys, os\nmemcg = None\n" + LOAD
AFTER = "import memcg; memcg.install()\nimport threading, time, sys, os\n" + LOAD

MEMRAY = {"c": "", "c and python": "native_traces=True, trace_python_allocators=True"}


@pytest.fixture
def memray(tmp_path):
    pytest.importorskip("memray")
    numbers = iter(range(100))
    return lambda options: f"memray.Tracker({str(tmp_path / str(next(numbers)))!r}, {options})"


@pytest.mark.parametrize("options", MEMRAY.values(), ids=MEMRAY)
def test_memray_may_start_after_us_and_stop_under_load(survives, memray, options):
    survives(
        f"""
    import memray
    held = load()
    for tracker in ({memray(options)}, {memray(options)}):
        with Churn(), tracker:
            during = load(5)  # blocks from before and during tracing are freed during and after it
            del held
        held = load()
        del during
    del held
    check()
    """,
        prelude=AFTER,
    )


@pytest.mark.parametrize("options", MEMRAY.values(), ids=MEMRAY)
def test_memray_may_run_when_the_process_ends(survives, memray, options):
    survives(
        f"""
    import memray
    held = load()
    tracker = {memray(options)}
    tracker.__enter__()
    def daemon():
        while True: load()
    for _ in range(2): threading.Thread(target=daemon, daemon=True).start()
    during = load(3)
    """,
        prelude=AFTER,
    )


def test_memray_of_the_c_allocators_may_start_before_us_and_stop_after(survives, memray):
    survives(
        f"""
    import memray
    with {memray("")}:
        held = load()
        import memcg
        memcg.install()
        during = load(5)
    after = load()
    del held, during, after
    check()
    """,
        prelude=BEFORE,
    )


def test_memray_of_pythons_allocators_before_us_is_refused_and_then_works(survives, memray):
    """It would put back the allocators from before us, which would then free our blocks."""
    survives(
        f"""
    import memray, tracemalloc
    import memcg as module
    tracemalloc.start(3)
    tracemalloc.stop()
    with {memray("trace_python_allocators=True")}:
        held = load()
        try:
            module.install()
        except module.MemcgError as error:
            assert "hooks of " in str(error) and "_memray" in str(error), error
            assert "install memcg, then start the tool again" in str(error)
        else:
            raise SystemExit("installed")
    memcg = module
    memcg.install()
    with {memray("trace_python_allocators=True")}:
        during = load(5)
    del held, during
    check()
    """,
        prelude=BEFORE,
    )


@pytest.mark.parametrize("started", ["before", "after"])
def test_tracemalloc_may_start_and_stop_under_load(survives, started):
    survives(
        f"""
    import tracemalloc
    if {started == "before"}:
        tracemalloc.start(3)
        held = load()
    import memcg
    memcg.install()
    assert tracemalloc.is_tracing() == {started == "before"}
    held = load(5)
    with Churn():
        for _ in range(5):
            tracemalloc.start(2)
            during = load(3)
            assert tracemalloc.get_traced_memory()[0] > 1_000_000
            tracemalloc.take_snapshot()
            tracemalloc.stop()
            del during
    del held
    check()
    """,
        prelude=BEFORE,
    )
