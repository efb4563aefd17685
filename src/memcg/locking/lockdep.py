# SPDX-License-Identifier: Apache-2.0
"""The order of locks, learnt from every acquisition and checked against the documented one.

A *class* of locks is a name: all ``cache_lock`` are one class. Taking B while holding A is the edge
A -> B, and so is waiting for an event B while holding A. A waiter of an event also waits for what
the setter took since the event was cleared, so there is an edge from the event to each of these.
Four findings are reported, each once and with the stacks of both acquisitions: an edge against
`LOCKS`; an edge that closes a cycle, though no deadlock happened; a lock that its holder takes
again; and a mutex that is taken where Python can interrupt any code, in a finalizer, a garbage
collection or a signal handler.

While it is off it costs nothing, because `attach` replaces the methods of the classes of `locking`.
``MEMCG_LOCKDEP=1`` attaches it at import and shows reports on stderr. Any other value is a file
that they are appended to, by child processes too. While it is on, an asynchronous exception can
part the taking of a mutex from its entry here, so it is for tests and searches.

Kernel: kernel/locking/lockdep.c. Where we differ: only the locks of the seam are watched.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # it makes no enums, and each acquisition uses it
import gc
import os
import signal
import sys
import weakref
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from types import FrameType, FunctionType, ModuleType
from typing import Any, NamedTuple

__all__ = ["LOCKS", "LockClass", "Lockdep", "Report", "attach", "watching"]


class LockClass(NamedTuple):
    """A class of locks, as documented."""

    name: str
    where: str
    protects: str
    anywhere: bool = False  # may be taken in a finalizer, a collection or a signal handler


LOCKS = (  # outermost first; docs/locking.md is generated from it
    LockClass("uninterrupted", "`workqueue.py`, an event",
              "nothing: its setter runs what an asynchronous exception must not cut in two"),
    LockClass("wq_idle", "`workqueue.py`, an event",
              "nothing: it is set when the worker has ended; a waiter holds no lock that a handler "
              "takes"),
    LockClass("cgroup_mutex", "`cgroup.py`",
              "the tree: every group's `children`, and which groups are online"),
    LockClass("activate_kmem_mutex", "`memcontrol.py`", "the `kmemcg_id`s in use"),
    LockClass("memcg_slab_mutex", "`memcontrol.py`",
              "every root's `memcg_caches` array and every group's `memcg_slab_caches` list; held "
              "whenever a child cache is created or destroyed"),
    LockClass("slab_mutex", "`slab_common.py`",
              "`slab_caches`, the list of all caches, and the size of the arrays; never taken by "
              "`memcontrol.py`"),
    LockClass("entry_lock", "`model.py`, one for all groups",
              "entering: a thread enters a group before its offline, or fails", True),
    LockClass("read_side", "`model.py`, read-side sections",
              "what was looked up without a lock; a grace period waits for all sections", True),
    LockClass("cache_lock", "`model.py`, one for all caches", "every cache's slabs and objects",
              True),
    LockClass("page_lock", "`model.py`", "the arena", True),
    LockClass("wq_lock", "`workqueue.py`", "whether a worker is at work; held for a few stores",
              True),
)  # fmt: skip

Stack = tuple[tuple[Any, int], ...]  # code object and line, innermost first
_DEPTH = 12


class Report(NamedTuple):
    """A finding: the rule that was broken, in words, and the stacks that show it."""

    kind: str
    text: str

    def __str__(self) -> str:
        return f"lockdep: {self.kind}: {self.text}"


class _Held:
    """A lock that a task holds.

    It is no named tuple: the code of one is not memcg's, so an alarm could be raised in it.
    """

    __slots__ = ("key", "name", "stack")

    def __init__(self, name: str, key: int, stack: Stack) -> None:
        self.name = name
        self.key = key
        self.stack = stack


class _Task:
    """What one task holds, and when it last took each class."""

    __slots__ = ("held", "last")

    def __init__(self) -> None:
        self.held: list[_Held] = []
        self.last: dict[str, tuple[int, Stack]] = {}


class Lockdep:
    """It learns edges and reports what breaks a rule.

    Parameters
    ----------
    tell : callable, optional
        It is called with each report.
    """

    def __init__(
        self, locks: tuple[LockClass, ...] = LOCKS, tell: Callable[[Report], object] | None = None
    ) -> None:
        self.rank = {lock.name: i for i, lock in enumerate(locks)}
        self.anywhere = {lock.name for lock in locks if lock.anywhere}
        self.edges: dict[tuple[str, str], tuple[Stack, Stack]] = {}
        self.seen: set[str] = set()
        self.reports: list[Report] = []
        self._tell = tell
        self._told: set[tuple[str, ...]] = set()
        self._tasks: dict[Hashable, _Task] = {}
        self._cleared: dict[int, int] = {}  # event -> clock
        self._clock = 0

    def task(self, who: Hashable) -> _Task:
        return self._tasks.setdefault(who, _Task())

    def forget_tasks(self) -> None:
        """Forget what tasks hold, because they are gone. What was learnt stays."""
        self._tasks.clear()
        self._cleared.clear()

    # -- what happens

    def acquire(self, who: Hashable, name: str, key: int, *, again: bool = False) -> None:
        """Note that the task `who` is about to take a lock. `again` says that it may be nested."""
        task, here = self.task(who), _stack()
        self.seen.add(name)
        if any(h.key == key for h in task.held):
            if not again:
                self._report("recursion", (name,), f"{name} is taken by its holder", here)
        else:
            self._wants(task, name, here)
            if name not in self.anywhere and (context := interrupting()):
                self._report("context", (name, context), f"{name} is taken in {context}", here)
        self._clock += 1
        task.held.append(_Held(name, key, here))
        task.last[name] = self._clock, here

    def release(self, who: Hashable, key: int) -> None:
        """Note that the task `who` gives a lock back."""
        held = self.task(who).held
        for i in reversed(range(len(held))):
            if held[i].key == key:
                del held[i]
                return

    def wait(self, who: Hashable, name: str) -> None:
        """Note that the task `who` waits for an event or a grace period."""
        task, here = self.task(who), _stack()
        self.seen.add(name)
        self._wants(task, name, here)
        self._clock += 1
        task.last[name] = self._clock, here

    def clear(self, event: int) -> None:
        """Note that an event is made or cleared."""
        self._clock += 1
        self._cleared[event] = self._clock

    def set(self, who: Hashable, name: str, event: int) -> None:
        """Note that the task `who` sets an event.

        A waiter has waited for all that the task took since the event was cleared.
        """
        since = self._cleared.get(event)
        here = _stack()
        # A copy, because a signal handler or finalizer may add to it meanwhile.
        for taken, (when, stack) in self.task(who).last.copy().items():
            if since is not None and when > since and taken != name:
                self._edge(name, taken, here, stack)

    # -- what it means

    def _wants(self, task: _Task, name: str, here: Stack) -> None:
        for held in task.held:
            self._edge(held.name, name, held.stack, here)

    def _edge(self, outer: str, inner: str, outer_stack: Stack, inner_stack: Stack) -> None:
        if (outer, inner) in self.edges:
            return
        self.edges[outer, inner] = outer_stack, inner_stack
        what = f"{inner} is taken or waited for under {outer}"
        back = self.path(inner, outer)
        if outer == inner:
            self._report("recursion", (outer, inner), f"two {inner} at once", outer_stack,
                         inner_stack)  # fmt: skip
        elif back:
            stacks = [s for pair in pairwise(back) for s in self.edges[pair]]
            self._report("cycle", (outer, inner), f"{what}, and there is {' -> '.join(back)}",
                         outer_stack, inner_stack, *stacks)  # fmt: skip
        if self.rank.get(outer, -1) > self.rank.get(inner, len(self.rank)):
            self._report("order", (outer, inner), f"{what}; documented is {inner} -> {outer}",
                         outer_stack, inner_stack)  # fmt: skip

    def path(self, start: str, end: str) -> list[str]:
        """Return the classes from `start` to `end` along edges; empty if there is no way."""
        before: dict[str, str] = {start: ""}
        queue = [start]
        for name in queue:
            if name == end and name != start:
                out = [name]
                while before[out[0]]:
                    out.insert(0, before[out[0]])
                return out
            for outer, inner in self.edges.copy():  # other tasks add to it meanwhile
                if outer == name and inner not in before:
                    before[inner] = name
                    queue.append(inner)
        return []

    def _report(self, kind: str, about: tuple[str, ...], text: str, *stacks: Stack) -> None:
        if (kind, *about) in self._told:
            return
        self._told.add((kind, *about))
        shown = "".join(f"\n  at {_show(stack)}" for stack in stacks)
        report = Report(kind, text + shown)
        self.reports.append(report)
        if self._tell is not None:
            self._tell(report)

    def check(self) -> None:
        """Raise AssertionError with the reports, if there are any."""
        if self.reports:
            raise AssertionError("\n".join(map(str, self.reports)))


# -- where the caller is

_HIDDEN = (
    "/locking/lockdep.py", "/locking/__init__.py", "/verify/objects.py", "/verify/runtime.py",
)  # fmt: skip
_collecting: tuple[int, Any, int] | None = None  # the frame that a collection has interrupted
_SIGNALS = tuple(int(s) for s in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})
_handlers: tuple[tuple[Any, ...], set[Any]] = (), set()  # those last seen, and their code objects
_FINALIZE = weakref.finalize.__call__.__code__
_stacks: dict[tuple[Any, int], Stack] = {}


def _stack() -> Stack:
    """Return a stack of the caller of the seam: the first that was seen from its line."""
    frame = sys._getframe(3)
    while frame.f_back is not None and frame.f_code.co_filename.endswith(_HIDDEN):
        frame = frame.f_back
    key = frame.f_code, frame.f_lineno
    if key not in _stacks:
        _stacks[key] = _walk(frame)
    return _stacks[key]


def _walk(frame: FrameType | None) -> Stack:
    found: list[tuple[Any, int]] = []
    while frame is not None and len(found) < _DEPTH:
        if not frame.f_code.co_filename.endswith(_HIDDEN):
            found.append((frame.f_code, frame.f_lineno))
        frame = frame.f_back
    return tuple(found)


def _show(stack: Stack) -> str:
    return " < ".join(
        f"{code.co_name} ({code.co_filename.rsplit('/', 1)[-1]}:{line})" for code, line in stack[:6]
    )


def interrupting() -> str:
    """Return the name of the interrupt context that the caller is in, or the empty string."""
    handlers = _handler_codes()
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        if code.co_name == "__del__" or (code is _FINALIZE and frame.f_locals["_"] is not None):
            return "a finalizer"
        if code in handlers:
            return "a signal handler"
        if _collecting == (id(frame), code, frame.f_lasti):
            return "a garbage collection"
        frame = frame.f_back
    return ""


def _handler_codes() -> set[Any]:
    """Return the code objects of the signal handlers that are installed."""
    global _handlers
    now = tuple(map(_signal.getsignal, _SIGNALS))
    if now != _handlers[0]:
        _handlers = now, set(map(_code_of, now)) - {None}
    return _handlers[1]


def _code_of(handler: Any) -> Any:
    """Return the code object that a call of `handler` runs first, or None."""
    while isinstance(handler, partial):
        handler = handler.func
    if not hasattr(handler, "__code__"):
        handler = getattr(type(handler), "__call__", None)  # noqa: B004
    return getattr(handler, "__code__", None)


def _on_gc(phase: str, info: object) -> None:
    # A frame is kept and not a flag: other threads run meanwhile, and an alarm raised here would
    # leave a flag set.
    global _collecting
    frame = sys._getframe().f_back  # it is None at the interpreter's end
    _collecting = None
    if phase == "start" and frame is not None:
        _collecting = id(frame), frame.f_code, frame.f_lasti


# -- the classes of the seam


Tell = Callable[[Lockdep, Any, Hashable], None]
_TAKES = ("acquire", "acquire_within", "__enter__")


def _acquire(dep: Lockdep, mutex: Any, task: Hashable) -> None:
    dep.acquire(task, mutex.name, id(mutex))


def _release(dep: Lockdep, lock: Any, task: Hashable) -> None:
    dep.release(task, id(lock))


_METHODS: dict[tuple[str, str], Tell] = {
    ("Mutex", "acquire"): _acquire,
    ("Mutex", "__enter__"): _acquire,
    ("Mutex", "acquire_within"): _acquire,
    ("Mutex", "lend"): _release,  # from here on no thread waits for it for ever
    ("Mutex", "release"): _release,
    ("Mutex", "__exit__"): _release,
    ("Event", "__init__"): lambda dep, event, task: dep.clear(id(event)),
    ("Event", "clear"): lambda dep, event, task: dep.clear(id(event)),
    ("Event", "set"): lambda dep, event, task: dep.set(task, event.name, id(event)),
    ("Event", "wait"): lambda dep, event, task: dep.wait(task, event.name),
    ("ReadSide", "__enter__"): lambda dep, side, task: dep.acquire(
        task, "read_side", id(side), again=True
    ),
    ("ReadSide", "__exit__"): _release,
    ("ReadSide", "synchronize"): lambda dep, side, task: dep.wait(task, "read_side"),
}


def attach(
    module: Any, dep: Lockdep, who: Callable[[], Hashable | None], *, collections: bool = True
) -> Callable[[], None]:
    """Make the seam's classes report to `dep` what they do; return a function that detaches it.

    Parameters
    ----------
    module : module
        `memcg.locking`, or the explorer's.
    who : callable
        It returns the running task, or None if nothing is to be noted.
    collections : bool
        Recognise a whole garbage collection, and not only its ``__del__`` methods. That needs a
        callback in Python, where the GIL may change hands. Another thread that collects meanwhile
        collects nothing.
    """
    undo: list[tuple[type, str, Any]] = []
    for (noun, name), tell in _METHODS.items():
        cls = getattr(module, noun)
        own, method = vars(cls).get(name), getattr(cls, name)
        if (
            noun == "Mutex"
            and name in ("__enter__", "__exit__")
            and isinstance(method, FunctionType)
            and method.__module__ != __name__
        ):
            continue  # a method in Python, which calls acquire or release
        undo.append((cls, name, own))
        setattr(cls, name, _watched(method, tell, dep, who, takes=name in _TAKES))
    if collections:
        gc.callbacks.append(_on_gc)

    def detach() -> None:
        if collections:
            gc.callbacks.remove(_on_gc)
        for cls, name, before in undo:
            if before is None:
                delattr(cls, name)
            else:
                setattr(cls, name, before)

    return detach


def _watched(
    original: Callable[..., Any], tell: Tell, dep: Lockdep, who: Callable[[], Hashable | None],
    *, takes: bool,
) -> Callable[..., Any]:  # fmt: skip
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        task = who()
        if task is None:
            return original(self, *args, **kwargs)
        tell(dep, self, task)
        got = False
        try:
            result = original(self, *args, **kwargs)
            got = result is not False
            return result
        finally:
            if takes and not got:
                dep.release(task, id(self))

    return method


@contextmanager
def watching(
    module: Any, who: Callable[[], Hashable | None] | None = None, dep: Lockdep | None = None
) -> Iterator[Lockdep]:
    """Attach lockdep for a ``with`` block. Its end raises AssertionError if there are reports."""
    dep = dep or Lockdep()
    detach = attach(module, dep, who or module.current_task)
    try:
        yield dep
    finally:
        detach()
    dep.check()


def attach_from_environment(module: ModuleType, value: str) -> Lockdep:
    """Attach to `module` for the life of the process; `value` says where reports go."""

    def tell(report: Report) -> None:
        if value == "1":
            print(report, file=sys.stderr)
        else:
            with open(value, "a") as reports:
                reports.write(f"{report}\n")

    dep = Lockdep(tell=tell)
    attach(module, dep, module.current_task, collections=False)
    os.register_at_fork(after_in_child=dep.forget_tasks)  # new threads may get their identifiers
    return dep
