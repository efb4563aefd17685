# SPDX-License-Identifier: Apache-2.0
"""A process with groups can start processes: none hangs, and the figures of both are right."""

from __future__ import annotations

import pytest

POOL = """
def work(n):
    g = memcg.group("work", max="16MiB")
    with g:
        rows = [str(i) * 10 for i in range(n)]
        inside = g.current
    try:
        with g:
            rows = []
            for _ in range(10**9): rows.append([bytes(1000)])
        told = False
    except MemoryError:
        told = True
    rows = None
    return told, inside > 0, memcg.current().path, os.getpid()
"""


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_pools_of_processes_work_and_their_hogs_get_the_error(run_program, method):
    shown = run_program(
        POOL
        + f"""
if __name__ == "__main__":
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor
    parent = memcg.group("parent", max="64MiB")
    with parent:
        held = [bytes(1000) for _ in range(1000)]
    before = parent.current
    assert before > 10**6
    context = multiprocessing.get_context({method!r})
    with context.Pool(2) as pool:
        results = pool.map(work, [100] * 6)
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        results += list(pool.map(work, [100] * 4))
    process = context.Process(target=work, args=(10,))
    process.start(); process.join(30)
    q = context.Queue()
    process = context.Process(target=q.put, args=({{"text": "x" * 100_000}},))
    process.start()
    assert len(q.get(timeout=30)["text"]) == 100_000
    process.join(30)
    here = memcg.group("work")
    show(results=results, exit=process.exitcode, here=os.getpid(), same=parent.current == before,
         events=dict(memcg.root.events))
""",
    )
    assert len(shown["results"]) == 10
    for told, charged, path, pid in shown["results"]:
        assert (told, charged, path) == (True, True, "")
        assert pid != shown["here"]
    assert shown["exit"] == 0
    assert shown["same"]
    assert not any(shown["events"].values())


def test_forks_work_while_threads_allocate(run_program, record_property):
    shown = run_program(
        """
    import faulthandler, random
    import numpy as np
    frames = memcg.KmemCache("frame", 3000)
    stop, errors, rounds = threading.Event(), [], [0] * 5
    def churn(i, g):
        rng, told = random.Random(i), 0
        try:
            while not stop.is_set():
                try:
                    with g:
                        rows = [str(n) for n in range(rng.randrange(3000))]
                        array = np.ones(rng.randrange(50_000))
                        buffers = [frames.alloc() for _ in range(20)]
                        if i == 4:
                            for _ in range(10**9):
                                if stop.is_set(): break
                                rows.append([bytes(500)])
                except MemoryError:
                    told += 1
                rows = array = buffers = None
                rounds[i] += 1
        except BaseException as error:
            errors.append(repr(error))
    groups = [memcg.group(f"g{i}", max="4MiB") for i in range(5)]
    mine = memcg.group("mine")
    with mine:
        held = bytes(MIB)
    threads = [threading.Thread(target=churn, args=(i, groups[i])) for i in range(5)]
    for t in threads: t.daemon = True; t.start()
    def child():
        faulthandler.dump_traceback_later(20, exit=True)
        assert mine.current >= MIB
        new = memcg.group("new", max="2MiB", high="max")
        with new:
            rows = [str(i) for i in range(2000)]
            more = np.ones(10_000)
        assert new.current >= 80_000 + 2000 * 48, new.current
        del rows, more
        new.reclaim()
        assert new.current < 64 * 1024, new.current
        try:
            with new:
                rows = []
                for _ in range(10**9): rows.append([bytes(1000)])
            return 3
        except MemoryError:
            pass
        rows = None
        with groups[0]:  # the group of a thread that the child does not have
            texts = [str(i) for i in range(500)]
            assert memcg.root.current >= groups[0].current > 0
        buffer = frames.alloc(); frames.free(buffer)
        assert memcg.root.current >= mine.current
        new.close()
        assert new.current == 0
        return 0
    forked = 0
    start = time.monotonic()
    sys.setswitchinterval(1e-4)
    while forked < 200 and time.monotonic() - start < 5:
        for _ in range(5):
            if os.fork() == 0:
                try: code = child()
                except BaseException as error: print(repr(error), file=sys.stderr); code = 4
                sys.stderr.flush()
                os._exit(code)
        for _ in range(5):
            status = os.wait()[1]
            assert status == 0, (forked, status)
            forked += 1
        assert mine.current >= MIB and not any(mine.events.values())
    stop.set()
    for t in threads: t.join(20)
    assert not any(t.is_alive() for t in threads) and not errors, errors
    gc.collect(); memcg.root.reclaim()
    left = [sum(size for _, size, _ in memcg.core.live_blocks(g)) for g in groups]
    frames.destroy()  # no buffer was lost
    show(forked=forked, rounds=min(rounds), left=left)
    """,
        options=["-W", "ignore::DeprecationWarning"],  # 3.12 warns about the program's own threads
    )
    record_property("forks", shown["forked"])
    assert shown["forked"] >= 10  # each fork waits until no worker is at work
    assert shown["rounds"] >= 1
    assert max(shown["left"]) <= 64 * 1024, shown


def test_parent_and_child_free_the_same_blocks_each_for_itself(run_program):
    assert run_program("""
    g = memcg.group("g")
    with g:
        held = [bytes(2000) for _ in range(2000)]
    both = g.current
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        held.clear(); g.reclaim()
        os.write(writer, str(g.current).encode()); os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert g.current == both > 4_000_000
    held.clear(); g.reclaim()
    show(result=[int(os.read(reader, 100)), g.current])
    """)["result"] == pytest.approx([0, 0], abs=65_536)


def test_a_fork_in_a_thread_makes_it_the_main_thread_and_alarms_go_on(run_program):
    assert run_program(
        """
    def child():
        g = memcg.group("g", max="1MiB", high="max")
        told = 0
        def hog():
            rows = []
            with g:
                for _ in range(10**9): rows.append([bytes(100)])
        for where in [in_main, in_thread] * 5:
            try: where(hog)
            except MemoryError: told += 1
        return told
    def fork():
        with memcg.group("outer", max="64MiB"):
            pid = os.fork()
            if pid == 0:
                try: os._exit(child())
                except BaseException: os._exit(99)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    show(result=[in_thread(fork), in_main(fork), in_thread(fork)])
    """,
        options=["-W", "ignore::DeprecationWarning"],
    )["result"] == [10, 10, 10]


def test_a_fork_works_while_an_alarm_is_on_its_way(run_program):
    assert (
        run_program("""
    g = memcg.group("g", max="1MiB", high="max")
    told = 0
    for _ in range(50):
        try:
            with g:
                with memcg.shield():
                    rows = [[bytes(500)] for _ in range(2500)]
                    pid = os.fork()
                    if pid == 0:
                        rows = None
                        with memcg.group("other", max="16MiB"):
                            texts = [str(i) for i in range(1000)]
                        os._exit(0)
                    assert os.waitpid(pid, 0)[1] == 0
        except memcg.MemcgOOM:
            told += 1
        rows = None
    show(result=told)
    """)["result"]
        == 50
    )


WARNS = """
import os, subprocess, sys, threading
if sys.argv[1] == "memcg":
    import memcg; memcg.install()
    g = memcg.group("a", max="2MiB")
    def busy():
        try:
            with g:
                rows = []
                for _ in range(10**9): rows.append([bytes(200)])
        except MemoryError:
            pass
else:
    def busy(): rows = [[bytes(200)] for _ in range(5000)]
for n in range(40):
    busy()
    if n % 2:
        thread = threading.Thread(target=busy); thread.start(); thread.join()
    pid = os.fork()
    if pid == 0: os._exit(0)
    os.waitpid(pid, 0)
subprocess.run(["true"], check=True)
subprocess.run(["true"], check=True, preexec_fn=int)
print("ended")
"""


BARE = "import gc, json, os, threading\ndef show(**figures): print(json.dumps(figures))\n"


def test_a_worker_that_is_wanted_while_the_program_forks_starts_after_the_fork(run_program):
    # Since 3.13 os.fork() counts threads after all handlers, and warns if there are several.
    assert run_program("""
    kept, collected = [], threading.Event()
    def past_high():
        with high:
            kept.append([bytes(500) for _ in range(400)])
    os.register_at_fork(before=past_high)
    import memcg; memcg.install()
    os.register_at_fork(after_in_parent=lambda: [str(i) for i in range(100)])
    gc.disable()  # only the worker collects
    gc.callbacks.append(lambda phase, info: collected.set())
    high = memcg.group("high", high="64KiB")
    for _ in range(20):
        collected.clear()
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        assert collected.wait(10)
        kept.clear()
    show(result=high.events["high"])
    """, prelude=BARE)["result"] == 20  # fmt: skip


def test_a_fork_at_rest_warns_no_more_than_plain_python(run_program):
    for which in ("plain", "memcg"):
        assert run_program(WARNS, which, prelude="", options=["-W", "error"]) == "ended\n"


def test_a_subprocess_of_a_group_has_no_limit(run_program):
    shown = run_program("""
    import subprocess
    g = memcg.group("g", max="32MiB")
    with g:
        out = subprocess.run([sys.executable, "-c", "print(len(bytes(64 << 20)))"],
                             capture_output=True, text=True, check=True)
        piped = subprocess.run(["cat"], input="x" * 500_000, capture_output=True, text=True)
        many = [subprocess.Popen(["true"]) for _ in range(10)]
        codes = [process.wait(20) for process in many]
    show(out=out.stdout, err=out.stderr, piped=len(piped.stdout), codes=codes, oom=g.events["oom"])
    """)
    # the child of a group is a process of its own and has no limit
    assert shown == {"out": "67108864\n", "err": "", "piped": 500_000, "codes": [0] * 10, "oom": 0}


def test_the_child_of_a_run_program_ends_like_its_parent(run_program, tmp_path):
    script = tmp_path / "forks.py"
    script.write_text(
        "import os, sys\npid = os.fork()\n"
        "if pid == 0:\n    rows = [str(i) for i in range(1000)]; sys.exit(7)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))\n"
    )
    launcher = tmp_path / "launch.py"
    launcher.write_text(
        "import json, subprocess, sys\n"
        "done = subprocess.run([sys.executable, '-m', 'memcg', 'run', '--max', '64MiB', "
        f"'--report', {str(script)!r}], capture_output=True, text=True)\n"
        "print(json.dumps([done.returncode, done.stdout, done.stderr.count('memcg: charged')]))\n"
    )
    assert run_program(launcher) == [0, "7\n", 1]  # one report, by the process that was started


def test_a_fork_does_not_wait_for_a_control_plane_that_was_set_anew(run_program):
    shown = run_program(
        """
from memcg import core; from memcg.control import workqueue
core.set_waker(workqueue.wake, workqueue.work)
pid = os.fork()
if not pid: os._exit(7)
show(exit=os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
""",
        timeout=20,
    )
    assert shown["exit"] == 7


def test_no_worker_starts_while_workers_are_held_and_then_those_that_were_due(run_program):
    run_program(
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


def test_workers_are_held_while_a_fork_is_on_its_way(run_program):
    run_program(
        """
    import time
    from memcg.control import fork
    busy, held = memcg.group("busy"), []
    fork._before_fork()
    with busy:
        held.append([[i] for i in range(30_000)])  # asks for child caches
    fork._release_mutexes()  # otherwise a worker would only wait
    for _ in range(20):
        memcg.core.wait_worker(); time.sleep(0.005)
        assert not busy.memcg_slab_caches
    fork._after_fork()
    for _ in range(4000):  # the main thread starts the worker at one of its next checks
        time.sleep(0.005); memcg.core.wait_worker()
        if busy.memcg_slab_caches: break
    assert busy.memcg_slab_caches
    """
    )


def test_a_fork_at_rest_in_a_program_with_groups_warns_of_nothing(run_program):
    run_program(
        """
    import os, subprocess
    g = memcg.group("a", max="16MiB")
    with g:
        rows = [[i] for i in range(50_000)]  # child caches are made, by a worker that ends
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert subprocess.run(["true"]).returncode == 0
    """,
        options=["-W", "error"],
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
def test_a_program_ends_cleanly_with_live_groups_arrays_and_threads(
    run_program, options, environment
):
    run_program(
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
        options=options,
        **environment,
    )
