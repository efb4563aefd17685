# SPDX-License-Identifier: Apache-2.0
"""Threads that run tasks one at a time. Each waits for its turn on a lock of its own.

All of them run on one processor while an exploration lasts, because passing a turn to another
processor takes several times as long.
"""

from __future__ import annotations

import _thread
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from .errors import Abandoned


def _processor() -> set[int]:
    allowed = sorted(os.sched_getaffinity(0))
    return {allowed[os.getpid() % len(allowed)]}


@contextmanager
def one_processor() -> Iterator[None]:
    """Keep the calling thread, and the threads that it starts, on one processor."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, _processor())
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class Worker:
    """A thread that runs one job after the other. One that is `lost` ends after its job."""

    __slots__ = ("ident", "job", "lost", "turn")

    def __init__(self) -> None:
        self.turn = _thread.allocate_lock()
        self.turn.acquire()
        self.job: Callable[[], None] | None = None
        self.ident = 0
        self.lost = False
        _thread.start_new_thread(self._loop, ())

    def _loop(self) -> None:
        self.ident = _thread.get_ident()
        with suppress(Abandoned):  # it may be raised late in a thread whose task has stalled
            while not self.lost:
                self.turn.acquire()
                if self.job is None:
                    return
                self.job()

    def start(self, job: Callable[[], None]) -> None:
        self.job = job
        self.turn.release()


class Pool:
    """Idle workers. Only the task that has the turn uses the pool."""

    def __init__(self) -> None:
        self._idle: list[Worker] = []

    def get(self) -> Worker:
        return self._idle.pop() if self._idle else Worker()

    def put(self, worker: Worker) -> None:
        self._idle.append(worker)

    def close(self) -> None:
        """End the idle threads."""
        for worker in self._idle:
            worker.job = None
            worker.turn.release()
        self._idle.clear()
