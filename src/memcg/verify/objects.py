# SPDX-License-Identifier: Apache-2.0
"""Mutexes, events and read-side sections as scheduling points.

When nothing is explored they work trivially, for one thread. An object that was made outside an
execution starts every execution in the state that it had outside.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from . import runtime
from .errors import LockError, VerifyError
from .runtime import Run
from .task import Task
from .trace import ACQUIRE, BLOCK, ENABLE, READ, WRITE, join

_serial = itertools.count(1)


class Sync:
    """The base of the objects by which tasks synchronize: a name, a key and clocks."""

    _run: Run | None
    key: str

    def __init__(self, name: str) -> None:
        run = runtime.active
        self.name = name
        self._run = run
        self._outside: Any = None
        self.written: list[int] = []
        self.read: list[int] = []
        self.enabled: list[int] = []
        self.key = f"m{next(_serial)}" if run is None else run.new_key()

    def _state(self) -> Any:
        """Return a copy of the state, for `_restore`."""
        raise NotImplementedError

    def _restore(self, state: Any) -> None:
        raise NotImplementedError

    def _in(self, run: Run | None) -> Run | None:
        """Move the object into an execution, or out of one, and return the execution."""
        if run is not self._run:
            if self._run is None:
                self._outside = (self._state(),)
            elif self._outside is not None:
                self._restore(self._outside[0])
            self._run = run
            self.written, self.read, self.enabled = [], [], []
        return run


class Mutex(Sync):
    """A mutex with a name. A task that takes it twice is reported."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._owner: Task | str | None = None
        self._lent = False

    def _state(self) -> Any:
        return self._owner

    def _restore(self, state: Any) -> None:
        self._owner = state

    def _is_free(self) -> bool:
        return self._owner is None

    def acquire(self) -> bool:
        run = self._in(runtime.active)
        if run is None:
            if self._owner is not None:
                raise LockError(f"{self.name} is taken twice outside an exploration")
            self._owner = "outside"
            return True
        if run.quiet:
            return True
        task = run.current
        if self._owner is task and not run.abandoned:
            run.fail(LockError(f"{task.name} takes {self.name} twice"))
        if run.step("acquire", self, ACQUIRE, self._is_free, late=self._can_be_taken):
            run.access(self, ACQUIRE)
        if isinstance(self._owner, Task):  # the task that has lent it
            self._owner.held.remove(self)
        self._take(task)
        return True

    def _take(self, task: Task) -> None:
        self._owner, self._lent = task, False
        task.held.append(self)

    def _can_be_taken(self) -> bool:
        return self._lent

    def acquire_within(self, seconds: float) -> bool:
        """Do as `acquire`, but give up when no task can go on. Tell whether the mutex was taken."""
        run = self._in(runtime.active)
        if run is None or run.quiet or run.current is self._owner:
            return self.acquire()
        if run.step("acquire", self, ACQUIRE, self._is_free, late=lambda: True):
            if self._owner is not None:
                return False
            run.access(self, ACQUIRE)
        self._take(run.current)
        return True

    def lend(self) -> None:
        """Hold the mutex until another task can only go on with it."""
        self._lent = True

    def forget_holder(self) -> None:
        """Make the mutex free in the child of a fork, where the task that held it is gone."""
        self._owner, self._lent = None, False

    def release(self) -> None:
        run = self._in(runtime.active)
        if run is None:
            self._owner = None
            return
        if run.quiet:
            return
        task = run.current
        if self._owner is not task:
            if run.abandoned:
                return
            run.fail(LockError(f"{task.name} releases {self.name}, which it does not hold"))
        if run.options.forks and not run.abandoned:
            run.step("release", self, 0)  # a fork notices which task holds what
        task.held.remove(self)
        self._owner, self._lent = None, False
        if run.abandoned:
            return
        if not run.options.forks:
            run.note("release", self)
        run.released(self)
        if self.name in run.hooks:
            check_quietly(run, run.hooks[self.name])

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *exc: object) -> None:
        self.release()

    def held(self) -> bool:
        """Tell whether the calling task holds the mutex."""
        run = self._in(runtime.active)
        if run is None:
            return self._owner is not None
        return run.quiet or self._owner is run.current


def check_quietly(run: Run, check: Callable[[], object]) -> None:
    """Run `check` without scheduling and guards. An exception that it raises is a finding."""
    if run.quiet:
        check()
        return
    run.quiet = True
    problem: BaseException | None = None
    try:
        check()
    except Exception as found:
        problem = found
    finally:
        run.quiet = False
    if problem is not None:
        run.failed_quietly = True
        run.fail(problem)


class Event(Sync):
    """An event with a name."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._set = False

    def _state(self) -> Any:
        return self._set

    def _restore(self, state: Any) -> None:
        self._set = state

    def is_set(self) -> bool:
        run = self._in(runtime.active)
        if run is not None and run.step("is_set", self, READ):
            run.access(self, READ)
        return self._set

    def set(self) -> None:
        run = self._in(runtime.active)
        point = run is not None and run.step("set", self, WRITE | ENABLE)
        if point and run is not None:
            run.access(self, READ if self._set else WRITE | ENABLE)
        self._set = True

    def clear(self) -> None:
        run = self._in(runtime.active)
        if run is not None and run.step("clear", self, WRITE):
            run.access(self, WRITE if self._set else READ)
        self._set = False

    def wait(self, within: float = -1) -> bool:
        """Block until the event is set; with a time, also until no task can go on."""
        run = self._in(runtime.active)
        late = (lambda: True) if within >= 0 else None
        if run is None:
            if not self._set:
                raise VerifyError(f"a wait for {self.name} outside an exploration never ends")
        elif run.step("wait", self, READ | BLOCK, lambda: self._set, late=late) and self._set:
            run.access(self, READ | BLOCK)
        return self._set


class Section(Sync):
    """An outermost read-side section. Its end lets `synchronize` go on."""

    def __init__(self, owner: Task) -> None:
        super().__init__("section")
        self.owner = owner
        self.open = True


class ReadSide(Sync):
    """Read-side sections and a grace period."""

    def __init__(self) -> None:
        super().__init__("read_side")
        self._depth: dict[Task | None, int] = {}
        self._open: dict[Task | None, Section] = {}
        self._ended: list[int] = []

    def _state(self) -> Any:
        return None

    def _restore(self, state: Any) -> None:
        self._depth, self._open, self._ended = {}, {}, []

    def __enter__(self) -> None:
        run = self._in(runtime.active)
        if run is None or run.quiet:
            return
        task = run.current
        if not self._depth.get(task):
            if run.step("read_lock", self, READ):
                run.access(self, READ)
            self._open[task] = Section(task)
        self._depth[task] = self._depth.get(task, 0) + 1

    def __exit__(self, *exc: object) -> None:
        run = self._in(runtime.active)
        if run is None or run.quiet or run.abandoned:
            return
        task = run.current
        if run.options.forks:
            run.step("read_unlock", self, 0)
        self._depth[task] -= 1
        if not self._depth[task]:
            section = self._open.pop(task)
            section.open = False
            if not run.options.forks:
                run.note("read_unlock", self)
            run.released(section)
            join(self._ended, section.written)

    def after_fork_in_child(self) -> None:
        """Forget the sections of tasks that are gone."""
        run = self._in(runtime.active)
        if run is not None:
            self._open = {t: s for t, s in self._open.items() if t is run.current}
            self._depth = {t: n for t, n in self._depth.items() if t is run.current}

    def synchronize(self) -> None:
        run = self._in(runtime.active)
        if run is None or run.quiet:
            return
        task = run.current
        if self._depth.get(task):
            run.fail(VerifyError(f"{task.name} calls synchronize inside a read-side section"))
        if run.step("synchronize", self, WRITE):
            run.access(self, WRITE)
        join(task.clock, self._ended)
        waited = list(self._open.values())
        if any(s.open for s in waited):
            run.step("grace period", self, 0, lambda: not any(s.open for s in waited))
            for section in waited:
                join(task.clock, section.written)
            step = run.steps[-1]
            step.clock = task.clock.copy()
            step.prior = step.clock.copy()  # the step could not have been done earlier
