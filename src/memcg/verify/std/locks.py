# SPDX-License-Identifier: Apache-2.0
"""Locks, conditions, events, semaphores and barriers with the names and manners of `threading`."""

from __future__ import annotations

import threading as real
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from .. import runtime
from ..errors import VerifyError
from ..objects import Event as _Event
from ..objects import Sync
from ..runtime import Run
from ..task import Task
from ..trace import ACQUIRE, BLOCK, ENABLE, READ, WRITE

BrokenBarrierError = real.BrokenBarrierError


def _check(blocking: bool, timeout: float | None) -> None:
    if not blocking and timeout not in (None, -1):
        raise ValueError("can't specify a timeout for a non-blocking call")
    if timeout is not None and timeout < 0 and timeout != -1:
        raise ValueError("timeout value must be a non-negative number")


def _never(what: str) -> VerifyError:
    return VerifyError(f"{what} outside an exploration never ends")


class Lock(Sync):
    """A lock, which any task may release.

    A release is no scheduling point until a task tries the lock, waits for it with a time, asks
    whether it is locked, or releases what another task has taken (`Run.watch`).
    """

    def __init__(self, name: str = "lock") -> None:
        super().__init__(name)
        self._owner: Task | str | None = None

    def _state(self) -> Any:
        return self._owner

    def _restore(self, state: Any) -> None:
        self._owner = state

    def _is_free(self) -> bool:
        return self._owner is None

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        _check(blocking, timeout)
        run = self._in(runtime.active)
        if run is None:
            if self._owner is not None:
                if blocking and timeout == -1:
                    raise _never(f"a wait for {self.name}")
                return False
            self._owner = "outside"
            return True
        if run.quiet:
            return True
        if blocking and timeout == -1:
            use = WRITE | BLOCK if run.watches(self) else ACQUIRE
            if run.step("acquire", self, use, self._is_free):
                run.access(self, use)
        elif not self._try(run, timeout if blocking else -1):
            return False
        self._owner = run.current
        run.current.held.append(self)
        return True

    def _try(self, run: Run, timeout: float) -> bool:
        run.watch(self)
        if timeout >= 0:
            return run.timed("acquire with a time", self, WRITE, self._is_free, timeout)
        if run.step("try", self, WRITE):
            run.access(self, WRITE if self._owner is None else READ)
        return self._owner is None

    def release(self) -> None:
        run = self._in(runtime.active)
        if run is None:
            if self._owner is None:
                raise RuntimeError("release unlocked lock")
            self._owner = None
            return
        if run.quiet:
            return
        if run.abandoned:
            self._owner = None
            return
        if self._owner is not run.current:
            run.watch(self)
        if run.watches(self):
            if run.step("release", self, WRITE | ENABLE):
                run.access(self, READ if self._owner is None else WRITE | ENABLE)
        else:
            run.merge()
            run.note("release", self)
            run.released(self)
        if self._owner is None:
            raise RuntimeError("release unlocked lock")
        if isinstance(self._owner, Task):
            self._owner.held.remove(self)
        self._owner = None

    def locked(self) -> bool:
        run = self._in(runtime.active)
        if run is not None and not run.quiet:
            run.watch(self)
            if run.step("look at", self, READ):
                run.access(self, READ)
        return self._owner is not None

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *exc: object) -> None:
        self.release()

    def _is_owned(self) -> bool:
        return self._owner is not None

    def _release_save(self) -> int:
        self.release()
        return 1

    def _acquire_restore(self, count: int) -> None:
        self.acquire()


class RLock(Lock):
    """A lock that its owner may take again."""

    def __init__(self, name: str = "rlock") -> None:
        super().__init__(name)
        self._count = 0

    def _state(self) -> Any:
        return self._owner, self._count

    def _restore(self, state: Any) -> None:
        self._owner, self._count = state

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        if runtime.active is not None and runtime.active.quiet:
            return True
        if not self._is_owned():
            if not super().acquire(blocking, timeout):
                return False
            self._count = 0
        self._count += 1
        return True

    def release(self) -> None:
        run = self._in(runtime.active)
        if not self._is_owned():
            if run is not None and (run.quiet or run.abandoned):
                return
            raise RuntimeError("cannot release un-acquired lock")
        self._count -= 1
        if not self._count:
            super().release()

    def __enter__(self) -> bool:
        return self.acquire()

    def _is_owned(self) -> bool:
        run = self._in(runtime.active)
        return self._owner is not None and (run is None or self._owner is run.current)

    def _release_save(self) -> int:
        count, self._count = self._count, 1
        self.release()
        return count

    def _acquire_restore(self, count: int) -> None:
        self.acquire()
        self._count = count


class _Waiter(Sync):
    """A task that waits in a condition."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.notified = False
        self.timed = False

    def is_notified(self) -> bool:
        return self.notified


class Condition:
    """A condition variable over a `Lock` or an `RLock`."""

    def __init__(self, lock: Lock | None = None) -> None:
        self._lock = RLock() if lock is None else lock
        self._waiters: deque[_Waiter] = deque()
        self.acquire, self.release = self._lock.acquire, self._lock.release

    def __enter__(self) -> bool:
        return self._lock.__enter__()

    def __exit__(self, *exc: object) -> None:
        self._lock.__exit__(*exc)

    def _is_owned(self) -> bool:
        return self._lock._is_owned()

    def wait(self, timeout: float | None = None) -> bool:
        run = runtime.active
        if not self._is_owned() and not (run is not None and run.abandoned):
            raise RuntimeError("cannot wait on un-acquired lock")
        if run is None or run.quiet:
            if timeout is None:
                raise _never("a wait for a condition")
            return False
        waiter = _Waiter("condition")
        waiter.timed = timeout is not None
        self._waiters.append(waiter)
        saved, done = self._lock._release_save(), False
        try:
            if timeout is None:
                use = READ | BLOCK
                if run.step("wait", waiter, use, waiter.is_notified):
                    run.access(waiter, use)
                done = True
            else:
                done = run.timed("wait with a time", waiter, READ, waiter.is_notified, timeout,
                                 f"{self._lock.key}:condition")  # fmt: skip
        finally:
            self._lock._acquire_restore(saved)
            if not done:  # a notification of between is lost, as it is in the real one
                with suppress(ValueError):
                    self._waiters.remove(waiter)
        return done

    def wait_for(self, predicate: Callable[[], Any], timeout: float | None = None) -> Any:
        """Wait until the predicate holds; with a time, until that is over."""
        run = runtime.active
        until = None if timeout is None or run is None else run.current.now_s + timeout
        result = predicate()
        while not result:
            if until is not None and run is not None:
                timeout = until - run.current.now_s
                if timeout <= 0:
                    break
            self.wait(timeout)
            result = predicate()
        return result

    def notify(self, n: int = 1) -> None:
        run = runtime.active
        if not self._is_owned() and not (run is not None and run.abandoned):
            raise RuntimeError("cannot notify on un-acquired lock")
        if run is None or run.quiet or run.abandoned:
            return
        while n > 0 and self._waiters:
            waiter = self._waiters[0]
            if waiter.timed:  # it can run out before this, or after
                if run.step("notify", waiter, WRITE | ENABLE):
                    run.access(waiter, WRITE | ENABLE)
            else:
                run.note("notify", waiter)
                run.released(waiter)
                waiter.enabled = waiter.written
            waiter.notified = True
            with suppress(ValueError):
                self._waiters.remove(waiter)
            n -= 1

    def notify_all(self) -> None:
        self.notify(len(self._waiters))

    notifyAll = notify_all


class Event(_Event):
    """An event. A wait with a time may run out at any moment."""

    def __init__(self) -> None:
        super().__init__("event")

    isSet = _Event.is_set

    def wait(self, timeout: float | None = None) -> bool:
        run = self._in(runtime.active)
        if timeout is None:
            return super().wait()
        if run is None or run.quiet:
            return self._set
        return run.timed("wait with a time", self, READ, lambda: self._set, timeout)


class Semaphore(Sync):
    """A counting semaphore."""

    def __init__(self, value: int = 1) -> None:
        if value < 0:
            raise ValueError("semaphore initial value must be >= 0")
        super().__init__("semaphore")
        self._value = value

    def _state(self) -> Any:
        return self._value

    def _restore(self, state: Any) -> None:
        self._value = state

    def _is_free(self) -> bool:
        return self._value > 0

    def acquire(self, blocking: bool = True, timeout: float | None = None) -> bool:
        if not blocking and timeout is not None:
            raise ValueError("can't specify timeout for non-blocking acquire")
        run = self._in(runtime.active)
        if run is None:
            if not self._value:
                if blocking and timeout is None:
                    raise _never("a wait for a semaphore")
                return False
        elif run.quiet:
            return True
        elif blocking and timeout is None:
            use = WRITE | BLOCK
            if run.step("acquire", self, use, self._is_free):
                run.access(self, use)
        elif timeout is not None:
            if not run.timed("acquire with a time", self, WRITE, self._is_free, timeout):
                return False
        else:
            if run.step("try", self, WRITE):
                run.access(self, WRITE if self._value else READ)
            if not self._value:
                return False
        self._value -= 1
        return True

    def release(self, n: int = 1) -> None:
        if n < 1:
            raise ValueError("n must be one or more")
        run = self._in(runtime.active)
        if run is not None and (run.quiet or run.abandoned):
            return
        if run is not None and run.step("release", self, WRITE | ENABLE):
            run.access(self, WRITE if self._value else WRITE | ENABLE)
        self._check_room(n)
        self._value += n

    def _check_room(self, n: int) -> None:
        """Raise if the value must not grow by `n`."""

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *exc: object) -> None:
        self.release()


class BoundedSemaphore(Semaphore):
    """A semaphore whose value never exceeds the first one."""

    def __init__(self, value: int = 1) -> None:
        super().__init__(value)
        self._initial_value = value

    def _check_room(self, n: int) -> None:
        if self._value + n > self._initial_value:
            raise ValueError("Semaphore released too many times")


class Barrier:
    """A barrier for a fixed number of tasks, which can be used again."""

    def __init__(
        self, parties: int, action: Callable[[], object] | None = None,
        timeout: float | None = None,
    ) -> None:  # fmt: skip
        if parties < 1:
            raise ValueError("parties must be >= 1")
        self._changed = Condition(Lock("barrier"))
        self._parties, self._action, self._timeout = parties, action, timeout
        self._inside = 0
        self._state = "filling"  # then "draining"; or "resetting", "broken"

    @property
    def parties(self) -> int:
        return self._parties

    @property
    def n_waiting(self) -> int:
        with self._changed:
            return self._inside if self._state == "filling" else 0

    @property
    def broken(self) -> bool:
        with self._changed:
            return self._state == "broken"

    def wait(self, timeout: float | None = None) -> int:
        timeout = self._timeout if timeout is None else timeout
        with self._changed:
            self._changed.wait_for(lambda: self._state not in ("draining", "resetting"))
            if self._state == "broken":
                raise BrokenBarrierError
            index = self._inside
            self._inside += 1
            try:
                if self._inside == self._parties:
                    self._release()
                else:
                    self._wait(timeout)
                return index
            finally:
                self._inside -= 1
                if not self._inside and self._state in ("resetting", "draining"):
                    self._state = "filling"
                    self._changed.notify_all()

    def _release(self) -> None:
        try:
            if self._action is not None:
                self._action()
        except BaseException:
            self._break()
            raise
        self._state = "draining"
        self._changed.notify_all()

    def _wait(self, timeout: float | None) -> None:
        if not self._changed.wait_for(lambda: self._state != "filling", timeout):
            self._break()
            raise BrokenBarrierError
        if self._state in ("broken", "resetting"):
            raise BrokenBarrierError

    def _break(self) -> None:
        self._state = "broken"
        self._changed.notify_all()

    def reset(self) -> None:
        with self._changed:
            if not self._inside:
                self._state = "filling"
            elif self._state in ("filling", "broken"):
                self._state = "resetting"
            self._changed.notify_all()

    def abort(self) -> None:
        with self._changed:
            self._break()
