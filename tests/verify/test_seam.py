# SPDX-License-Identifier: Apache-2.0
"""The seam under the explorer has primitives, guards, freed objects, faults, forks, interrupts."""

from __future__ import annotations

import pytest

import memcg.locking
from memcg.verify import errors, explore, explorer, replay, seam


def found(program, **options):
    """Return the exception that exploring `program` finds."""
    failure = explore(program, **options).failure
    assert failure is not None
    assert type(replay(program, failure.replay, **options).exception) is type(failure.exception)
    return failure.exception


def test_the_seam_has_every_name_of_locking():
    assert set(memcg.locking.__all__) <= set(dir(seam.module()))


# -- guards


@seam.shared(value="mutex", flag="published", hint=None, own="own_lock")
class Guarded:
    def __init__(self):
        self.value = self.flag = self.hint = self.own = 0
        self.own_lock = seam.Mutex("own_lock")
        self.plain = 0


def touching(*bodies):
    def program():
        obj, mutex = Guarded(), seam.Mutex("mutex")
        seam.parallel(*(lambda body=body: body(obj, mutex) for body in bodies))

    return program


def locked(obj, mutex):
    with mutex:
        obj.value += 1


def unlocked(obj, mutex):
    obj.value += 1


def own_locked(obj, mutex):
    with obj.own_lock:
        obj.own += 1


def own_under_another(obj, mutex):
    with mutex:
        obj.own += 1


def plain(obj, mutex):
    obj.plain += 1


def plain_locked(obj, mutex):
    with mutex:
        obj.plain += 1


def hint(obj, mutex):
    obj.hint += 1


def test_a_guarded_field_under_its_mutex_passes():
    assert explore(touching(locked, locked)).check().schedules == 2
    assert explore(touching(own_locked, own_locked)).check().schedules == 2


@pytest.mark.parametrize("bodies", [(unlocked,), (locked, unlocked), (own_under_another,)])
def test_a_guarded_field_without_its_mutex_is_reported_with_its_line(bodies):
    problem = found(touching(*bodies))
    assert isinstance(problem, errors.GuardViolation)
    assert "test_seam.py:" in str(problem)
    assert "without" in str(problem)


def test_an_undeclared_field_that_nothing_orders_is_a_data_race():
    assert isinstance(found(touching(plain, plain)), errors.DataRace)
    assert isinstance(found(touching(plain, plain_locked)), errors.DataRace)
    assert explore(touching(plain_locked, plain_locked)).check().passed
    assert explore(touching(hint, hint)).check().passed  # declared racy on purpose


def test_a_race_shows_though_the_schedule_that_ran_ordered_it_by_chance():
    def reader(obj, mutex):
        with mutex:
            pass
        assert obj.plain in (0, 1)

    def writer(obj, mutex):
        obj.plain = 1
        with mutex:
            pass

    assert isinstance(found(touching(writer, reader)), errors.DataRace)


def test_a_published_field_is_a_scheduling_point():
    def program():
        obj = Guarded()

        def increment():
            obj.flag = obj.flag + 1

        seam.parallel(increment, increment)
        return obj.flag

    assert set(explore(program).check().states) == {1, 2}


# -- freed objects


def used_after_free(ordered):
    def program():
        cell, mutex = seam.Published(Guarded()), seam.Mutex("mutex")
        read_side = seam.ReadSide()

        def use():
            with read_side:
                obj = cell.load()
                if obj is not None:
                    with mutex:
                        obj.value += 1

        def free():
            obj = cell.load()
            cell.store(None)
            if ordered:
                read_side.synchronize()
            seam.freed(obj)

        seam.parallel(use, free)

    return program


def test_a_use_that_may_come_after_the_free_is_found_and_a_grace_period_mends_it():
    assert isinstance(found(used_after_free(False)), errors.UseAfterFree)
    assert explore(used_after_free(True)).check().schedules > 1


def test_use_after_free_in_one_task_and_double_free_are_found():
    def use():
        obj = Guarded()
        seam.freed(obj)
        obj.plain += 1

    def twice():
        obj = Guarded()
        seam.freed(obj)
        seam.freed(obj)

    assert isinstance(found(use), errors.UseAfterFree)
    assert "freed twice" in str(found(twice))


# -- read side


def test_nothing_read_before_the_grace_period_is_used_after_it():
    def program(wait):
        def main():
            read_side, alive, valid = seam.ReadSide(), seam.Published(True), seam.Published(True)

            def reader():
                with read_side, read_side:  # sections nest, and the outermost counts
                    if alive.load():
                        assert valid.load(), "used after the grace period"

            def writer():
                alive.store(False)
                if wait:
                    read_side.synchronize()
                valid.store(False)

            seam.parallel(reader, reader, writer)

        return main

    assert explore(program(True)).check().passed
    assert isinstance(found(program(False)), AssertionError)


def test_synchronize_inside_a_section_is_reported():
    def program():
        read_side = seam.ReadSide()
        with read_side:
            read_side.synchronize()

    assert isinstance(found(program), errors.VerifyError)


# -- tasks that no other task joins


def test_what_a_task_does_after_it_woke_another_is_not_before_what_that_one_does():
    def program():
        woken, cell = seam.Event("woken"), seam.Published(0)

        def work():
            woken.set()
            cell.store(1)

        seam.spawn(work, "work")
        woken.wait()
        return cell.load()

    assert set(explore(program).check().states) == {0, 1}


@pytest.mark.parametrize("last", [plain, lambda obj, mutex: seam.freed(obj)])
def test_a_race_with_a_task_that_ended_and_was_not_joined_is_found(last):
    def program():
        obj, mutex, woken = Guarded(), seam.Mutex("mutex"), seam.Event("woken")

        def work():
            woken.set()
            plain(obj, mutex)

        seam.spawn(work, "work")
        woken.wait()
        last(obj, mutex)

    assert isinstance(found(program), (errors.DataRace, errors.UseAfterFree))


# -- lists and queues


def results_of(look, write):
    """Return the results of `look` while `write` works on the slots of the same list."""

    def program():
        slots, seen = seam.Published([0, 0]), []
        seam.parallel(lambda: write(slots.load()), lambda: seen.append(look(slots.load())))
        return seen[0]

    return set(explore(program).check().states)


@pytest.mark.parametrize(
    ("look", "expected"),
    [
        (tuple, {(0, 0), (1, 0), (1, 1)}),
        (lambda slots: 0 in slots, {True, False}),
        (lambda slots: slots == [1, 1], {True, False}),
        (lambda slots: tuple(slots + [2])[:2], {(0, 0), (1, 0), (1, 1)}),  # noqa: RUF005
        (len, {2}),
    ],
)
def test_every_way_to_read_the_slots_of_a_published_list_is_explored(look, expected):
    def write(slots):
        slots[0] = 1
        slots[1] = 1

    assert expected <= results_of(look, write)


def test_a_published_list_does_nothing_that_is_not_explored():
    slots = seam.Published([0]).load()
    assert not hasattr(slots, "append")
    assert not hasattr(slots, "sort")


@pytest.mark.parametrize("look_first", [True, False])
def test_a_queue_gives_each_item_to_one_taker_and_a_taker_may_find_none(look_first):
    def program():
        queue, taken = seam.Queue("queue"), [None, None]

        def take(i):
            if look_first:
                taken[i] = queue.popleft() if queue else None
                return
            try:
                taken[i] = queue.popleft()
            except IndexError:
                taken[i] = None

        seam.parallel(lambda: queue.append(1), lambda: take(0), lambda: take(1))
        return tuple(sorted(taken, key=str))

    assert set(explore(program).check().states) == {(1, None), (None, None)}


# -- choose


def test_choose_is_explored_together_with_schedules():
    def program():
        cell = seam.Published(0)
        seam.parallel(lambda: cell.store(1 + seam.choose(3)), lambda: cell.store(9))
        return cell.load()

    result = explore(program).check()
    assert set(result.states) == {1, 2, 3, 9}
    assert result.schedules == 6


def test_a_fault_that_only_one_choice_in_one_schedule_shows_is_found_and_replayed():
    def program():
        cell = seam.Published(0)

        def fault():
            if seam.choose(4) == 3:
                cell.store(1)

        def look():
            assert cell.load() == 0

        seam.parallel(fault, look)

    failure = explore(program).failure
    assert failure is not None
    assert "?3" in failure.replay
    assert isinstance(found(program), AssertionError)


# -- fork


def test_a_fork_leaves_the_locks_of_vanished_tasks_held():
    def program():
        mutex, work = seam.Mutex("mutex"), seam.Published(0)

        def hold():
            with mutex:
                work.store(1)

        def child():
            seam.fork()
            with mutex:
                pass

        seam.parallel(hold, child)

    problem = found(program, forks=True)
    assert isinstance(problem, errors.Deadlock)
    assert "child waits in acquire mutex" in str(problem)


def test_a_fork_that_takes_the_lock_first_passes():
    def program():
        mutex, seen = seam.Mutex("mutex"), seam.Published(0)

        def hold():
            with mutex:
                seen.store(1)

        def child():
            with mutex:
                seam.fork()
            with mutex:
                pass

        seam.parallel(hold, child)

    assert explore(program, forks=True).check().schedules >= 2


def test_a_fork_without_forks_is_refused():
    assert isinstance(found(lambda: seam.fork()), errors.VerifyError)


# -- interrupts


def linked(guarded):
    """Make a program of two stores that belong together, with or without protection."""

    def program():
        first, second = seam.Published(0), seam.Published(0)

        def write():
            try:
                first.store(1)
                second.store(1)
            except KeyboardInterrupt:
                if guarded:
                    first.store(0)
                    second.store(0)
                raise

        seam.parallel(write)
        assert first.load() == second.load(), "the stores were parted"
        return first.load()

    return program


def test_an_interrupt_is_tried_at_every_point_of_its_task():
    options = {"interrupts": [("write", KeyboardInterrupt)]}
    failure = explore(linked(False), **options).failure
    assert failure is not None
    assert "1!0" in failure.replay
    assert "KeyboardInterrupt, not: store" in failure.timeline
    assert isinstance(found(linked(False), **options), AssertionError)
    result = explore(linked(True), **options).check()
    assert set(result.states) == {0, 1}
    assert result.schedules == 3  # interrupted at the first store, at the second, and not at all
    assert explore(linked(False)).check().passed  # without interrupts the stores stay together


def test_a_task_waiting_for_a_lock_can_be_interrupted():
    def program():
        mutex, release = seam.Mutex("mutex"), seam.Event("release")

        def hold():
            with mutex:
                release.wait()

        def want():
            try:
                with mutex:
                    pass
            finally:
                release.set()

        seam.parallel(hold, want)

    result = explore(program, interrupts=[("want", KeyboardInterrupt)], stop=False)
    kinds = {type(f) for f in result.failures}
    assert kinds == {errors.Deadlock}  # schedules without an interrupt deadlock
    assert result.schedules > len(result.failures)


def test_a_task_that_is_alone_is_interrupted_too():
    def program():
        cell = seam.Published(0)
        try:
            cell.store(1)
            cell.store(2)
        except KeyboardInterrupt:
            return cell.load()

    states = explore(program, interrupts=[("main", KeyboardInterrupt)]).check().states
    assert set(states) == {0, 1, None}


# -- without an exploration


def test_outside_an_exploration_the_seam_works_for_one_thread():
    mutex, event, cell = seam.Mutex("m"), seam.Event("e"), seam.Published([1, 2])
    with mutex:
        assert mutex.held()
    assert not mutex.held()
    event.set()
    assert event.wait()
    event.clear()
    with pytest.raises(errors.VerifyError):
        event.wait()
    assert cell.load()[1] == 2
    done = []
    seam.spawn(lambda: done.append(1), "now")
    assert done == [1]
    assert seam.choose(5) == 0


def test_an_object_made_outside_starts_each_execution_as_it_was_outside():
    counter, event = seam.Atomic(5), seam.Event("event")
    event.set()

    def program():
        seam.parallel(lambda: counter.add(1), event.clear)
        return counter.get()

    assert set(explore(program, strategy="naive").check().states) == {6}
    assert counter.get() == 5
    assert event.is_set()


def test_no_thread_is_left_after_an_exploration():
    import _thread
    import time

    def program():
        seam.parallel(lambda: None, lambda: None)

    before = _thread._count()
    explore(program).check()
    until = time.monotonic() + 5  # until the threads have ended
    while _thread._count() > before and time.monotonic() < until:
        time.sleep(0.001)
    assert _thread._count() <= before


def test_a_long_exploration_reports_its_progress(monkeypatch):
    monkeypatch.setattr(explorer, "PROGRESS_S", 0.0)
    seen = []

    def program():
        cell = seam.Published(0)
        seam.parallel(*(lambda i=i: cell.store(i) for i in range(3)))
        return cell.load()

    result = explore(program, progress=lambda result: seen.append(result.schedules))
    assert sorted(set(seen)) == list(range(result.schedules)), "one was not reported"
    assert seen == sorted(seen)


def test_a_state_is_reached_or_is_not_and_without_all_schedules_nobody_knows():
    def program():
        cell = seam.Published(0)
        seam.parallel(*(lambda i=i: cell.store(i) for i in range(4)))
        return cell.load()

    result = explore(program)
    assert result.reaches(lambda last: last == 3)
    assert not result.reaches(lambda last: last == 4)
    some = explore(program, max_schedules=2)
    assert some.reaches(lambda last: True)
    with pytest.raises(errors.VerifyError, match="not all"):
        some.reaches(lambda last: last == 4)
