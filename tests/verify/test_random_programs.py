# SPDX-License-Identifier: Apache-2.0
"""Reduction and plain enumeration reach the same final states of random small programs."""

from __future__ import annotations

import random

import pytest
from verify.programs import FAILING, random_program, runnable

from memcg.verify import dpor, explore, seam

SIZES = ([1, 1, 1], [1, 2], [2, 2], [3, 2], [3, 3], [2, 4], [4, 2])
INTERRUPTS = [("t0", KeyboardInterrupt)]
MANY = 100
# The longer form draws the programs of the shorter one, and then more.
rounds = pytest.mark.parametrize("rounds", [15, pytest.param(MANY, marks=pytest.mark.long)])


def outcomes(result):
    """Return the final states. A failure is one: it says which task waits where, or saw what."""
    assert result.exhausted
    return set(result.states) | {str(failure) for failure in result.failures}


def disagreement(program, *, joined=True, **options):
    """Return the states that only one of the two finds, and whether reduction ran more.

    If executions fail, naive enumeration sees less than a bound that nothing reaches: it makes no
    step of the failure, so nothing runs between a release and the failure that follows it.
    """
    main = runnable(program, joined=joined)
    reduced = explore(main, stop=False, **options)
    naive, missed = explore(main, strategy="naive", stop=False, **options), set()
    if any(isinstance(failure, AssertionError) for failure in naive.failures):
        missed = outcomes(naive) - outcomes(reduced)
        naive = explore(main, strategy="bounded", preemption_bound=99, stop=False, **options)
        naive.exhausted = True
    more = reduced.schedules + reduced.redundant > naive.schedules
    return missed | outcomes(reduced) ^ outcomes(naive), more


@rounds
@pytest.mark.parametrize("seed", range(5))
def test_reduction_reaches_the_final_states_of_naive_enumeration(seed, rounds):
    rng = random.Random(seed)
    for _ in range(rounds):
        program = random_program(rng, rng.choice(SIZES))
        assert disagreement(program) == (set(), False), (seed, program)


@rounds
def test_four_operations_in_each_of_two_tasks_agree(rounds):
    rng = random.Random(99)
    for _ in range(rounds // 5):
        program = random_program(rng, [4, 4])
        assert disagreement(program) == (set(), False), program


@rounds
def test_they_agree_with_an_interrupt_at_any_point(rounds):
    rng = random.Random(7)
    for _ in range(2 * rounds // 5):
        program = random_program(rng, rng.choice(([2, 1], [2, 2], [3, 2], [1, 2])))
        assert disagreement(program, interrupts=INTERRUPTS) == (set(), False), program


@rounds
def test_they_agree_where_no_task_waits_for_the_others_to_end(rounds):
    rng = random.Random(3)
    for _ in range(rounds):
        program = random_program(rng, rng.choice(SIZES))
        assert disagreement(program, joined=False) == (set(), False), program


@rounds
def test_they_agree_with_a_fork_at_any_point(rounds):
    rng = random.Random(5)
    for _ in range(rounds):
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


def test_what_other_tasks_do_after_a_failure_is_explored_too():
    def program():
        x, y = seam.Published(0), seam.Published(0)

        def reader():
            if x.load() != 1:
                raise AssertionError("x")
            if y.load() != 2:
                raise AssertionError("y")

        def writer():
            y.store(1)
            x.store(1)

        seam.parallel(reader, writer)

    naive = explore(program, strategy="naive", stop=False)
    assert naive.schedules == 10
    assert outcomes(naive) == {"x", "y"}
    assert outcomes(explore(program, stop=False)) == {"x", "y"}


@rounds
@pytest.mark.parametrize("joined", [True, False])
@pytest.mark.parametrize("seed", range(2))
def test_the_failures_of_naive_enumeration_are_found_where_executions_end_early(
    seed, joined, rounds
):
    rng, failed = random.Random(100 + seed), 0
    for _ in range(rounds):
        program = random_program(rng, rng.choice(SIZES), FAILING)
        assert disagreement(program, joined=joined) == (set(), False), (seed, program)
        failed += any("expect" in kinds for kinds in (dict(task) for task in program))
    assert failed > rounds / 2


@rounds
def test_failures_are_found_beside_an_interrupt_at_any_point(rounds):
    rng = random.Random(17)
    for _ in range(2 * rounds // 5):
        program = random_program(rng, rng.choice(([2, 1], [2, 2], [3, 2], [1, 2])), FAILING)
        assert disagreement(program, interrupts=INTERRUPTS) == (set(), False), program


@rounds
def test_failures_are_found_beside_a_fork_at_any_point(rounds):
    rng = random.Random(15)
    for _ in range(rounds):
        program = random_program(rng, rng.choice(([1, 1], [2, 1], [1, 2], [2, 2])), FAILING)
        task = rng.choice(program)
        task.insert(rng.randrange(len(task) + 1), ("fork", 0))
        assert disagreement(program, forks=True) == (set(), False), program


def test_a_reduction_that_stops_where_an_execution_fails_is_caught(monkeypatch):
    monkeypatch.setattr(dpor.Dpor, "_go_on_without", lambda self, node, task: None)
    rng = random.Random(100)
    programs = (random_program(rng, [2, 2], FAILING) for _ in range(MANY))
    assert any(disagreement(program) != (set(), False) for program in programs)


@pytest.mark.parametrize("kind", ["livelock", "race", "quiet"])
def test_an_exploration_whose_failures_hide_others_is_not_exhausted_and_says_why(kind):
    @seam.shared()
    class Thing:
        n = 0

    def program():
        cell, thing = seam.Published(0), Thing()

        def one():
            while kind == "livelock" and not cell.load():
                pass
            thing.n = 1
            if kind == "quiet":
                seam.quietly(lambda: 1 // 0)

        def two():
            if kind == "race":
                thing.n = 2
            cell.load()

        seam.parallel(one, two)

    result = explore(program, stop=False, max_steps=200)
    assert result.failures
    assert not result.exhausted
    assert type(result.failures[0]).__name__ in result.why


def blind_to(key_part, monkeypatch):
    """Make the reduction overlook conflicts of one sort."""
    right = dpor.conflict
    monkeypatch.setattr(dpor, "conflict", lambda a, b: right(a, b) and not key_part & (a | b))


@pytest.mark.parametrize(
    ("use", "palette"),
    [
        (dpor.WRITE, ("write", "read")),
        (dpor.ACQUIRE, ("lock", "unlock", "write")),
        (dpor.BLOCK, ("set", "clear", "wait")),
    ],
)
def test_a_reduction_that_overlooks_conflicts_is_caught(use, palette, monkeypatch):
    blind_to(use, monkeypatch)
    rng = random.Random(0)
    programs = (random_program(rng, [3, 3], [palette]) for _ in range(MANY))
    assert any(disagreement(program) != (set(), False) for program in programs)


def test_sleep_sets_that_never_wake_are_caught(monkeypatch):
    monkeypatch.setattr(dpor, "independent", lambda a, b: True)
    rng = random.Random(0)
    programs = (random_program(rng, [3, 3]) for _ in range(MANY))
    assert any(disagreement(program) != (set(), False) for program in programs)
