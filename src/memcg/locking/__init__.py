# SPDX-License-Identifier: Apache-2.0
"""The only door to threads, locks, waits and shared fields.

Production runs on the bare primitives of this module. The explorer
(`memcg.verify`) loads the same control plane with a module of the same names in
its place, where each operation is a scheduling point. No other module of the package may import
``threading``, ``_thread`` or ``queue``; ``tests/house/test_layers.py`` holds that. `lockless` has
the classes that only the model core needs. It is imported when one of them is asked for here.

Lock order, outermost first: ``cgroup_mutex``, ``activate_kmem_mutex``,
``memcg_slab_mutex``, ``slab_mutex``, then the locks private to the data plane.

Kernel: ``include/linux/mutex.h``, ``include/linux/rcupdate.h``.
Where we differ: a mutex is the native core's (`core/binding/mutex.c`), which `memcg.core` passes to
`begin`. Without the native core it is a reentrant lock of CPython's. Up to 3.13 both have an
``__enter__`` that is one C call, which no asynchronous exception can cut in two; see `_enter` for
later versions. Recursion is still an error, and the explorer reports it. ``threading`` is not
imported, because it and its imports would take a third of a bare interpreter's start.
"""

from __future__ import annotations

import _thread
import atexit
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Hashable
    from contextvars import Context
    from typing import TypeVar

    from .lockless import Atomic, Published, ReadSide

    C = TypeVar("C", bound=type)

__all__ = [
    "Atomic", "Event", "Mutex", "Published", "ReadSide", "any_held", "assert_held", "at_exit",
    "at_fork", "begin", "choose", "current_task", "ended_threads", "freed", "is_forgotten",
    "name_of", "report_exception", "shared", "spawn",
]  # fmt: skip


def _enter(mutex: Mutex) -> None:
    """Take the mutex as ``with`` does, so that an exception of a signal handler cannot keep it.

    Since CPython 3.14 a check for signals follows the call of an ``__enter__`` in C, ahead of the
    block. Nothing would release the mutex if a handler raised there. None follows one in Python.
    """
    depth = mutex.depth  # an attribute: CPython checks after calls
    try:
        mutex.acquire()
    except BaseException:
        if mutex.depth > depth:
            mutex.release()
        raise


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
            """Keep the mutex: a lock of CPython's cannot be taken from the thread that holds it."""

        held = _thread.RLock._is_owned
        if sys.version_info >= (3, 14):
            depth = property(_thread.RLock._recursion_count)
            __enter__ = _enter
        forget_holder = _thread.RLock._at_fork_reinit


class Mutex(_Mutex):
    """A mutex with a name.

    ``held()`` tells whether the caller holds it. ``acquire_within(seconds)`` tells whether the
    caller got it in that time. After ``lend()`` the caller holds it until another thread has waited
    for it for some milliseconds. ``forget_holder()`` is for the child of a fork, when the thread
    that held the mutex is gone.
    """


def begin(native: type | None) -> None:
    """Make `native` the base of `Mutex`, and attach lockdep if the environment asks for it.

    `memcg.core` calls it once, before any mutex is made. None means that there is no native core.
    """
    if native is not None:
        names = {"__slots__": (), "__doc__": Mutex.__doc__, "__module__": __name__}
        if sys.version_info >= (3, 14):
            names["__enter__"] = _enter
        globals()["Mutex"] = type("Mutex", (native,), names)
        globals()["any_held"] = native.any_held  # type: ignore[attr-defined]
    if value := os.environ.get("MEMCG_LOCKDEP"):
        from . import lockdep

        lockdep.attach_from_environment(sys.modules[__name__], value)


def any_held(*mutexes: Mutex) -> bool:
    """Tell whether the caller holds one of the mutexes. The native core's function replaces it."""
    return any(mutex.held() for mutex in mutexes)


def assert_held(mutex: Mutex) -> None:
    """Raise AssertionError unless the caller holds `mutex`. Kernel: ``lockdep_assert_held``."""
    if not mutex.held():
        raise AssertionError(f"{mutex.name} is not held")


class Event:
    """An event with a name.

    A waiter appends a lock of its own, then looks whether the event is set. `set` stores first,
    then releases the locks that it finds. So at least one of them sees the other. A fork in between
    leaves no lock behind that the child needs.
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
        """Let all waiters go on, the present ones and those that wait before the next `clear`."""
        self._is_set = True
        while self._waiters:
            try:
                waiter = self._waiters.pop()
            except IndexError:  # another thread sets the event too, and has taken the lock
                return
            waiter.release()

    def wait(self, within: float = -1) -> bool:
        """Block until the event is set, and tell whether it was.

        `within` is the longest time to wait in seconds; below 0 there is no bound.
        """
        if self._is_set:
            return True  # a lock that is appended now would stay on the list until the next `set`
        waiter = _thread.allocate_lock()
        waiter.acquire()
        self._waiters.append(waiter)
        return self._is_set or waiter.acquire(True, within)


def spawn(fn: Callable[[], None], name: str) -> None:
    """Start a daemon thread that runs `fn`; `name` is for the explorer."""
    _thread.start_new_thread(fn, ())


def know_main_thread() -> None:
    """Import ``threading`` before code that is not ours runs in a thread of ours.

    Before CPython 3.13, ``threading`` takes the first thread that imports it for the main thread.
    """
    import threading  # noqa: F401


def at_fork(
    before: Callable[[], None], after: Callable[[], None], child: Callable[[], None]
) -> None:
    """Run `before` before each ``os.fork``, and `after` in the parent and in the child.

    In the child, `child` runs before `after`.
    """

    def after_in_child() -> None:
        child()
        after()

    os.register_at_fork(before=before, after_in_parent=after, after_in_child=after_in_child)


def at_exit(fn: Callable[[], None]) -> None:
    """Run `fn` when the interpreter ends, while other threads still run."""
    atexit.register(fn)


def report_exception(error: BaseException) -> None:
    """Show an exception that no code can catch, as CPython shows a thread's uncaught exception."""
    args = (type(error), error, error.__traceback__)
    threading = sys.modules.get("threading")
    if threading is None:  # importing it here could make a thread of ours its main thread
        sys.excepthook(*args)
    else:
        threading.excepthook(threading.ExceptHookArgs((*args, threading.current_thread())))


def shared(**guards: str | None) -> Callable[[C], C]:
    """Declare what guards which field: ``@shared(list="memcg_slab_mutex")``.

    In production it returns the class as it is.
    """

    def declare(cls: C) -> C:
        return cls

    return declare


def freed(obj: object) -> None:
    """Note that `obj` must not be used again. The explorer reports a task that uses it."""


def is_forgotten(obj: object) -> bool:
    """Return false: only the explorer knows that no task will use `obj` any more."""
    return False


def current_task() -> Hashable:
    """Return an identifier of the running thread."""
    return _thread.get_ident()


def name_of(task: Hashable) -> str:
    """Return the name of a thread that `current_task` has identified, as an error text has it."""
    threading = sys.modules.get("threading")
    thread = getattr(threading, "_active", {}).get(task)  # `enumerate` would take a lock
    return repr(vars(thread)["_name"]) if thread is not None else str(task)


def ended_threads() -> list[tuple[str, Context]]:
    """List the names and contexts of threads that have ended and whose ``Thread`` objects live.

    Before CPython 3.14 such an object keeps no context, and the list is empty.
    """
    threading = sys.modules.get("threading")
    if threading is None:
        return []
    known = getattr(getattr(threading, "_dangling", None), "data", ())  # all that were made
    found = []
    for thread in [reference() for reference in tuple(known)]:
        names = vars(thread) if thread is not None else {}
        context = names.get("_context")
        if context is None or names["_ident"] is None or threading.Thread.is_alive(thread):
            continue
        found.append((repr(names["_name"]), context))
    return found


def choose(n: int) -> int:
    """Return 0. The explorer's `choose` tries 0 to `n` - 1, to inject faults."""
    return 0


if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """Import `Atomic`, `Published` and `ReadSide` with their first use."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from . import lockless

        return getattr(lockless, name)
