# SPDX-License-Identifier: Apache-2.0
"""A twin in Python of the mutex in `binding/mutex.c` is explored under every schedule.

The GIL is a mutex of the explorer's, and a waiter's semaphore is an event. A task that releases the
GIL in the middle of its work is a thread that CPython has switched out.
"""

from __future__ import annotations

from functools import partial

import pytest

from memcg.verify import explore, seam


class Interrupted(Exception):
    """The exception that a signal handler raises."""


class Twin:
    def __init__(self, gil, nr_signals, without):
        self.gil, self.nr_signals, self.without = gil, nr_signals, without
        self.depth = 0
        self.asleep = []
        self.awake = self.overdue = self.lent = False

    def wake_one(self):
        if self.asleep and not self.awake:
            self.awake = True
            self.asleep.pop(0).set()

    def sleep_for(self, in_vain, is_main, timed):
        me = seam.Event("woken")
        self.asleep.insert(0 if in_vain else len(self.asleep), me)
        self.gil.release()
        interrupted, late = is_main and self.nr_signals and seam.choose(2), False
        if interrupted:
            self.nr_signals -= 1
        else:
            late = not me.wait(1 if timed and self.without != "counting the time" else -1)
        self.gil.acquire()
        if me in self.asleep:
            self.asleep.remove(me)
        elif self.without != "awake":
            self.awake = False
        if not interrupted:
            return late
        if self.without != "not overdue":
            self.overdue = False
        if not self.depth and self.without != "passing on":
            self.wake_one()
        self.gil.release()  # while the handler runs
        self.gil.acquire()
        if seam.choose(2):
            raise Interrupted
        return False

    def lend(self):
        self.lent = True
        if self.without != "waking when lent":
            self.wake_one()

    def acquire(self, is_main):
        in_vain = False
        if self.depth or self.overdue:
            while True:
                lent = self.lent and self.depth
                if self.sleep_for(in_vain, is_main, lent) and self.lent and self.depth:
                    self.depth = 0
                in_vain = self.overdue = bool(self.depth)
                if not in_vain or self.without == "looking again":
                    break
        assert not self.depth, "two threads hold it"
        self.depth, self.lent = 1, False

    def release(self):
        self.depth, self.lent = 0, False
        if self.without != "waking":
            self.wake_one()


def program(nr_threads, rounds, nr_signals, without=None):
    gil = seam.Mutex("gil")
    mutex = Twin(gil, nr_signals, without)

    def work(is_main):
        with gil:
            for _ in range(rounds):
                try:
                    mutex.acquire(is_main)
                except Interrupted:
                    continue
                gil.release()
                gil.acquire()
                mutex.release()

    seam.parallel(*(partial(work, not i) for i in range(nr_threads)))
    assert not any([mutex.depth, mutex.asleep, mutex.awake, mutex.overdue])


SIZES = [(3, 1, 1), (2, 3, 2), (4, 1, 0), (3, 2, 1)]  # threads, rounds of each thread, signals


@pytest.mark.parametrize("size", SIZES)
def test_no_schedule_loses_a_wake_up_or_lets_two_in(size):
    found = explore(partial(program, *size))
    assert found.failure is None, found.failure


@pytest.mark.parametrize(
    "without", ["waking", "awake", "looking again", "passing on", "not overdue"]
)
def test_each_step_is_needed(without):
    assert any(explore(partial(program, *size, without)).failure for size in SIZES)


def lender(nr_threads, without=None):
    """A task lends the mutex and then waits for a lock under which the others take the mutex."""
    gil, own = seam.Mutex("gil"), seam.Mutex("the program's own")
    mutex = Twin(gil, 0, without)

    def lend():
        with gil:
            mutex.acquire(False)
            gil.release()
            gil.acquire()
            mutex.lend()
        with own, gil:
            if mutex.lent:  # no other task has taken it
                mutex.release()

    def work():
        with own, gil:
            mutex.acquire(False)
            mutex.release()

    seam.parallel(lend, *[work] * (nr_threads - 1))
    assert not any([mutex.depth, mutex.asleep, mutex.awake, mutex.overdue])


@pytest.mark.parametrize("nr_threads", [2, 3])
def test_a_thread_that_lends_a_mutex_keeps_no_other_from_it_for_ever(nr_threads):
    found = explore(partial(lender, nr_threads))
    assert found.failure is None, found.failure


@pytest.mark.parametrize("without", ["counting the time", "waking when lent"])
def test_each_step_of_lending_is_needed(without):
    assert explore(partial(lender, 2, without)).failure
