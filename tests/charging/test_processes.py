"""Forks, pools of processes, exits: no hang, figures right in parent and child."""

from __future__ import annotations

import pytest

SCRIPT = """
import memcg; memcg.install()
import multiprocessing, os, sys
def work(n):
    g = memcg.group("work")
    with g:
        rows = [str(i) for i in range(n)]
        return len(rows), g.current > 0
if __name__ == "__main__":
    with memcg.group("parent"):
        held = [bytes(1000) for _ in range(1000)]
    with multiprocessing.get_context(sys.argv[1]).Pool(2) as pool:
        results = pool.map(work, [1000] * 20)
    assert results == [(1000, True)] * 20, results
    assert memcg.group("parent").current > 10**6
"""


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_pools_of_processes(program, tmp_path, method):
    script = tmp_path / "pool.py"
    script.write_text(SCRIPT)
    program(f"import runpy, sys\nsys.argv = ['pool', {method!r}]\n"
            f"runpy.run_path({str(script)!r}, run_name='__main__')" if method == "fork" else
            f"import subprocess, sys\nsys.exit(subprocess.run([sys.executable, {str(script)!r},"
            f" {method!r}]).returncode)", prelude="")  # fmt: skip


def test_forks_while_threads_allocate(program):
    program(
        """
    import os, threading
    stop = threading.Event()
    def churn(g):
        with g:
            while not stop.is_set():
                rows = [str(i) for i in range(2000)]
    groups = [memcg.group(f"g{i}", max="64MiB") for i in range(3)]
    threads = [threading.Thread(target=churn, args=(g,)) for g in groups]
    for t in threads: t.start()
    for n in range(60):
        pid = os.fork()
        if pid == 0:
            with groups[0]:
                rows = [str(i) for i in range(5000)]
            ok = groups[0].current > 0 and memcg.root.current >= groups[0].current
            os._exit(0 if ok else 1)
        assert os.waitpid(pid, 0)[1] == 0, n
    stop.set()
    for t in threads: t.join()
    """,
        "-W", "ignore::DeprecationWarning",
    )  # fmt: skip  # 3.12 warns of fork among the program's own threads


def test_no_worker_starts_while_workers_are_held_and_then_those_that_were_due(program):
    program(
        """
    import time
    busy, held = memcg.group("busy"), []
    memcg.core.hold_workers(); memcg.core.hold_workers()
    with busy:
        held.append([[i] for i in range(30_000)])  # asks for child caches
    memcg.core.release_workers()
    for _ in range(20):
        memcg.core.wait_worker(); time.sleep(0.005)
        assert not busy.memcg_slab_caches
    memcg.core.release_workers()
    memcg.core.wait_worker()
    assert busy.memcg_slab_caches
    """
    )


def test_workers_are_held_while_a_fork_is_on_its_way(program):
    program(
        """
    import time
    from memcg.control import fork
    busy, held = memcg.group("busy"), []
    fork._before_fork()
    with busy:
        held.append([[i] for i in range(30_000)])  # asks for child caches
    fork._release_mutexes()  # else a worker would only wait
    for _ in range(20):
        memcg.core.wait_worker(); time.sleep(0.005)
        assert not busy.memcg_slab_caches
    fork._after_fork()
    for _ in range(4000):  # the main thread starts it at one of its next checks
        time.sleep(0.005); memcg.core.wait_worker()
        if busy.memcg_slab_caches: break
    assert busy.memcg_slab_caches
    """
    )


def test_a_fork_at_rest_warns_of_nothing(program):
    program(
        """
    import os, subprocess
    g = memcg.group("a", max="16MiB")
    with g:
        rows = [[i] for i in range(50_000)]  # has child caches made: the worker came and went
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert subprocess.run(["true"]).returncode == 0
    """,
        "-W",
        "error",
    )


@pytest.mark.parametrize(
    ("options", "environment"),
    [
        (["-X", "dev", "-W", "ignore::ResourceWarning"], {}),
        ([], {"PYTHONMALLOC": "debug"}),
        ([], {"PYTHONMALLOC": "malloc"}),
        (["-X", "tracemalloc"], {}),
        ([], {"PYTHONMALLOC": "malloc_debug"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_a_program_ends_cleanly_with_live_groups_arrays_and_threads(program, options, environment):
    program(
        """
    import threading, time, tracemalloc
    import numpy as np
    held = []
    def daemon():
        with memcg.group("daemon", max="32MiB"):
            while True:
                held.append([bytes(100), np.ones(10)])
                del held[:-100]
    threading.Thread(target=daemon, daemon=True).start()
    with memcg.group("main", max="64MiB"):
        rows = [np.ones(1000), [str(i) for i in range(10_000)]]
    tracemalloc.start(); more = [str(i) for i in range(1000)]; tracemalloc.stop()
    time.sleep(0.1)
    """,
        *options,
        **environment,
    )
