# SPDX-License-Identifier: Apache-2.0
"""Known concurrency bugs are found, minimised, printed and replayed; their mended forms pass."""

from __future__ import annotations

import pytest

from memcg.verify import errors, explore, replay, seam


def lost_update():
    counter = seam.Published(0)

    def increment():
        counter.store(counter.load() + 1)

    seam.parallel(increment, increment)
    assert counter.load() == 2, "an update was lost"


def counted_update():
    counter = seam.Atomic(0)
    seam.parallel(lambda: counter.add(1), lambda: counter.add(1))
    assert counter.get() == 2


def lock_order():
    a, b = seam.Mutex("a"), seam.Mutex("b")

    def forward():
        with a, b:
            pass

    def backward():
        with b, a:
            pass

    seam.parallel(forward, backward)


def one_lock_order():
    a, b = seam.Mutex("a"), seam.Mutex("b")

    def forward():
        with a, b:
            pass

    seam.parallel(forward, forward)


def check_then_act():
    taken, owners = seam.Published(False), []

    def take():
        if not taken.load():
            taken.store(True)
            owners.append(1)

    seam.parallel(take, take)
    assert len(owners) == 1


def swap_then_act():
    taken, owners = seam.Atomic(0), []

    def take():
        if not taken.swap(1):
            owners.append(1)

    seam.parallel(take, take)
    assert len(owners) == 1


def missed_wake_up():
    event, ready = seam.Event("event"), seam.Published(False)

    def wait():
        if not ready.load():
            event.clear()  # forgets a set that was made after the load
            event.wait()

    def wake():
        ready.store(True)
        event.set()

    seam.parallel(wait, wake)


def kept_wake_up():
    event, ready = seam.Event("event"), seam.Published(False)

    def wait():
        event.clear()
        if not ready.load():
            event.wait()

    def wake():
        ready.store(True)
        event.set()

    seam.parallel(wait, wake)


def double_checked(publish_last):
    def program():
        mutex, instance, filled = seam.Mutex("mutex"), seam.Published(False), seam.Published(0)

        def get():
            if not instance.load():
                with mutex:
                    if not instance.load():
                        if publish_last:
                            filled.store(1)
                        instance.store(True)
                        if not publish_last:
                            filled.store(1)
            assert filled.load() == 1, "seen half made"

        seam.parallel(get, get)

    return program


def aba(tagged):
    """A stack's pop compares only the top, while another task pops two and pushes one back."""

    def program():
        following = {node: seam.Published(after) for node, after in {0: 0, 1: 2, 2: 0}.items()}
        top = seam.Atomic(1)
        tags = 100 if tagged else 0
        free = seam.Published(None)

        def pop():
            old = top.get()
            after = following[old % 100].load()
            if top.compare_exchange(old, after + tags * (old // 100 + 1)):
                assert after != free.load(), "the top is a node that was freed"

        def churn():
            old = top.get()
            if old == 1 and top.compare_exchange(old, 2 + tags):
                two = top.get()
                if two % 100 == 2 and top.compare_exchange(two, 0 + 2 * tags):
                    free.store(2)
                    following[1].store(0)
                    top.compare_exchange(2 * tags, 1 + 3 * tags)

        seam.parallel(pop, churn)

    return program


def livelock():
    a, b = seam.Atomic(0), seam.Atomic(0)

    def polite(mine, other):
        mine.set(1)
        while other.get():
            mine.set(0)
            mine.set(1)
        mine.set(0)

    seam.parallel(lambda: polite(a, b), lambda: polite(b, a))


def twice():
    mutex = seam.Mutex("mutex")
    with mutex, mutex:
        pass


def foreign_release():
    mutex = seam.Mutex("mutex")
    mutex.acquire()
    seam.parallel(mutex.release)


BUGS = [  # program, what is found, the fewest preemptions that show it
    (lost_update, AssertionError, 1),
    (lock_order, errors.Deadlock, 1),
    (check_then_act, AssertionError, 1),
    (missed_wake_up, errors.Deadlock, 1),
    (double_checked(False), AssertionError, 1),
    (aba(False), AssertionError, 1),
    (livelock, errors.Livelock, 1),
    (twice, errors.LockError, 0),
    (foreign_release, errors.LockError, 0),
]
MENDED = [
    counted_update, one_lock_order, swap_then_act, kept_wake_up, double_checked(True), aba(True),
]  # fmt: skip


def name(case):
    return getattr(case[0] if isinstance(case, tuple) else case, "__qualname__", "")


@pytest.mark.parametrize(("program", "kind", "fewest"), BUGS, ids=map(name, BUGS))
def test_a_known_bug_is_found_with_the_fewest_preemptions_and_replays(program, kind, fewest):
    failure = explore(program, max_steps=60).failure
    assert failure is not None
    assert type(failure.exception) is kind
    assert (failure.preemptions, failure.minimal) == (fewest, True)
    for _ in range(2):
        again = replay(program, failure.replay, max_steps=60)
        assert type(again.exception) is kind
        assert [(x.task, x.what, x.where) for x in again.trace] == [
            (x.task, x.what, x.where) for x in failure.trace
        ]


@pytest.mark.parametrize("program", MENDED, ids=map(name, MENDED))
def test_the_mended_program_passes(program):
    assert explore(program).check().passed


@pytest.mark.parametrize("strategy", ["naive", "pct", "random"])
def test_other_strategies_find_the_lost_update_too(strategy):
    failure = explore(lost_update, strategy=strategy, seed=3).failure
    assert failure is not None
    assert failure.preemptions == 1


def test_no_preemption_shows_no_lost_update_and_one_does():
    assert explore(lost_update, strategy="bounded", preemption_bound=0).failure is None
    assert explore(lost_update, strategy="bounded", preemption_bound=1).failure is not None


@pytest.mark.parametrize("strategy", ["pct", "random"])
def test_random_schedules_are_never_exhausted_and_come_from_the_seed(strategy):
    def seen(seed):
        order = []

        def program():
            cell = seam.Published(0)
            seam.parallel(*(lambda i=i: cell.store(i) for i in range(4)))
            order.append(cell.load())

        result = explore(program, strategy=strategy, seed=seed, max_schedules=30)
        assert not result.exhausted
        return order

    assert seen(1) == seen(1)
    assert seen(1) != seen(2)


def test_a_timeline_has_a_column_per_task_and_a_source_line_per_step():
    failure = explore(lost_update).failure
    assert failure is not None
    head, *lines = failure.timeline.splitlines()
    assert "0: main" in head
    assert "1: increment" in head
    assert "2: increment" in head
    steps = [line for line in lines if "store" in line]
    assert len(steps) == 2
    assert all(line.startswith("test_bugs.py:") for line in steps)
    assert "1 preemptions, the fewest possible" in str(failure)


@pytest.mark.parametrize("tasks", [1, 2])
def test_the_timeline_of_a_livelock_shows_a_round_of_it_once(tasks):
    def poll():
        flag = seam.Published(False)

        def wait():
            while not flag.load():
                pass

        seam.parallel(wait)

    failure = explore([poll, livelock][tasks - 1], max_steps=602).failure
    assert failure is not None
    lines = failure.timeline.splitlines()
    assert len(lines) < 12
    rounds = {1: "... 601 times", 2: "... 199 times, these 3"}
    assert rounds[tasks] in lines[-1]


def test_a_replay_of_a_schedule_the_program_cannot_follow_is_refused():
    with pytest.raises(errors.NondeterminismError):
        replay(lost_update, "0.7*3")
    with pytest.raises(errors.NondeterminismError):
        replay(lost_update, "0")
    with pytest.raises(ValueError, match="is not task"):
        replay(lost_update, "0*x")


def test_a_schedule_that_does_not_fail_is_not_called_a_failure():
    with pytest.raises(errors.NondeterminismError, match="did not fail"):
        replay(lambda: None, "0")


def test_uncontrolled_nondeterminism_is_detected():
    runs = []

    def program():
        runs.append(1)
        a, b = seam.Published(0), seam.Published(0)
        cell = a if len(runs) % 3 else b

        def write():
            cell.store(1)
            a.load()
            b.store(2)

        seam.parallel(write, write)

    with pytest.raises(errors.NondeterminismError, match="step"):
        explore(program)


def test_an_unknown_strategy_and_a_bound_without_its_strategy_are_refused():
    with pytest.raises(ValueError, match="must be one of"):
        explore(lost_update, strategy="luck")
    with pytest.raises(ValueError, match="need each other"):
        explore(lost_update, strategy="bounded")
    with pytest.raises(ValueError, match="need each other"):
        explore(lost_update, preemption_bound=1)
