"""The alarm reaches the offender: not the loop, not a neighbour, not a library with locks."""

from __future__ import annotations

import pytest

WHERE = pytest.mark.parametrize("where", ["main", "thread"])
RUN = """
import asyncio, queue, sys, threading, time
a, b = memcg.group("a", max="20MiB"), memcg.group("b", max="20MiB")
def everywhere(fn):
    if {where!r} == "main":
        return fn()
    raised = []
    def run():
        try:
            fn()
        except BaseException as error:
            raised.append(error)
    thread = threading.Thread(target=run); thread.start(); thread.join()
    if raised:
        raise raised[0]
"""


@pytest.fixture
def alarm(program):
    def run(code, where="main", *options, **kwargs):
        from textwrap import dedent

        return program(RUN.format(where=where) + dedent(code), *options, **kwargs)

    return run


TASKS = """
import numpy as np
async def objects(log):
    try:
        with a:
            rows = []
            while True:
                rows.append([bytes(100) for _ in range(1000)])
                future = asyncio.get_running_loop().create_future()
                asyncio.get_running_loop().call_soon(future.set_result, None)
                await future
    except MemoryError:
        log.append("oom")
async def arrays(log):
    try:
        with a:
            rows, one = [], np.ones(7000)
            while True:
                rows.append(one + one)
                await asyncio.sleep(0)
    except MemoryError:
        log.append("oom")
async def neighbour(log):
    with b:
        for i in range(200):
            texts = [str(j) for j in range(500)]
            await asyncio.sleep(0)
        log.append("ok")
def check():
    for offender in (objects, arrays):
        for _ in range(10):
            log = []
            async def main():
                await asyncio.gather(offender(log), neighbour(log), neighbour(log))
            run(main())
            assert sorted(log) == ["ok", "ok", "oom"], log
            assert b.events["oom_kill"] == 0
everywhere(check)
"""


@WHERE
def test_a_task_that_suspends_gets_it_and_its_neighbours_and_the_loop_do_not(alarm, where):
    alarm("run = asyncio.run\n" + TASKS, where)


@WHERE
def test_uvloop_is_not_hit(alarm, where):
    pytest.importorskip("uvloop", reason="uvloop has no wheel for this Python")
    alarm("import uvloop\nrun = uvloop.run\n" + TASKS, where)


@WHERE
def test_leaving_takes_it_back_and_raises_it(alarm, where):
    alarm(
        """
    def check():
        for _ in range(20):
            try:
                with a:
                    rows = [[1] for _ in range(300_000)]
                raise SystemExit("lost")
            except MemoryError as error:
                assert "group 'a'" in str(error) + "".join(getattr(error, "__notes__", []))
            rows = None
        for _ in range(1000):
            [None] * 10  # nothing comes after leaving
    everywhere(check)
    """,
        where,
    )


@WHERE
def test_garbage_is_no_reason_to_raise_at_leaving(alarm, where):
    alarm(
        """
    import gc, time
    def garbage(n):
        for i in range(n):
            node = [i] * 60
            node.append(node)
    def check():
        gc.disable()
        g = memcg.group("garbage", max="8MiB", high=(8 << 20) - 4096)  # passed at once
        for _ in range(10):
            with g, memcg.shield():
                garbage(8000)
                time.sleep(0.05)  # what asked for reclaim is dealt with
                garbage(30_000)
            time.sleep(0.01)
        gc.enable()
        assert g.events["oom_kill"] == 0 and g.events["oom"] > 0
    everywhere(check)
    """,
        where,
    )


@WHERE
def test_a_shield_defers_it_to_its_end(alarm, where):
    alarm(
        """
    def check():
        with a:
            for _ in range(5):
                rows, shielded = [], False
                try:
                    with memcg.shield():
                        for n in range(300_000):
                            rows = [rows, n]  # small ones only: none is refused
                        shielded = True
                    for _ in range(10**9):
                        pass
                except memcg.MemcgOOM:
                    pass
                assert shielded
                rows = None
    everywhere(check)
    """,
        where,
    )


@WHERE
def test_locks_of_libraries_are_free_afterwards(alarm, where):
    alarm(
        """
    def hog(step):
        try:
            with a:
                while True:
                    step()
        except MemoryError:
            pass
    def check():
        for _ in range(5):
            q = queue.Queue()
            hog(lambda: q.put([bytes(200) for _ in range(10)]))
            while not q.empty():
                q.get_nowait(); q.task_done()
            q.put(1); assert q.get(timeout=1) == 1; q.task_done()
            assert q.mutex.acquire(timeout=1); q.mutex.release()
            semaphore, held = threading.Semaphore(3), []
            def with_semaphore():
                with semaphore:
                    held.append(bytes(300))
            hog(with_semaphore)
            held.clear()
            assert all(semaphore.acquire(timeout=1) for _ in range(3))
            condition = threading.Condition()
            def with_condition():
                with condition:
                    condition.notify()
                held.append(bytes(300))
            hog(with_condition)
            held.clear()
            assert condition.acquire(timeout=1); condition.release()
    everywhere(check)
    """,
        where,
    )


def test_frames_are_looked_at_and_threads_started_meanwhile(alarm):
    alarm("""
    stop = threading.Event()
    def look():
        while not stop.is_set():
            sys._current_frames()
    watcher = threading.Thread(target=look); watcher.start()
    for _ in range(10):
        try:
            with a:
                rows = []
                while True:
                    thread = threading.Thread(target=int); thread.start(); thread.join()
                    rows.append([bytes(1000) for _ in range(2000)])
        except MemoryError:
            rows = None
    stop.set(); watcher.join()
    """)


def test_a_thread_that_waits_for_a_lock_gets_it_when_it_goes_on(alarm):
    alarm("""
    lock, ready, seen = threading.Lock(), threading.Event(), []
    def offender():
        try:
            with a:
                rows = [[1] for _ in range(300_000)]
                ready.set()
                with lock:
                    for _ in range(10**7):
                        pass
        except MemoryError:
            seen.append(threading.current_thread())
    for _ in range(3):
        ready.clear()
        with lock:
            thread = threading.Thread(target=offender); thread.start()
            while not ready.is_set() and not seen: time.sleep(0.01)
            time.sleep(0.05)
        thread.join(20)
        assert seen.pop() is thread and lock.acquire(timeout=1)
        lock.release()
    """)


def test_a_generator_of_the_group_gets_it(alarm):
    alarm("""
    def rows():
        held = []
        while True:
            held.append([len(held)])
            yield held[-1]
    try:
        for _ in a.iterate(rows()):
            assert memcg.current() is memcg.root
        raise SystemExit("lost")
    except MemoryError:
        pass
    """)
