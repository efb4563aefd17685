# SPDX-License-Identifier: Apache-2.0
"""Modules that were written for the real `threading` are explored as they are."""

from __future__ import annotations

import queue
import sys
import threading
import time
import types

import pytest
from verify import ordinary

from memcg.verify import errors, explore, patch, replay, seam


def lost_wake_up(kind):
    def program():
        jobs = kind()
        seam.parallel(jobs.get, jobs.get, lambda: jobs.put(1), lambda: jobs.put(2))

    return program


def test_a_lost_wake_up_in_a_queue_made_at_home_is_found_and_replays():
    program = lost_wake_up(ordinary.Jobs)
    with patch("verify.ordinary"):
        result = explore(program, audit=False)
        failure = result.failure
        assert isinstance(failure.exception, errors.Deadlock)
        assert "get waits in wait condition" in str(failure.exception)
        assert "ordinary.py:" in failure.timeline
        again = replay(program, failure.replay)
    assert str(again.exception) == str(failure.exception)


def test_the_mended_queue_holds_in_every_schedule():
    with patch("verify.ordinary"):
        assert explore(lost_wake_up(ordinary.SafeJobs), audit=False).check().schedules > 24


def computing(calls_allowed):
    def program():
        calls = []

        def square(n):
            calls.append(n)
            return n * n

        found = ordinary.cached(square, ordinary.threading.Lock())
        seam.parallel(lambda: found(3), lambda: found(3))
        assert len(calls) <= calls_allowed, "computed twice"
        assert found(3) == 9

    return program


def test_a_cache_that_computes_outside_its_lock_computes_twice():
    with patch(ordinary):
        failure = explore(computing(1), audit=False).failure
        assert str(failure.exception).startswith("computed twice")
        assert failure.preemptions == 1
        assert explore(computing(2), audit=False).check().schedules > 1


def test_a_subclass_of_thread_and_a_default_and_an_imported_function_are_patched():
    def program():
        jobs = ordinary.queue.Queue()
        worker = ordinary.Worker(jobs)
        worker.start()
        jobs.put("job")
        jobs.put(None)
        worker.join()
        assert worker.began >= 1e9
        return tuple(worker.done)

    before = ordinary.Worker.__bases__, ordinary.Worker.__init__.__defaults__
    with patch(ordinary):
        states = set(explore(program, audit=False).check().states)
        assert ordinary.Worker.__bases__ == (seam.threading.Thread,)
    assert states == {("job",), ()}, "a job that is late is not done"
    assert (ordinary.Worker.__bases__, ordinary.Worker.__init__.__defaults__) == before


def test_a_lock_that_was_made_when_the_module_was_loaded_is_patched_and_comes_back():
    def program():
        mine = {}

        def add():
            with ordinary.registry_lock:
                mine["n"] = mine.get("n", 0) + 1

        seam.parallel(add, add)
        assert mine["n"] == 2

    real = ordinary.registry_lock
    with patch(ordinary):
        assert explore(program).check().schedules == 2
    assert ordinary.registry_lock is real


def test_everything_is_as_before_also_after_an_exception():
    before = dict(vars(ordinary))
    with pytest.raises(ZeroDivisionError), patch(ordinary):
        assert ordinary.threading is not threading
        assert ordinary.queue is not queue
        assert ordinary.time is not time
        assert ordinary.now is not time.monotonic
        raise ZeroDivisionError
    assert dict(vars(ordinary)) == before


def test_other_names_of_the_modules_are_the_real_ones():
    with patch(ordinary):
        assert ordinary.threading.TIMEOUT_MAX == threading.TIMEOUT_MAX
        assert ordinary.time.strftime is time.strftime
        assert ordinary.queue.Empty is queue.Empty


def made(source):
    module = types.ModuleType("made")
    exec(source, vars(module))
    return module


def test_a_condition_and_its_lock_stay_together():
    module = made("import threading as t\nlock = t.Lock()\ncondition = t.Condition(lock)\n"
                  "event = t.Event()\nevent.set()\nsemaphore = t.Semaphore(3)\n")  # fmt: skip
    with patch(module):
        assert module.condition._lock is module.lock
        assert module.event.is_set()
        assert module.semaphore._value == 3


def test_what_is_held_or_filled_is_not_patched_and_nothing_stays_changed():
    held = made("import threading\nlock = threading.Lock()\nlock.acquire()\n")
    filled = made("import queue\nq = queue.Queue()\nq.put(1)\n")
    for module in (held, filled):
        before = dict(vars(module))
        with pytest.raises(errors.VerifyError, match="cannot be patched"), patch(module):
            pass
        assert dict(vars(module)) == before


def test_all_modules_of_a_package_are_patched(tmp_path, monkeypatch):
    for name, text in {"__init__": "from . import a", "a": "from threading import Lock"}.items():
        (tmp_path / "package_24").mkdir(exist_ok=True)
        (tmp_path / "package_24" / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with patch("package_24.*"):
        assert sys.modules["package_24.a"].Lock is seam.threading.Lock
    assert sys.modules["package_24.a"].Lock is threading.Lock
