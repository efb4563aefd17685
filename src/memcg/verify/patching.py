# SPDX-License-Identifier: Apache-2.0
"""Modules that were written for the real `threading`, `queue` and `time` get the explorer's.

Their globals, the attributes of their classes, their classes' bases and the defaults of their
functions are looked through. What is the standard library's becomes ours: the modules themselves,
what was imported from them, and locks and queues that were made when the module was loaded.
"""

from __future__ import annotations

import _thread
import importlib
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import FunctionType, ModuleType
from typing import Any

from .errors import VerifyError
from .std import queue as our_queue
from .std import threading as our_threading
from .std import time as our_time

_MODULES = ((threading, our_threading), (queue, our_queue), (time, our_time))


def _counterparts() -> dict[int, tuple[Any, Any]]:
    """Return what becomes what, by the id of the real thing."""
    pairs: list[tuple[Any, Any]] = [
        (_thread.allocate_lock, our_threading.Lock),
        (_thread.RLock, our_threading.RLock),
        (_thread.get_ident, our_threading.get_ident),
    ]
    for real, ours in _MODULES:
        pairs.append((real, ours))
        pairs += [(getattr(real, n), getattr(ours, n)) for n in ours.__all__ if hasattr(real, n)]
    return {id(real): (real, ours) for real, ours in pairs if real is not ours}


def _free(lock: Any) -> None:
    if not lock.acquire(blocking=False):
        raise VerifyError("a lock that is held cannot be patched; patch before it is taken")
    lock.release()


def _lock(made: type) -> Callable[[Any], Any]:
    def convert(real: Any) -> Any:
        _free(real)
        return made()

    return convert


def _event(real: threading.Event) -> Any:
    ours = our_threading.Event()
    if real.is_set():
        ours.set()
    return ours


def _queue(made: type) -> Callable[[Any], Any]:
    def convert(real: Any) -> Any:
        ours = made(real.maxsize) if hasattr(real, "maxsize") else made()
        if real.qsize():
            raise VerifyError("a queue with items cannot be patched; patch before it is filled")
        return ours

    return convert


_CONVERTED: dict[type, Callable[[Any], Any]] = {
    type(threading.Lock()): _lock(our_threading.Lock),
    type(threading.RLock()): _lock(our_threading.RLock),
    threading.Event: _event,
    threading.Semaphore: lambda real: our_threading.Semaphore(real._value),
    threading.BoundedSemaphore: lambda real: our_threading.BoundedSemaphore(real._initial_value),
    threading.Barrier: lambda real: our_threading.Barrier(real.parties, real._action,
                                                          real._timeout),
    threading.local: lambda real: our_threading.local(),
    queue.SimpleQueue: _queue(our_queue.SimpleQueue),
    queue.Queue: _queue(our_queue.Queue),
    queue.LifoQueue: _queue(our_queue.LifoQueue),
    queue.PriorityQueue: _queue(our_queue.PriorityQueue),
}  # fmt: skip


class _Patch:
    """What was changed, so that it can be changed back."""

    def __init__(self) -> None:
        self.known = _counterparts()
        self.made: dict[int, tuple[Any, Any]] = {}  # by the id of the real lock or queue
        self.undo: list[Callable[[], object]] = []

    def ours(self, value: Any) -> Any:
        """Return what `value` becomes; itself if it is not the standard library's."""
        found = self.known.get(id(value)) or self.made.get(id(value))
        if found is not None:
            return found[1]
        if type(value) is threading.Condition:
            made = our_threading.Condition(self.ours(value._lock))  # type: ignore[attr-defined]
        elif type(value) in _CONVERTED:
            made = _CONVERTED[type(value)](value)
        else:
            return value
        self.made[id(value)] = value, made
        return made

    def module(self, module: ModuleType) -> None:
        for name, value in [*vars(module).items()]:
            if name.startswith("__"):
                continue
            if self.ours(value) is not value:
                vars(module)[name] = self.ours(value)
                self.undo.append(partial(vars(module).__setitem__, name, value))
            elif getattr(value, "__module__", None) == module.__name__:
                if isinstance(value, type):
                    self.class_(value)
                else:
                    self.defaults(value)

    def class_(self, cls: type) -> None:
        bases = tuple(self.ours(base) for base in cls.__bases__)
        if bases != cls.__bases__:
            before = cls.__bases__
            try:
                cls.__bases__ = bases
            except TypeError as error:
                raise VerifyError(f"{cls.__qualname__} cannot be patched: {error}") from None
            self.undo.append(lambda: setattr(cls, "__bases__", before))
        for name, value in [*vars(cls).items()]:
            if self.ours(value) is not value:
                setattr(cls, name, self.ours(value))
                self.undo.append(partial(setattr, cls, name, value))
            self.defaults(value)

    def defaults(self, function: Any) -> None:
        function = getattr(function, "__func__", function)  # of a static method
        if not isinstance(function, FunctionType):
            return
        before, keywords = function.__defaults__, function.__kwdefaults__
        if before and any(self.ours(x) is not x for x in before):
            function.__defaults__ = tuple(map(self.ours, before))
            self.undo.append(lambda: setattr(function, "__defaults__", before))
        if keywords and any(self.ours(x) is not x for x in keywords.values()):
            function.__kwdefaults__ = {k: self.ours(v) for k, v in keywords.items()}
            self.undo.append(lambda: setattr(function, "__kwdefaults__", keywords))


def _named(names: tuple[str | ModuleType, ...]) -> Iterator[ModuleType]:
    for name in names:
        if isinstance(name, ModuleType):
            yield name
            continue
        package = name.removesuffix(".*")
        module = importlib.import_module(package)
        yield module
        if name.endswith(".*"):
            below = [m for n, m in sorted(sys.modules.items()) if n.startswith(package + ".")]
            yield from below


@contextmanager
def patch(*modules: str | ModuleType) -> Iterator[None]:
    """Give modules the explorer's `threading`, `queue` and `time` while the context lasts.

    Parameters
    ----------
    *modules : str or module
        ``"package.pool"`` is imported if it is not yet. ``"package.*"`` is the package and those
        modules of it that are loaded.

    Raises
    ------
    VerifyError
        A lock of the module is held, a queue of it has items, or the bases of a class of it cannot
        be changed.

    Examples
    --------
    >>> import types
    >>> from memcg.verify import explore, patch
    >>> module = types.ModuleType("pool")
    >>> exec("from threading import Lock, Thread", vars(module))
    >>> with patch(module):
    ...     print(module.Lock.__module__)
    memcg.verify.std.locks
    """
    patched = _Patch()
    try:
        for module in _named(modules):
            patched.module(module)
        yield
    finally:
        for undo in reversed(patched.undo):
            undo()


__all__ = ["patch"]
