# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import os
import random
import resource
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress

import pytest

from memcg import locking
from memcg.control import fork
from memcg.core._core import Mutex
from memcg.locking import Event


def test_waiting_for_an_event_that_is_set_leaves_nothing_behind():
    event = Event("e")
    event.set()
    for _ in range(3):
        event.wait()
    assert not event._waiters


def test_all_waiting_threads_are_let_go_and_a_later_one_is_not_held():
    event, passed = Event("e"), []
    threads = [threading.Thread(target=lambda: (event.wait(), passed.append(1))) for _ in range(8)]
    for thread in threads:
        thread.start()
    while len(event._waiters) < len(threads):
        pass
    assert not passed
    event.set()
    event.wait()
    for thread in threads:
        thread.join()
    assert len(passed) == len(threads)


# -- the native mutex (binding/mutex.c); tests/verify/test_native_mutex.py has its proof


def test_the_control_plane_has_native_mutexes():
    assert all(isinstance(mutex, Mutex) for mutex in fork._MUTEXES)


def test_a_mutex_is_taken_again_by_its_holder_and_released_by_no_other():
    mutex = Mutex("m")
    with mutex, mutex:
        assert mutex.held()
    assert not mutex.held()
    for held in (False, True):
        with mutex if held else nullcontext(), ThreadPoolExecutor(1) as other:
            with pytest.raises(RuntimeError, match="m is not held by this thread"):
                other.submit(mutex.release).result()
            assert mutex.locked() == held


def run_all(*works):
    threads = [threading.Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_a_waiting_thread_does_not_hold_up_a_working_one():
    """A turn of the GIL costs a few switches; a convoy costs one in three or four acquisitions."""

    def work():
        for _ in range(20_000):
            with mutex:
                json.dumps({})

    mutex = Mutex("m")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw
    run_all(*[work] * 8)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw - before < 8 * 20_000 / 20


@pytest.fixture
def hog():
    """Yield a mutex that a thread lets go only for an instant in each millisecond."""
    mutex, stop = Mutex("m"), []

    def work():
        while not stop:
            with mutex:
                end = time.perf_counter() + 0.001
                while time.perf_counter() < end:
                    pass

    thread = threading.Thread(target=work)
    thread.start()
    yield mutex
    stop.append(1)
    thread.join()


def test_a_waiting_thread_is_not_passed_over_for_ever(hog):
    """It waits for two turns of the GIL, 10 ms. If it were passed over it would wait a second."""
    start = time.monotonic()
    for _ in range(20):
        with hog:
            pass
        time.sleep(0.001)
    assert time.monotonic() - start < 3


@contextmanager
def signals(interval: float, handler):
    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, interval, interval)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class Interrupted(Exception):
    pass


def test_a_signal_ends_the_wait_of_the_main_thread_if_its_handler_raises():
    def handler(*_):
        seen.append(1)
        if len(seen) == 3:
            raise Interrupted

    mutex, seen, hold = Mutex("m"), [], threading.Event()
    with ThreadPoolExecutor(2) as others:
        held = others.submit(lambda: [mutex.acquire(), hold.wait(), mutex.release()])
        while not mutex.locked():
            pass
        with pytest.raises(Interrupted), signals(0.01, handler), mutex:
            pytest.fail("it was not free")
        waits = others.submit(lambda: [mutex.acquire(), mutex.release()])
        hold.set()
        held.result(10)
        waits.result(10)
    assert len(seen) >= 3


def test_signals_lose_no_wake_up_and_no_mutex():
    class ControlPlanesMutex(Mutex):  # as `locking.begin` makes it, and lockdep is not in between
        if sys.version_info >= (3, 14):
            __enter__ = locking._enter

    def handler(*_):
        if armed and random.random() < 0.5:
            armed.clear()
            raise Interrupted

    def count(times):
        for _ in range(times):
            with mutex:
                value = total[0]
                json.dumps({})
                total[0] = value + 1

    mutex, total, mine, armed = ControlPlanesMutex("m"), [0], 0, []
    others = [threading.Thread(target=count, args=(20_000,)) for _ in range(3)]
    for thread in others:
        thread.start()
    with signals(0.0005, handler):
        while any(thread.is_alive() for thread in others):
            with suppress(Interrupted):
                armed.append(1)
                with mutex:
                    value = total[0]
                    total[0], mine = value + 1, mine + 1
                armed.clear()
    with mutex:
        assert total[0] == 60_000 + mine


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")  # the fork is the test
def test_the_child_of_a_fork_has_no_waiters():
    mutex = Mutex("m")
    threads = [threading.Thread(target=lambda: [mutex.acquire(), mutex.release()]) for _ in "123"]
    with mutex:
        for thread in threads:
            thread.start()
        time.sleep(0.05)
        if (pid := os.fork()) == 0:
            thread = threading.Thread(target=mutex.acquire)
            thread.start()
            time.sleep(0.05)
            mutex.release()  # wakes this thread and not one of the three
            thread.join(10)
            os._exit(thread.is_alive())
    assert os.waitpid(pid, 0)[1] == 0
    for thread in threads:
        thread.join()
