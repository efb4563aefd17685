# SPDX-License-Identifier: Apache-2.0
"""What `threading` has, for tasks of an exploration. All other names are those of `threading`."""

from __future__ import annotations

import threading as real
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from .. import runtime, seam
from ..objects import Event as _Event
from ..runtime import Run
from ..task import Task
from ..trace import ENABLE, READ, WRITE
from .locks import (
    Barrier,
    BoundedSemaphore,
    BrokenBarrierError,
    Condition,
    Event,
    Lock,
    RLock,
    Semaphore,
)

ThreadError = real.ThreadError


def __getattr__(name: str) -> Any:
    return getattr(real, name)


class Thread:
    """A thread. An exception that leaves it is a finding."""

    _serial = 0

    def __init__(
        self, group: None = None, target: Callable[..., object] | None = None,
        name: str | None = None, args: Iterable[Any] = (), kwargs: Mapping[str, Any] | None = None,
        *, daemon: bool | None = None, context: Any = None,
    ) -> None:  # fmt: skip
        if group is not None:
            raise AssertionError("group argument must be None for now")
        self._target, self._args, self._kwargs = target, tuple(args), dict(kwargs or {})
        self.name: str = name or str(getattr(target, "__name__", type(self).__name__))
        self._daemon = current_thread().daemon if daemon is None else daemon
        self._task: Task | None = None
        self._ended = _Event("end of " + self.name)
        run = runtime.active
        self._maker = None if run is None else run.current

    @property
    def daemon(self) -> bool:
        return self._daemon

    @daemon.setter
    def daemon(self, daemon: bool) -> None:
        if self._task is not None:
            raise RuntimeError("cannot set daemon status of active thread")
        self._daemon = daemon

    isDaemon = property(lambda self: lambda: self._daemon)

    @property
    def ident(self) -> int | None:
        return None if self._task is None else self._task.id + 1

    native_id = ident

    def start(self) -> None:
        run = runtime.active
        if run is not None and not run.quiet:
            if run.current is not self._maker:  # others may start it too
                run.watch(self._ended)
            self._changes(run, "start")
        if self._task is not None:
            raise RuntimeError("threads can only be started once")
        if run is None or run.quiet:
            self._task = seam.spawn(self.run, self.name)
            return
        self._task = seam.spawn(self._bootstrap, self.name)
        self._task.thread, self._task.daemon = self, self._daemon

    def _changes(self, run: Run, how: str) -> None:
        """Make the start or the end a step, if a task can see whether the thread is alive."""
        ended = self._ended
        ended._in(run)
        if not run.watches(ended):
            run.merge()
        elif run.step(how, ended, WRITE | ENABLE):
            run.access(ended, WRITE | ENABLE)

    def _look(self, run: Run) -> None:
        self._ended._in(run)
        run.watch(self._ended)
        if run.step("look at", self._ended, READ):
            run.access(self._ended, READ)

    def _bootstrap(self) -> None:
        try:
            self.run()
        finally:
            run = runtime.active
            if run is not None and not run.abandoned and not run.quiet:
                self._changes(run, "end")
                self._ended._set = True

    def run(self) -> None:
        if self._target is not None:
            self._target(*self._args, **self._kwargs)

    def join(self, timeout: float | None = None) -> None:
        run = runtime.active
        if run is not None and not run.quiet and self._task is None:
            self._look(run)
        if self._task is None:
            raise RuntimeError("cannot join thread before it is started")
        if run is None or run.quiet:
            return
        if self._task is run.current:
            raise RuntimeError("cannot join current thread")
        if timeout is not None:
            ended = self._ended
            ended._in(run)
            run.watch(ended)
            if not run.timed("join with a time", ended, READ, lambda: ended._set, timeout):
                return
        run.wait_for([self._task])

    def is_alive(self) -> bool:
        run = runtime.active
        if run is None or run.quiet:
            return self._task is not None and not self._task.done
        self._look(run)
        return self._task is not None and not self._ended._set

    def __repr__(self) -> str:
        return f"<{type(self).__name__}({self.name})>"


class Timer(Thread):
    """A thread that calls a function after a time, which may be over at any moment."""

    def __init__(
        self, interval: float, function: Callable[..., object], args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(name="timer")
        self.interval, self.function = interval, function
        self.args, self.kwargs = tuple(args or ()), dict(kwargs or {})
        self.finished = Event()

    def cancel(self) -> None:
        self.finished.set()

    def run(self) -> None:
        self.finished.wait(self.interval)
        if not self.finished.is_set():
            self.function(*self.args, **self.kwargs)
        self.finished.set()


class _Main:
    """The thread of the task that runs the program, or of a task that no `Thread` started."""

    daemon = False

    def __init__(self, name: str, ident: int) -> None:
        self.name, self.ident, self.native_id = name, ident, ident

    def is_alive(self) -> bool:
        return True


_outside = _Main("MainThread", 1)


def current_thread() -> Any:
    run = runtime.active
    return _outside if run is None else _thread_of(run.current)


def _thread_of(task: Task) -> Any:
    if task.thread is None:
        task.thread = _Main("MainThread" if task.id == 0 else task.name, task.id + 1)
    return task.thread


def main_thread() -> Any:
    run = runtime.active
    return _outside if run is None else _thread_of(run.tasks[0])


def get_ident() -> int:
    run = runtime.active
    return 1 if run is None else run.current.id + 1


get_native_id = get_ident
currentThread = current_thread


class local:
    """Attributes of which each task has its own."""

    def __new__(cls, *args: Any, **kwargs: Any) -> local:
        self = super().__new__(cls)
        object.__setattr__(self, "_verify_made", (args, kwargs))
        object.__setattr__(self, "_verify_outside", {})
        return self

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("_verify_"):
            return object.__getattribute__(self, name)
        mine = _attributes(self)
        if name == "__dict__":
            return mine
        if name in mine:
            return mine[name]
        return object.__getattribute__(self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        _attributes(self)[name] = value

    def __delattr__(self, name: str) -> None:
        try:
            del _attributes(self)[name]
        except KeyError:
            raise AttributeError(name) from None


def _attributes(it: local) -> dict[str, Any]:
    run = runtime.active
    if run is None:
        outside: dict[str, Any] = object.__getattribute__(it, "_verify_outside")
        return outside
    found = run.current.local.get(id(it))
    if found is None:
        found = run.current.local[id(it)] = (it, {})
        args, kwargs = object.__getattribute__(it, "_verify_made")
        if type(it).__init__ is not object.__init__:
            type(it).__init__(it, *args, **kwargs)
    return found[1]


__all__ = [
    "Barrier", "BoundedSemaphore", "BrokenBarrierError", "Condition", "Event", "Lock",
    "RLock", "Semaphore", "Thread", "ThreadError", "Timer", "current_thread", "get_ident",
    "get_native_id", "local", "main_thread",
]  # fmt: skip
