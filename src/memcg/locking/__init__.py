# SPDX-License-Identifier: Apache-2.0
"""The only door to threads, locks, waits and shared fields.

Production runs on the bare primitives of this module. The explorer
(`memcg.verify`) loads the same control plane with a module of the same names in
its place, where each operation is a scheduling point. Nothing else in the package may import
``threading``, ``_thread`` or ``queue``; ``tests/house/test_layers.py`` holds that. What only the
model core needs of it lies in `lockless`, which is read when it is asked for here.

Lock order, outermost first: ``cgroup_mutex``, ``activate_kmem_mutex``,
``memcg_slab_mutex``, ``slab_mutex``, then the locks private to the data plane.

Kernel: ``include/linux/mutex.h``, ``include/linux/rcupdate.h``.
Where we differ: a mutex here is the native core's (`core/binding/mutex.c`), which `memcg.core`
hands in by `begin`, or, without that, a reentrant lock of CPython's, because their ``__enter__`` is
one C call that no asynchronous exception can cut in two. Recursion is still an error: the explorer
reports it. ``threading`` is not imported: with what it imports it would be a third of a bare
interpreter's start.
"""

from __future__ import annotations

import _thread
import atexit
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Hashable
    from typing import TypeVar

    from .lockless import Atomic, Published, ReadSide

    C = TypeVar("C", bound=type)

__all__ = [
    "Atomic", "Event", "Mutex", "Published", "ReadSide", "assert_held", "at_exit", "at_fork",
    "begin", "choose", "current_task", "freed", "report_exception", "shared", "spawn",
]  # fmt: skip


if TYPE_CHECKING:
    from ..core._core import Mutex as _Mutex
else:

    class _Mutex(_thread.RLock):
        def __new__(cls, name: str) -> Mutex:
            self = super().__new__(cls)
            self.name = name
            return self

        def __init__(self, name: str) -> None:
            pass

        def acquire_within(self, seconds: float) -> bool:
            return _thread.RLock.acquire(self, True, seconds)

        def lend(self) -> None:
            """Keep it: CPython's locks cannot be taken from the thread that holds them."""

        held = _thread.RLock._is_owned
        forget_holder = _thread.RLock._at_fork_reinit


class Mutex(_Mutex):
    """A mutex with a name.

    ``held()`` tells whether the caller holds it. ``acquire_within(seconds)`` tells whether it got
    it. After ``lend()`` the caller holds it until another thread has waited for it for some
    milliseconds. ``forget_holder()`` is for the child of a fork and a mutex that the caller does
    not hold: the thread that held it is gone.
    """


def begin(native: type | None) -> None:
    """Have mutexes be of the class `native`, and lockdep attached if the environment asks for it.

    `memcg.core` calls it, once, before anybody makes a mutex; None: there is no native core.
    """
    if native is not None:
        names = {"__slots__": (), "__doc__": Mutex.__doc__, "__module__": __name__}
        globals()["Mutex"] = type("Mutex", (native,), names)
    if value := os.environ.get("MEMCG_LOCKDEP"):
        from . import lockdep

        lockdep.attach_from_environment(sys.modules[__name__], value)


def assert_held(mutex: Mutex) -> None:
    """Fail loudly unless the caller holds `mutex`. Kernel: ``lockdep_assert_held``."""
    if not mutex.held():
        raise AssertionError(f"{mutex.name} is not held")


class Event:
    """An event with a name.

    A waiter appends a lock of its own, then looks whether the event is set; `set` stores first,
    then releases the locks it finds. So one of them sees the other, and a fork
    in between leaves no lock behind that the child needs.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._is_set = False
        self._waiters: list[_thread.LockType] = []

    def is_set(self) -> bool:
        return self._is_set

    def clear(self) -> None:
        self._is_set = False

    def set(self) -> None:
        """Let the waiters go, now and until `clear`."""
        self._is_set = True
        while self._waiters:
            try:
                waiter = self._waiters.pop()
            except IndexError:  # another thread sets it too
                return
            waiter.release()

    def wait(self, within: float = -1) -> bool:
        """Block until the event is set, or for `within` seconds; tell whether it was set."""
        if self._is_set:
            return True  # nobody would take the lock off the list again
        waiter = _thread.allocate_lock()
        waiter.acquire()
        self._waiters.append(waiter)
        return self._is_set or waiter.acquire(True, within)


def spawn(fn: Callable[[], None], name: str) -> None:
    """Start a daemon thread that runs `fn`; `name` is for the explorer."""
    _thread.start_new_thread(fn, ())


def know_main_thread() -> None:
    """Before code that is not ours runs in a thread of ours.

    Before CPython 3.13 ``threading`` takes the thread that imports it first for the main thread.
    """
    import threading  # noqa: F401


def at_fork(
    before: Callable[[], None], after: Callable[[], None], child: Callable[[], None]
) -> None:
    """Run `before` ahead of each ``os.fork``, `after` on both sides of it, `child` there first."""

    def after_in_child() -> None:
        child()
        after()

    os.register_at_fork(before=before, after_in_parent=after, after_in_child=after_in_child)


def at_exit(fn: Callable[[], None]) -> None:
    """Run `fn` when the interpreter ends, while other threads still run."""
    atexit.register(fn)


def report_exception(error: BaseException) -> None:
    """Show what nobody can catch as an uncaught exception in a thread is shown."""
    args = (type(error), error, error.__traceback__)
    threading = sys.modules.get("threading")
    if threading is None:  # importing it in a thread of ours would make that its main thread
        sys.excepthook(*args)
    else:
        threading.excepthook(threading.ExceptHookArgs((*args, threading.current_thread())))


def shared(**guards: str | None) -> Callable[[C], C]:
    """Declare what guards which field: ``@shared(list="memcg_slab_mutex")``. Free in production."""

    def declare(cls: C) -> C:
        return cls

    return declare


def freed(obj: object) -> None:
    """Say that `obj` must not be touched again; the explorer reports a task that does."""


def current_task() -> Hashable:
    """Identify the running thread."""
    return _thread.get_ident()


def choose(n: int) -> int:
    """Pick an injected fault: always 0 in production; the explorer tries 0 to `n` - 1."""
    return 0


if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """`Atomic`, `Published` and `ReadSide`."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from . import lockless

        return getattr(lockless, name)
