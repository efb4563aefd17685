# SPDX-License-Identifier: Apache-2.0
"""The checker is run on litmus tests whose allowed outcomes are known.

Names and outcomes are from Alglave, Maranget, Tautschnig, "Herding cats" (TOPLAS 2014); Lahav et
al., "Repairing sequential consistency in C/C++11" (PLDI 2017).
"""

from __future__ import annotations

import itertools

import pytest
from litmus.memory_model import (
    ACQ_REL,
    ACQUIRE,
    RELAXED,
    RELEASE,
    SEQ_CST,
    Violation,
    add,
    cas,
    exchange,
    explore,
    fence,
    free,
    join,
    load,
    lock,
    membarrier,
    read,
    store,
    unlock,
    wait,
    write,
)

ALL = set(itertools.product((0, 1), repeat=2))


def does(*accesses):
    """Make a thread that makes these accesses and returns what its loads read."""

    def thread():
        seen = []
        for access in accesses:
            value = yield access
            if access.kind in ("load", "rmw", "read", "cas"):
                seen.append(value)
        return tuple(seen)

    return thread


def outcomes(initial, *threads):
    """Return what all loads read, thread after thread."""
    found = explore(initial, *(does(*t) for t in threads)).outcomes
    return {tuple(itertools.chain(*o)) for o in found}


XY = {"x": 0, "y": 0}


@pytest.mark.parametrize(
    ("w", "r", "weak"),
    [
        (RELAXED, RELAXED, True),
        (RELEASE, RELAXED, True),
        (RELAXED, ACQUIRE, True),
        (RELEASE, ACQUIRE, False),
        (SEQ_CST, SEQ_CST, False),
    ],
)
def test_message_passing_has_its_known_outcomes(w, r, weak):
    seen = outcomes(XY, [store("x", 1), store("y", 1, w)], [load("y", r), load("x")])
    assert seen == ALL - (set() if weak else {(1, 0)})


@pytest.mark.parametrize(
    ("w", "r", "weak"), [(RELEASE, ACQUIRE, False), (RELAXED, ACQUIRE, True), (RELEASE, None, True)]
)
def test_message_passing_with_fences_has_its_known_outcomes(w, r, weak):
    reader = [load("y"), *([fence(r)] if r else []), load("x")]
    seen = outcomes(XY, [store("x", 1), fence(w), store("y", 1)], reader)
    assert seen == ALL - (set() if weak else {(1, 0)})


@pytest.mark.parametrize("strength", [RELAXED, ACQ_REL, SEQ_CST])
def test_store_buffering_has_its_known_outcomes(strength):
    w, r = {ACQ_REL: (RELEASE, ACQUIRE)}.get(strength, (strength, strength))
    seen = outcomes(XY, [store("x", 1, w), load("y", r)], [store("y", 1, w), load("x", r)])
    assert seen == ALL - ({(0, 0)} if strength == SEQ_CST else set())


@pytest.mark.parametrize("order", [ACQ_REL, SEQ_CST])
def test_store_buffering_with_fences_has_its_known_outcomes(order):
    seen = outcomes(
        XY,
        [store("x", 1), fence(order), load("y")],
        [store("y", 1), fence(order), load("x")],
    )
    assert seen == ALL - ({(0, 0)} if order == SEQ_CST else set())


@pytest.mark.parametrize("barrier", [True, False])
def test_store_buffering_with_a_membarrier_on_one_side_has_its_known_outcomes(barrier):
    def walker():
        yield store("x", 1)
        if barrier:
            yield from membarrier(1)
        return ((yield load("y")),)

    found = explore(XY, walker, does(store("y", 1), load("x"))).outcomes
    assert {a + b for a, b in found} == ALL - ({(0, 0)} if barrier else set())


def test_load_buffering_is_forbidden_here_as_in_rc11():
    seen = outcomes(XY, [load("x"), store("y", 1)], [load("y"), store("x", 1)])
    assert seen == ALL - {(1, 1)}


@pytest.mark.parametrize(("w", "r"), [(RELEASE, ACQUIRE), (SEQ_CST, SEQ_CST)])
def test_independent_reads_of_independent_writes_have_their_known_outcomes(w, r):
    seen = outcomes(
        XY,
        [store("x", 1, w)],
        [store("y", 1, w)],
        [load("x", r), load("y", r)],
        [load("y", r), load("x", r)],
    )
    every = set(itertools.product((0, 1), repeat=4))
    assert seen == every - ({(1, 0, 1, 0)} if w == SEQ_CST else set())


def test_reads_of_one_thread_are_coherent():
    seen = outcomes({"x": 0}, [store("x", 1)], [load("x"), load("x")])
    assert seen == ALL - {(1, 0)}


def test_two_readers_are_coherent():
    seen = outcomes(
        {"x": 0}, [store("x", 1)], [store("x", 2)], [load("x"), load("x")], [load("x"), load("x")]
    )
    assert (1, 2, 1, 2) in seen
    assert (1, 2, 2, 1) not in seen


@pytest.mark.parametrize("order", [RELAXED, RELEASE, SEQ_CST])
def test_two_writers_of_two_locations_have_their_known_outcomes(order):
    finals = explore(
        XY,
        does(store("x", 1, order), store("y", 2, order)),
        does(store("y", 1, order), store("x", 2, order)),
    ).finals
    assert finals == {(1, 2), (2, 1), (2, 2)} | (set() if order == SEQ_CST else {(1, 1)})


@pytest.mark.parametrize("through", ["store", "rmw"])
def test_a_release_sequence_goes_through_read_modify_writes_only(through):
    def passes():
        yield wait("y", lambda y: y == 1)
        yield add("y", 1) if through == "rmw" else store("y", 2)

    def reads():
        yield wait("y", lambda y: y == 2, ACQUIRE)
        return (yield load("x"))

    found = explore(XY, does(store("x", 1), store("y", 1, RELEASE)), passes, reads).outcomes
    assert {o[2] for o in found} == ({1} if through == "rmw" else {0, 1})


def test_read_modify_writes_lose_nothing_and_loads_and_stores_do():
    def loads_and_stores():
        x = yield load("x")
        yield store("x", x + 1)

    atomic = explore({"x": 0}, does(add("x", 1)), does(add("x", 1)), does(add("x", 1)))
    assert atomic.finals == {(3,)}
    assert explore({"x": 0}, loads_and_stores, loads_and_stores).finals == {(1,), (2,)}


def test_one_of_two_exchanges_is_first():
    assert outcomes({"x": 0}, [exchange("x", 1)], [exchange("x", 1)]) == {(0, 1), (1, 0)}


def test_one_of_two_compare_exchanges_succeeds():
    assert outcomes({"x": 0}, [cas("x", 0, 1)], [cas("x", 0, 2)]) == {(0, 1), (2, 0)}


@pytest.mark.parametrize(
    ("w", "r", "races"),
    [(RELEASE, ACQUIRE, False), (RELAXED, ACQUIRE, True), (RELEASE, RELAXED, True)],
)
def test_plain_accesses_race_unless_they_are_ordered(w, r, races):
    def reads():
        yield wait("y", bool, r)
        assert (yield read("x")) == 1

    def run():
        return explore(XY, does(write("x", 1), store("y", 1, w)), reads)

    if races:
        with pytest.raises(Violation, match="data race on x"):
            run()
    else:
        assert run().executions > 0


def test_a_plain_write_races_with_a_read_before_it_and_with_atomics():
    with pytest.raises(Violation, match="data race on x"):
        explore(XY, does(read("x"), store("y", 1)), does(wait("y", bool, ACQUIRE), write("x", 1)))
    with pytest.raises(Violation, match="data race on x"):
        explore(XY, does(store("x", 1)), does(write("x", 2)))


def test_fences_of_seq_cst_alone_order_no_plain_accesses():
    with pytest.raises(Violation, match="data race on x"):
        explore(XY, does(write("x", 1), fence()), does(fence(), write("x", 2)))


def test_a_mutex_orders_and_a_join_orders():
    locked = does(lock("m"), write("x", 1), unlock("m"))
    explore({"x": 0, "m": None}, locked, locked)
    explore({"x": 0}, does(write("x", 1)), does(join(0), write("x", 2)))
    with pytest.raises(Violation, match="data race"):
        explore({"x": 0, "m": None}, locked, does(write("x", 1)))


def test_what_is_freed_must_not_be_used():
    with pytest.raises(Violation, match="x is used after it was freed"):
        explore({"x": 0}, does(free("x")), does(join(0), read("x")))
    with pytest.raises(Violation, match="data race on x"):
        explore({"x": 0}, does(free("x")), does(read("x")))


def test_a_deadlock_is_reported():
    with pytest.raises(Violation, match="deadlock"):
        explore(
            {"a": None, "b": None},
            does(lock("a"), lock("b"), unlock("b"), unlock("a")),
            does(lock("b"), lock("a"), unlock("a"), unlock("b")),
        )
    with pytest.raises(Violation, match="deadlock: thread 0: wait x"):
        explore({"x": 0}, does(wait("x", bool)))


def test_a_violation_shows_the_execution():
    def fails():
        assert (yield load("x")) == 0, "x was seen"

    with pytest.raises(Violation, match=r"x was seen[^*]*\n  thread 0: store x 1 RELAXED -> N"):
        explore({"x": 0}, does(store("x", 1)), fails)
