# SPDX-License-Identifier: Apache-2.0
"""The explorer runs as many schedules as theory says.

`Result.schedules` counts the executions that ran to an end: one for each Mazurkiewicz trace. A
reduction that is not optimal runs more, which are `Result.redundant`.
"""

from __future__ import annotations

import math

import pytest

from memcg.verify import explore, seam


def tasks(*bodies):
    """Make a program that runs each body in a task."""

    def program():
        seam.parallel(*(body() for body in bodies))

    return program


def critical_sections(n):
    def program():
        mutex, order = seam.Mutex("mutex"), []

        def enter(i):
            with mutex:
                order.append(i)

        seam.parallel(*(lambda i=i: enter(i) for i in range(n)))
        return tuple(order)

    return program


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
def test_n_tasks_on_one_lock_give_n_factorial_schedules(n):
    result = explore(critical_sections(n))
    assert (result.schedules, result.redundant) == (math.factorial(n), 0)
    assert len(result.states) == math.factorial(n)
    assert result.passed


def independent_writers(n):
    def program():
        cells = [seam.Published(0) for _ in range(n)]
        seam.parallel(*(lambda cell=cell: cell.store(1) for cell in cells))

    return program


def writers(n):
    def program():
        cell = seam.Published(0)
        seam.parallel(*(lambda i=i: cell.store(i) for i in range(n)))

    return program


def readers_and_a_writer(n):
    def program():
        cell = seam.Published(0)
        seam.parallel(lambda: cell.store(1), *([cell.load] * n))

    return program


def store_buffering():
    x, y = seam.Published(0), seam.Published(0)
    seam.parallel(lambda: (x.store(1), y.load()), lambda: (y.store(1), x.load()))


def message_passing():
    x, y = seam.Published(0), seam.Published(0)
    seam.parallel(lambda: (x.store(1), y.store(1)), lambda: (y.load(), x.load()))


def signal_and_wait():
    event = seam.Event("event")
    seam.parallel(event.set, event.wait, event.wait)


def indexer(n):
    """A shared hash table: figure 2 of Flanagan & Godefroid (POPL 2005)."""

    def program():
        table = [seam.Atomic(0) for _ in range(128)]

        def insert(me):
            for m in range(4):
                w = (m + 1) * 11 + me
                h = (w * 7) % 128
                while not table[h].compare_exchange(0, w):
                    h = (h + 1) % 128

        seam.parallel(*(lambda i=i: insert(i) for i in range(n)))

    return program


def filesystem(n):
    """Inodes and blocks with a lock each: figure 3 of Flanagan & Godefroid (POPL 2005)."""

    def program():
        inodes = [seam.Mutex(f"inode{i}") for i in range(32)]
        blocks = [seam.Mutex(f"block{i}") for i in range(26)]
        inode, busy = [0] * 32, [False] * 26

        def create(me):
            i = me % 32
            with inodes[i]:
                if inode[i] == 0:
                    b = (i * 2) % 26
                    while True:
                        with blocks[b]:
                            if not busy[b]:
                                busy[b] = True
                                inode[i] = b + 1
                                return
                        b = (b + 1) % 26

        seam.parallel(*(lambda i=i: create(i) for i in range(n)))

    return program


def last_zero(n):
    """Figure 1 of Abdulla et al. (POPL 2014)."""

    def program():
        array = [seam.Published(0) for _ in range(n + 1)]

        def search():
            i = n
            while array[i].load() != 0:
                i -= 1

        def write(j):
            array[j].store(array[j - 1].load() + 1)

        seam.parallel(search, *(lambda j=j: write(j) for j in range(1, n + 1)))

    return program


TABLE = [  # program, traces by theory or by the papers
    ("four independent writers", independent_writers(4), 1),
    ("three writers of one cell", writers(3), 6),
    ("five writers of one cell", writers(5), 120),
    ("a writer and four readers", readers_and_a_writer(4), 16),
    ("store buffering", store_buffering, 3),
    ("message passing", message_passing, 3),
    ("one sets, two wait", signal_and_wait, 1),
    ("indexer(11)", indexer(11), 1),
    ("indexer(12)", indexer(12), 8),
    ("indexer(13)", indexer(13), 64),
    ("filesystem(13)", filesystem(13), 1),
    ("filesystem(14)", filesystem(14), 2),
    ("filesystem(16)", filesystem(16), 8),
]


@pytest.mark.parametrize(("program", "traces"), [t[1:] for t in TABLE], ids=[t[0] for t in TABLE])
def test_each_trace_has_one_schedule(program, traces):
    result = explore(program)
    assert (result.schedules, result.redundant, result.passed) == (traces, 0, True)


def test_last_zero_pays_no_more_than_source_sets_do():
    result = explore(last_zero(5))
    assert result.schedules == 64  # the traces, which optimal DPOR runs
    assert result.schedules + result.redundant <= 79  # what source-DPOR runs in the paper's table


def test_naive_enumeration_runs_every_interleaving():
    def program():
        a, b = seam.Published(0), seam.Published(0)
        seam.parallel(lambda: (a.store(1), a.store(2)), lambda: (b.store(1), b.store(2)))

    result = explore(program, strategy="naive")
    assert result.schedules == math.comb(6, 3)  # each task has its start and two stores
    assert result.exhausted
    assert explore(program).schedules == 1


@pytest.mark.parametrize("bound", [0, 1, 2])
def test_a_bound_on_preemptions_is_kept_and_is_never_exhausted(bound):
    result = explore(critical_sections(3), strategy="bounded", preemption_bound=bound)
    assert not result.exhausted
    assert len(result.states) == 6
    bounded = explore(writers(3), strategy="bounded", preemption_bound=bound).schedules
    assert bounded < explore(writers(3), strategy="naive").schedules


def test_cut_by_max_schedules_is_not_exhausted_and_not_passed():
    result = explore(critical_sections(4), max_schedules=23)
    assert (result.schedules, result.exhausted, result.passed) == (23, False, False)
    with pytest.raises(AssertionError, match="not exhausted after 23 schedules"):
        result.check()
    assert explore(critical_sections(4), max_schedules=25).check().schedules == 24
