# SPDX-License-Identifier: Apache-2.0
"""The explorer's `threading`, `queue` and `time` do what the real ones do, in every schedule."""

from __future__ import annotations

import queue as real_queue
import random
import threading as real_threading

import pytest

from memcg.verify import errors, explore, replay, seam
from memcg.verify.seam import queue, threading, time

rounds = pytest.mark.parametrize("rounds", [12, pytest.param(150, marks=pytest.mark.long)])
PALETTES = [
    ("lock", "unlock", "try", "try"),
    ("lock", "unlock", "timed", "locked"),
    ("rlock", "rlock", "runlock", "rtry"),
    ("down", "up", "try down", "timed down"),
    ("wait", "notify", "notify all"),
    ("timed wait", "notify", "wait"),
    ("put", "get", "try get"),
    ("put", "timed get", "size"),
    ("set", "clear", "timed event", "event"),
    ("start", "alive", "timed join", "event", "set"),
]
SIZES = {False: ([1, 1, 1], [2, 1], [2, 2]), True: ([1, 1], [2, 1], [1, 2])}  # if costly


class State:
    def __init__(self, program):
        self.program = program
        self.lock, self.rlock = threading.Lock(), threading.RLock()
        self.semaphore = threading.Semaphore(1)
        self.condition = threading.Condition()
        self.event, self.queue = threading.Event(), queue.SimpleQueue()
        self.thread = threading.Thread(target=lambda: self.event.is_set())
        self.seen = [[] for _ in program]

    def body(self, me):
        """Do the operations of a task, and note what each returns."""
        for n, kind in enumerate(self.program[me]):
            try:
                self.seen[me].append(self.do(kind, 10 * me + n))
            except (RuntimeError, real_queue.Empty) as error:
                self.seen[me].append(type(error).__name__)

    def do(self, kind, token):
        match kind:
            case "lock":
                return self.lock.acquire()
            case "unlock":
                return self.lock.release()
            case "try":
                return self.lock.acquire(blocking=False)
            case "timed":
                return self.lock.acquire(timeout=1)
            case "locked":
                return self.lock.locked()
            case "rlock":
                return self.rlock.acquire()
            case "rtry":
                return self.rlock.acquire(blocking=False)
            case "runlock":
                return self.rlock.release()
            case "down":
                return self.semaphore.acquire()
            case "try down":
                return self.semaphore.acquire(blocking=False)
            case "timed down":
                return self.semaphore.acquire(timeout=1)
            case "up":
                return self.semaphore.release()
            case "wait" | "timed wait":
                with self.condition:
                    return self.condition.wait(1 if kind == "timed wait" else None)
            case "notify":
                with self.condition:
                    return self.condition.notify()
            case "notify all":
                with self.condition:
                    return self.condition.notify_all()
            case "put":
                return self.queue.put(token)
            case "get":
                return self.queue.get()
            case "try get":
                return self.queue.get(block=False)
            case "timed get":
                return self.queue.get(timeout=1)
            case "size":
                return self.queue.qsize()
            case "set":
                return self.event.set()
            case "clear":
                return self.event.clear()
            case "event":
                return self.event.wait()
            case "timed event":
                return self.event.wait(1)
            case "start":
                return self.thread.start()
            case "alive":
                return self.thread.is_alive()
            case "timed join":
                return self.thread.join(1)


def runnable(program):
    def main():
        state = State(program)
        seam.parallel(*(lambda me=me: state.body(me) for me in range(len(program))))
        return tuple(map(tuple, state.seen))

    return main


def outcomes(result):
    return set(result.states) | {str(failure) for failure in result.failures}


@rounds
@pytest.mark.parametrize("palette", PALETTES, ids=" ".join)
def test_random_programs_reach_the_states_of_naive_enumeration(palette, rounds):
    rng = random.Random(24)
    for _ in range(rounds):
        sizes = rng.choice(SIZES["wait" in palette or "start" in palette])
        program = [rng.choices(palette, k=size) for size in sizes]
        reduced = explore(runnable(program), stop=False, audit=False)
        naive = explore(runnable(program), stop=False, audit=False, strategy="naive")
        assert reduced.exhausted, program
        assert outcomes(reduced) == outcomes(naive), program
        assert reduced.schedules <= naive.schedules


def test_a_reduction_that_never_learns_that_a_release_is_seen_is_caught(monkeypatch):
    from memcg.verify.runtime import Run

    monkeypatch.setattr(Run, "watch", lambda self, obj: None)
    with pytest.raises(AssertionError, match="lock"):
        test_random_programs_reach_the_states_of_naive_enumeration(PALETTES[0], 100)


def test_a_queue_is_the_standard_librarys_and_its_time_out_is_explored():
    def program():
        jobs, got = queue.Queue(), []

        def put():
            jobs.put(1)

        def get():
            try:
                got.append(jobs.get(timeout=5))
            except real_queue.Empty:
                got.append(None)

        seam.parallel(put, get)
        return got[0]

    result = explore(program).check()
    assert set(result.states) == {1, None}
    assert queue.Queue.get.__code__.co_filename == real_queue.__file__


def test_a_full_queue_blocks_and_a_task_that_nobody_helps_deadlocks():
    def program():
        jobs = queue.Queue(maxsize=1)
        jobs.put(1)
        seam.parallel(lambda: jobs.put(2))

    failure = explore(program).failure
    assert isinstance(failure.exception, errors.Deadlock)


@pytest.mark.parametrize("kind", [queue.LifoQueue, queue.PriorityQueue])
def test_other_queues_keep_their_order(kind):
    def program():
        jobs = kind()
        seam.parallel(lambda: jobs.put(2), lambda: jobs.put(1))
        return jobs.get(), jobs.get()

    states = set(explore(program).check().states)
    assert states == ({(1, 2)} if kind is queue.PriorityQueue else {(1, 2), (2, 1)})


def test_a_loop_that_polls_ends_and_is_not_called_exhausted():
    def program():
        done, rounds = threading.Event(), []

        def poll():
            while not done.is_set():
                time.sleep(0.1)
                rounds.append(1)

        seam.parallel(poll, done.set)
        return len(rounds)

    result = explore(program, timeouts=3, audit=False)
    assert set(result.states) == {0, 1, 2, 3, 4}
    assert not result.exhausted
    assert "more than 3 times" in result.why


def test_a_deadline_is_met_after_the_time_that_ran_out():
    def program():
        lock = threading.Lock()
        lock.acquire()

        def wait():
            began = time.monotonic()
            assert not lock.acquire(timeout=2.5)
            time.sleep(0.5)
            return time.monotonic() - began

        thread = threading.Thread(target=lambda: took.append(wait()))
        took: list[float] = []
        thread.start()
        thread.join()
        return took[0]

    assert set(explore(program).states) == {3.0}


def test_a_notification_that_a_waiter_misses_because_its_time_is_over_is_found():
    """The second waiter is not woken: the notification was the first one's, which had given up."""

    def program():
        condition = threading.Condition(threading.Lock())
        woken = []

        def impatient():
            with condition:
                condition.wait(timeout=1)

        def patient():
            with condition:
                condition.wait()
                woken.append(1)

        first, second = threading.Thread(target=impatient), threading.Thread(target=patient)
        first.start()
        second.start()
        with condition:
            condition.notify()
            condition.notify()

    failure = explore(program).failure
    assert isinstance(failure.exception, errors.Deadlock)
    assert "patient waits in wait" in str(failure.exception)
    assert isinstance(replay(program, failure.replay).exception, errors.Deadlock)


def test_a_daemon_that_waits_for_ever_is_no_deadlock_and_another_thread_is():
    def program(daemon):
        thread = threading.Thread(target=threading.Event().wait, daemon=daemon)
        thread.start()

    assert explore(lambda: program(True)).passed
    assert isinstance(explore(lambda: program(False)).failure.exception, errors.Deadlock)


def test_a_timer_may_fire_before_it_is_cancelled():
    def program():
        fired = []
        timer = threading.Timer(60, lambda: fired.append(1))
        timer.start()
        timer.cancel()
        timer.join()
        return len(fired)

    assert set(explore(program).check().states) == {0, 1}


def test_a_barrier_lets_nobody_pass_before_all_are_there_and_breaks_for_all():
    def program():
        barrier, arrived, passed = threading.Barrier(3), [], []

        def meet():
            arrived.append(1)
            barrier.wait()
            assert len(arrived) == 3
            passed.append(1)

        seam.parallel(meet, meet, meet)
        assert len(passed) == 3

    assert explore(program, audit=False).check().schedules >= 6

    def broken():
        barrier, seen = threading.Barrier(2), []

        def meet(timeout):
            try:
                barrier.wait(timeout)
                seen.append("passed")
            except real_threading.BrokenBarrierError:
                seen.append("broken")

        seam.parallel(lambda: meet(1), lambda: meet(None))
        return tuple(seen)

    assert set(explore(broken, audit=False).check().states) == {
        ("passed", "passed"), ("broken", "broken"),
    }  # fmt: skip


def test_a_task_has_locals_and_an_identity_of_its_own():
    class Settings(threading.local):
        def __init__(self, start):
            self.n = start

    def program():
        settings = Settings(7)
        settings.n = 8
        idents = set()

        def task():
            assert settings.n == 7
            settings.n = 9
            assert settings.__dict__ == {"n": 9}
            idents.add(threading.get_ident())
            assert threading.current_thread() is not threading.main_thread()

        seam.parallel(task, task)
        assert settings.n == 8
        assert len(idents) == 2

    assert explore(program, audit=False).check().passed


def test_wrong_use_fails_as_it_does_with_the_real_ones():
    for module in (threading, real_threading):
        with pytest.raises(RuntimeError, match="release unlocked lock"):
            module.Lock().release()
        with pytest.raises(RuntimeError, match="un-acquired"):
            module.RLock().release()
        with pytest.raises(RuntimeError, match="un-acquired lock"):
            module.Condition().wait(0)
        with pytest.raises(ValueError, match="non-blocking"):
            module.Lock().acquire(False, 1)
        with pytest.raises(ValueError, match="too many times"):
            module.BoundedSemaphore(1).release()
    with pytest.raises(ValueError, match="parties"):
        threading.Barrier(0)
    with pytest.raises(errors.VerifyError, match="outside an exploration"):
        threading.Event().wait()
