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
