# SPDX-License-Identifier: Apache-2.0
"""A fork in a program with locks and fork hooks waits for no thread that waits for the fork."""

from __future__ import annotations

import pytest

# The lock is held while the process forks, as logging and random do with theirs.
LOCK = """
import os, sys, threading, time, warnings
warnings.simplefilter("ignore")
lock = threading.Lock()
def register():
    os.register_at_fork(
        before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release
    )
"""
FORKS = """
def forks(n, child):
    for _ in range(n):
        if not (pid := os.fork()):
            try:
                child()
            except BaseException:
                sys.excepthook(*sys.exc_info())
                os._exit(1)
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
"""
IMPORT = "import memcg; memcg.install(); MIB = 1 << 20\n"


@pytest.mark.parametrize("order", ["before memcg", "after memcg"])
def test_a_fork_may_hold_a_lock_under_which_groups_are_made_and_closed(run_program, order):
    first, second = (
        ("register()\n", IMPORT) if order == "before memcg" else (IMPORT, "register()\n")
    )
    run_program(
        """
    stop = False
    def work():
        while not stop:
            with lock:
                with memcg.scope("a"): pass
            time.sleep(0)
    def work_without():
        while not stop:
            with memcg.scope("b") as g:
                blocks = [bytes(500) for _ in range(1000)]
            del blocks
    threads = [threading.Thread(target=t) for t in (work, work_without)]
    for t in threads: t.start()
    def child():
        with memcg.scope("a") as g:
            blocks = bytes(MIB)
        for name in list(memcg.current().children):
            memcg.group(name).close(recursive=True, wait=0)
    forks(100, child)
    stop = True
    for t in threads: t.join(20)
    """,
        prelude=LOCK + first + second + FORKS,
    )


def test_a_fork_may_hold_a_lock_that_a_shrinker_takes(run_program):
    run_program(
        """
    g = memcg.group("a", max="64MiB", high="8MiB")
    begun, ended = threading.Event(), threading.Event()
    @g.shrinker
    def shrink(n):
        if begun.is_set(): return
        begun.set()
        while not lock.locked(): time.sleep(0.001)  # until the fork holds it
        with lock:
            kept.clear()
        ended.set()
    with g:
        kept = [bytes(MIB // 32) for _ in range(300)]
    assert begun.wait(20)
    forks(1, lambda: memcg.group("b").close())
    assert ended.wait(20)
    forks(1, lambda: memcg.group("b").close())
    """,
        prelude=LOCK + IMPORT + "register()\n" + FORKS,
    )


def test_a_fork_may_hold_a_lock_that_a_finalizer_takes_in_the_middle_of_our_own_work(run_program):
    run_program(
        """
    from memcg.control.cgroup import cgroup_mutex
    inside, forked = threading.Event(), threading.Event()
    def work():
        with cgroup_mutex:
            inside.set()
            while not lock.locked(): time.sleep(0.001)
            with lock: pass
        memcg.group("a").close()
    os.register_at_fork(before=lock.acquire, after_in_parent=lock.release,
                        after_in_child=lock.release)
    thread = threading.Thread(target=work); thread.start()
    inside.wait(20)
    def child():
        memcg.group("b").close()
        with memcg.scope("a"): pass
    forks(1, child)
    thread.join(20)
    assert not thread.is_alive()
    """,
        prelude=LOCK + IMPORT + FORKS,
    )


INSIDE = """
import contextlib, queue
def held_in(*groups):
    told, over = queue.SimpleQueue(), threading.Event()
    def be_inside():
        with contextlib.ExitStack() as stack:
            for g in groups: stack.enter_context(g)
            told.put(1); over.wait(20)
    thread = threading.Thread(target=be_inside)
    thread.start(); told.get(timeout=20)
    return thread, over
"""


def test_a_child_can_close_what_only_threads_that_it_lacks_were_in(run_program):
    run_program(
        """
    import contextvars
    a, b, c, d = (memcg.group(name) for name in ("a", "a/b", "c", "d"))
    thread, over = held_in(a, b, b)
    with c: other, over_too = held_in(b)  # it began in c, which it was not told to enter
    def nested():
        with d: contextvars.copy_context().run(inner)
    def inner():
        with a: told.put(1); over.wait(20)
    told = queue.SimpleQueue()
    third = threading.Thread(target=nested); third.start(); told.get(timeout=20)
    assert (a.nr_inside, b.nr_inside, c.nr_inside, d.nr_inside) == (2, 3, 0, 1)
    def child():
        assert (a.nr_inside, b.nr_inside, c.nr_inside, d.nr_inside) == (0, 0, 0, 0)
        with b: pass
        for group in c, d: group.close()
        a.close(recursive=True)
        assert not (a.online or b.online or c.online or d.online)
    forks(3, child)
    assert (a.nr_inside, b.nr_inside, c.nr_inside, d.nr_inside) == (2, 3, 0, 1)
    over.set(); over_too.set()
    for t in (thread, other, third): t.join(20)
    assert (a.nr_inside, b.nr_inside, c.nr_inside, d.nr_inside) == (0, 0, 0, 0)
    a.close(recursive=True); c.close(); d.close()
    """,
        prelude=LOCK + IMPORT + FORKS + INSIDE,
    )


def test_a_child_stays_where_the_thread_that_forked_was_and_keeps_suspended_work(run_program):
    run_program(
        """
    a, b = memcg.group("a"), memcg.group("b")
    thread, over = held_in(a, b)
    async def wait():
        with b: await asyncio.sleep(0)
        return b.nr_inside
    suspended = wait()
    import asyncio, contextvars
    def refused(group):
        try: group.close()
        except memcg.GroupBusy as error: return str(error)
        raise SystemExit("closed")
    def child():
        assert (a.nr_inside, b.nr_inside) == (1, 1), (a.nr_inside, b.nr_inside)
        assert memcg.current() is a and "by thread 'MainThread'" in refused(a)
        assert "is entered 1 times; leave it first" in refused(b)  # by `suspended`
        try: context.run(suspended.send, None)
        except StopIteration as end: assert end.value == 0
        b.close()
    context = contextvars.copy_context()
    context.run(suspended.send, None)
    with a:
        forks(2, child)
        assert (a.nr_inside, b.nr_inside) == (2, 2)
    over.set(); thread.join(20)
    assert (a.nr_inside, b.nr_inside) == (0, 1)
    context.run(suspended.close)
    """,
        prelude=LOCK + IMPORT + FORKS + INSIDE,
    )


def test_an_entry_that_was_left_elsewhere_takes_none_from_the_child(run_program):
    run_program(
        """
    import contextvars
    g = memcg.group("g")
    told, over = queue.SimpleQueue(), threading.Event()
    def enter_only():  # what it enters is left in a copy of its context
        g.__enter__()
        told.put(contextvars.copy_context()); over.wait(20)
    thread = threading.Thread(target=enter_only); thread.start()
    copy = told.get(timeout=20)
    def child():
        assert g.nr_inside == 1, g.nr_inside
        try: g.close()
        except memcg.GroupBusy: pass
        else: raise SystemExit("closed under the thread that is inside")
        g.__exit__(None, None, None)
        g.close()
    g.__enter__()
    copy.run(g.__exit__, None, None, None)
    assert g.nr_inside == 1
    forks(1, child)
    g.__exit__(None, None, None)
    over.set(); thread.join(20)
    """,
        prelude=LOCK + IMPORT + FORKS + INSIDE,
    )
