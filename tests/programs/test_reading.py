# SPDX-License-Identifier: Apache-2.0
"""Freed memory is in no group's `current`, no matter which thread freed it and where that is."""

from __future__ import annotations

from functools import partial

import pytest

# A thread that does its jobs, in a group or not, and then waits.
HAND = """
import memcg; memcg.install()
import gc, queue, threading
from contextlib import nullcontext
class Hand:
    def __init__(self):
        self.asked, self.done = queue.Queue(), queue.Queue()
        self.thread = threading.Thread(target=self.work, daemon=True); self.thread.start()
    def work(self):
        while (job := self.asked.get()) is not None:
            self.done.put(job()); del job
    def do(self, job):
        self.asked.put(job)
        return self.done.get(timeout=20)
    def end(self):
        self.asked.put(None); self.thread.join(20)
def rows():
    return [{"k": [i] * 10} for i in range(60_000)]
def made_in(g):
    with g:
        return rows()
MIB = 1 << 20
g = memcg.group("tenant", max="256MiB")
"""


@pytest.fixture
def hands(run_program):
    return partial(run_program, prelude=HAND)


@pytest.mark.parametrize(
    "where", ["outside", "inside"], ids=["the thread has left", "the thread waits inside"]
)
def test_what_the_main_thread_drops_for_a_waiting_thread_is_not_counted(hands, where):
    hands(f"""
    hand, held = Hand(), []
    if {where == "inside"}:
        hand.do(g.__enter__); held = hand.do(rows)
    else:
        held = hand.do(lambda: made_in(g))
    full = g.current
    assert full > 16 * MIB, full
    held = None; gc.collect()
    left = g.current
    assert left < full // 64, (full, left)
    assert g.stat["slab_private"] <= left
    g["memory.peak"] = 0
    assert g.peak < full // 32, (full, g.peak)
    assert g.events["max"] == 0  # no reclaim was needed
    """)


def test_what_idle_threads_of_a_pool_have_freed_is_not_counted(hands):
    hands("""
    hands = [Hand() for _ in range(16)]
    def request():
        with g:
            rows()
    for hand in hands:
        hand.do(request)
    assert g.current < MIB, g.current
    def request_with_an_answer():
        with g:
            answer = rows()
        del answer  # freed outside the group
    for hand in hands:
        hand.do(request_with_an_answer)
    assert g.current < MIB, g.current
    """)


def test_what_a_thread_frees_before_it_reads_is_not_counted(hands):
    hands("""
    with g:
        before = g.current
        kept = rows(); full = g.current - before
        del kept
        assert g.current - before < full // 64, (before, full, g.current)
    """)


def test_what_is_freed_in_a_group_below_is_not_counted(hands):
    hands("""
    low = memcg.group("tenant/a/b")
    hand = Hand()
    held = hand.do(lambda: made_in(low))
    full = g.current
    held = None; gc.collect()
    assert g.current < full // 64, (full, g.current)
    root = memcg.current().current
    assert root < full, (full, root)
    """)


def test_a_limit_sees_what_a_reader_has_collected(hands):
    hands("""
    g.max, g.reserve = "48MiB", "0"
    hand = Hand()
    for _ in range(4):
        held = hand.do(lambda: made_in(g))
        held = None; gc.collect()
        assert g.current < MIB
    assert g.events["max"] == 0, g.events
    """)


def test_a_reader_may_loop_beside_threads_that_allocate_and_free(hands):
    hands("""
    stop, failures = threading.Event(), []
    passed = queue.Queue()
    def work():
        try:
            while not stop.is_set():
                with g:
                    passed.put(rows()[:1000])
                passed.get()
        except BaseException as error:
            failures.append(error)
    threads = [threading.Thread(target=work) for _ in range(3)]
    for t in threads: t.start()
    for _ in range(2000):
        assert g.current >= 0 and g.stat["slab_shared"] >= 0
    stop.set()
    for t in threads: t.join(20)
    passed = None; gc.collect()
    assert not failures and g.current < MIB, (failures, g.current)
    """)


def test_the_child_of_a_fork_reads_what_its_parents_threads_had(hands):
    hands("""
    import os, warnings
    warnings.simplefilter("ignore")
    hand = Hand()
    held = hand.do(lambda: made_in(g))
    full = g.current
    if not (pid := os.fork()):
        held = None; gc.collect()
        os._exit(g.current > full // 64)
    assert os.waitpid(pid, 0)[1] == 0
    assert g.current > full // 2
    held = None; gc.collect()
    assert g.current < full // 64
    """)


def test_a_deep_tree_is_read_and_closed_by_a_thread_with_a_small_stack(hands):
    hands("""
    low = memcg.group("tenant/" + "/".join("a" * 2000))
    with low:
        block = bytes(MIB)
    def work():
        for top in (memcg.current(), g, low):
            assert top.current >= MIB and top.stat and top.events and top.peak
        g.reclaim()
        g.close(recursive=True)
        done.append(g.online)
    done = []
    threading.stack_size(64 << 10)
    thread = threading.Thread(target=work); thread.start(); thread.join()
    assert done == [False]
    """)
