# SPDX-License-Identifier: Apache-2.0
"""What threads share without a mutex in the model core. `locking` offers these names too.

The native core has atomics and grace periods of its own, so a program that runs on it does not
import this file.

Kernel: ``include/linux/atomic.h``, ``include/linux/rcupdate.h``.
"""

from __future__ import annotations

import _thread
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Generic, TypeVar

    T = TypeVar("T")
else:
    T, Generic = None, {None: object}


class Atomic:
    """An integer that is changed by indivisible steps. Kernel: ``atomic_t``."""

    __slots__ = ("_value",)
    _lock = _thread.allocate_lock()  # one for all: held for a store or two, and during a fork

    def __init__(self, value: int = 0) -> None:
        self._value = value

    def get(self) -> int:
        return self._value

    def set(self, value: int) -> None:
        with self._lock:
            self._value = value

    def add(self, n: int) -> int:
        """Add `n` and return the new value."""
        with self._lock:
            self._value += n
            return self._value

    def swap(self, value: int) -> int:
        with self._lock:
            old, self._value = self._value, value
            return old

    def compare_exchange(self, expected: int, new: int) -> bool:
        with self._lock:
            if self._value != expected:
                return False
            self._value = new
            return True


os.register_at_fork(
    before=Atomic._lock.acquire,
    after_in_parent=Atomic._lock.release,
    after_in_child=Atomic._lock.release,
)


class Published(Generic[T]):
    """A cell that one thread writes and all read without a lock: release store, acquire load."""

    __slots__ = ("_value",)

    def __init__(self, value: T) -> None:
        self._value = value

    def load(self) -> T:
        return self._value

    def store(self, value: T) -> None:
        self._value = value


class ReadSide:
    """Read-side sections and a grace period. A reader never waits for a reader. Kernel: RCU.

    `synchronize` returns when every section that was open at the call has ended.
    """

    def __init__(self) -> None:
        import threading

        self._change = threading.Condition(_thread.allocate_lock())
        self._depth: dict[int, int] = {}  # thread -> nesting
        self._entered: dict[int, int] = {}  # thread -> the number of its open section
        self._clock = 0

    def __enter__(self) -> None:
        me = _thread.get_ident()
        with self._change:
            if me not in self._depth:
                self._clock += 1
                self._entered[me] = self._clock
            self._depth[me] = self._depth.get(me, 0) + 1

    def __exit__(self, *exc: object) -> None:
        me = _thread.get_ident()
        with self._change:
            self._depth[me] -= 1
            if not self._depth[me]:
                del self._depth[me], self._entered[me]
                self._change.notify_all()

    def synchronize(self) -> None:
        """Wait for a grace period. Kernel: ``synchronize_rcu``.

        Raises
        ------
        AssertionError
            The caller is inside a section, which would never end.
        """
        with self._change:
            if _thread.get_ident() in self._depth:
                raise AssertionError("synchronize called inside a read-side section")
            began = dict(self._entered)
            self._change.wait_for(
                lambda: all(self._entered.get(t) != section for t, section in began.items())
            )

    def after_fork_in_child(self) -> None:
        """Forget the sections of threads that the fork has ended."""
        me = _thread.get_ident()
        self._change = type(self._change)(_thread.allocate_lock())
        self._depth = {me: self._depth[me]} if me in self._depth else {}
        self._entered = {t: self._entered[t] for t in self._depth}
