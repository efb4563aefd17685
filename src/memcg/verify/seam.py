# SPDX-License-Identifier: Apache-2.0
"""The explorer's side of the seam: a module with the names of `memcg.locking`.

If code is loaded with `module()` in place of ``locking``, each operation is a scheduling point.
`seam.threading`, `seam.queue` and `seam.time` have what the standard library's modules have.
"""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Callable, Hashable
from types import ModuleType
from typing import Any

from . import runtime
from .cells import Array, Atomic, GuardedDict, GuardedList, Published, Queue, Table
from .errors import Abandoned
from .fields import forget, freed, is_forgotten, shared
from .objects import Event, Mutex, ReadSide, check_quietly
from .task import Task

__all__ = [
    "Array", "Atomic", "Event", "GuardedDict", "GuardedList", "Mutex", "Published", "Queue",
    "ReadSide", "Table", "any_held", "assert_held", "at_exit", "at_fork", "begin", "choose",
    "current_task", "ended_threads", "forget", "fork", "freed", "is_forgotten", "module",
    "name_of", "parallel", "quietly",
    "report_exception", "settle", "shared",
    "spawn",
]  # fmt: skip

STANDARD = ("threading", "queue", "time")


def __getattr__(name: str) -> ModuleType:
    if name in STANDARD:
        return importlib.import_module(f"{__package__}.std.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


_outside = itertools.count(-1, -1)


def spawn(fn: Callable[[], Any], name: str) -> Task:
    """Start a task that runs `fn`. Outside an exploration `fn` runs at once."""
    run = runtime.active
    if run is None or run.quiet:
        task = Task(next(_outside), "", name, fn)
        task.done = True
        fn()
        return task
    if run.abandoned:
        raise Abandoned
    run.note(f"spawn {name}")
    return run.new_task(fn, name)


def parallel(*fns: Callable[[], Any]) -> None:
    """Run each function in a task of its own, named after it, and wait for all of them."""
    tasks = [spawn(fn, getattr(fn, "__name__", "task")) for fn in fns]
    run = runtime.active
    if run is not None:
        run.wait_for(tasks)


def settle() -> None:
    """Wait until all other tasks have ended, also those that no task joins."""
    run = runtime.active
    if run is not None:
        run.settle()


def any_held(*mutexes: Mutex) -> bool:
    """Tell whether the calling task holds one of the mutexes."""
    return any(mutex.held() for mutex in mutexes)


def assert_held(mutex: Mutex) -> None:
    """Raise AssertionError unless the calling task holds `mutex`."""
    if not mutex.held():
        raise AssertionError(f"{mutex.name} is not held")


def current_task() -> Hashable:
    """Return an identifier of the running task."""
    run = runtime.active
    return "outside" if run is None else run.current.key


def report_exception(error: BaseException) -> None:
    """Report an exception that no code can catch as a finding; outside an exploration raise it."""
    run = runtime.active
    if run is None:
        raise error
    if not run.abandoned:
        run.fail(error)


def choose(n: int) -> int:
    """Branch: the explorer tries 0 to `n` - 1. Outside an exploration the result is 0."""
    run = runtime.active
    return 0 if run is None else run.choose(n)


def name_of(task: Hashable) -> str:
    """Return a text for a task."""
    return str(task)


def ended_threads() -> list[tuple[str, Any]]:
    """Return an empty list, because no object outlives its task."""
    return []


def begin(native: type | None) -> None:
    """Ignore the mutex of a native core, because the explorer has its own."""


def at_fork(
    before: Callable[[], None], after: Callable[[], None], child: Callable[[], None]
) -> None:
    """Ignore the handlers. A program that forks calls them itself, around `fork`."""


def at_exit(fn: Callable[[], None]) -> None:
    """Ignore `fn`. A program that ends calls it itself."""


def quietly(check: Callable[[], object]) -> None:
    """Run `check` as one indivisible step, without scheduling and without guards.

    It is for invariants. An exception that `check` raises is a finding.
    """
    run = runtime.active
    if run is None:
        check()
    else:
        check_quietly(run, check)


def fork() -> None:
    """Go on as a forked child: all other tasks vanish, and what they hold stays held."""
    run = runtime.active
    if run is not None:
        run.fork()


def module() -> ModuleType:
    """Return a module to load in place of ``memcg.locking``."""
    made = ModuleType(f"{__package__}.locking", __doc__)
    for name in __all__:
        if name != "module":
            setattr(made, name, globals()[name])
    return made
