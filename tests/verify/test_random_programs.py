# SPDX-License-Identifier: Apache-2.0
"""Reduction and plain enumeration reach the same final states of random small programs."""

from __future__ import annotations

import random

import pytest
from verify.programs import random_program, runnable

from memcg.verify import dpor, explore

SIZES = ([1, 1, 1], [1, 2], [2, 2], [3, 2], [3, 3], [2, 4], [4, 2])
INTERRUPTS = [("t0", KeyboardInterrupt)]
PER_SEED = 100


def outcomes(result):
    """Return the final states. A deadlock is one, and says which task waits where."""
    assert result.exhausted
    return set(result.states) | {str(failure) for failure in result.failures}


def disagreement(program, *, joined=True, **options):
    """Return the states that only one of the two finds, and whether reduction ran more."""
    main = runnable(program, joined=joined)
    reduced = explore(main, stop=False, **options)
    naive = explore(main, strategy="naive", stop=False, **options)
    more = reduced.schedules + reduced.redundant > naive.schedules
    return outcomes(reduced) ^ outcomes(naive), more


@pytest.mark.parametrize("seed", range(5))
def test_reduction_reaches_the_final_states_of_naive_enumeration(seed):
    rng = random.Random(seed)
    for _ in range(PER_SEED):
        program = random_program(rng, rng.choice(SIZES))
        assert disagreement(program) == (set(), False), (seed, program)


def test_four_operations_in_each_of_two_tasks_agree():
    rng = random.Random(99)
    for _ in range(10):
        program = random_program(rng, [4, 4])
        assert disagreement(program) == (set(), False), program


def test_they_agree_with_an_interrupt_at_any_point():
    rng = random.Random(7)
    for _ in range(40):
        program = random_program(rng, rng.choice(([2, 1], [2, 2], [3, 2], [1, 2])))
        assert disagreement(program, interrupts=INTERRUPTS) == (set(), False), program


def test_they_agree_where_no_task_waits_for_the_others_to_end():
    rng = random.Random(3)
    for _ in range(PER_SEED):
        program = random_program(rng, rng.choice(SIZES))
        assert disagreement(program, joined=False) == (set(), False), program


def test_they_agree_with_a_fork_at_any_point():
    rng = random.Random(5)
    for _ in range(PER_SEED):
        program = random_program(rng, rng.choice(([1, 1], [2, 1], [1, 2], [2, 2], [1, 1, 1])))
        task = rng.choice(program)
        task.insert(rng.randrange(len(task) + 1), ("fork", 0))
        assert disagreement(program, forks=True) == (set(), False), program


@pytest.mark.parametrize(
    "program",
    [
        [[("wait", 0), ("set", 0)], [("set", 0), ("clear", 0), ("clear", 0)]],
        [[("write", 0), ("wait", 0)], [("read", 1), ("write", 0), ("set", 1)]],
        [[("set", 0), ("lock", 1), ("wait", 1)], [("load", 1), ("lock", 1), ("clear", 0)]],
    ],
)
def test_programs_that_once_disagreed_agree(program):
    assert disagreement(program) == (set(), False)
    assert disagreement(program, interrupts=INTERRUPTS) == (set(), False)


def test_a_fork_is_tried_before_and_after_a_task_that_then_waits_for_a_lock_of_the_forking_one():
    program = [[("write", 0), ("lock", 1), ("fork", 0)], [("lock", 1), ("write", 0)]]
    assert disagreement(program, forks=True) == (set(), False)


def blind_to(key_part, monkeypatch):
    """Make the reduction overlook conflicts of one sort."""
    right = dpor.conflict
    monkeypatch.setattr(dpor, "conflict", lambda a, b: right(a, b) and not key_part & (a | b))


@pytest.mark.parametrize("use", [dpor.WRITE, dpor.ACQUIRE, dpor.BLOCK])
def test_a_reduction_that_overlooks_conflicts_is_caught(use, monkeypatch):
    blind_to(use, monkeypatch)
    rng = random.Random(0)
    programs = (random_program(rng, [3, 3]) for _ in range(2 * PER_SEED))
    assert any(disagreement(program) != (set(), False) for program in programs)


def test_sleep_sets_that_never_wake_are_caught(monkeypatch):
    monkeypatch.setattr(dpor, "independent", lambda a, b: True)
    rng = random.Random(0)
    programs = (random_program(rng, [3, 3]) for _ in range(2 * PER_SEED))
    assert any(disagreement(program) != (set(), False) for program in programs)
