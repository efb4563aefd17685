# SPDX-License-Identifier: Apache-2.0
"""What `queue` has, for tasks of an exploration.

`Queue`, `LifoQueue` and `PriorityQueue` are the standard library's own code, over the explorer's
locks. `Empty`, `Full` and `ShutDown` are the real ones, so that any code can catch them.
"""

from __future__ import annotations

import importlib.util
import queue as real
from collections import deque
from types import GenericAlias, ModuleType
from typing import Any

from .. import runtime
from ..objects import Sync
from ..trace import BLOCK, ENABLE, READ, WRITE
from . import threading, time


def __getattr__(name: str) -> Any:
    return getattr(real, name)


class SimpleQueue(Sync):
    """An unbounded queue whose operations are one step each."""

    __class_getitem__: Any = classmethod(GenericAlias)

    def __init__(self) -> None:
        super().__init__("queue")
        self._items: deque[Any] = deque()

    def _state(self) -> Any:
        return [*self._items]

    def _restore(self, state: Any) -> None:
        self._items = deque(state)

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        run = self._in(runtime.active)
        if run is not None and run.step("put", self, WRITE | ENABLE):
            run.access(self, WRITE if self._items else WRITE | ENABLE)
        self._items.append(item)

    def put_nowait(self, item: Any) -> None:
        self.put(item)

    def _has_items(self) -> bool:
        return bool(self._items)

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        if block and timeout is not None and timeout < 0:
            raise ValueError("'timeout' must be a non-negative number")
        run = self._in(runtime.active)
        if run is not None and not run.quiet:
            if block and timeout is None:
                if run.step("get", self, WRITE | BLOCK, self._has_items):
                    run.access(self, WRITE | BLOCK)
            elif block and timeout is not None:
                run.timed("get with a time", self, WRITE, self._has_items, timeout)
            elif run.step("try to get", self, WRITE):
                run.access(self, WRITE if self._items else READ)
        if not self._items:
            raise Empty
        return self._items.popleft()

    def get_nowait(self) -> Any:
        return self.get(block=False)

    def qsize(self) -> int:
        run = self._in(runtime.active)
        if run is not None and run.step("look at", self, READ):
            run.access(self, READ)
        return len(self._items)

    def empty(self) -> bool:
        return not self.qsize()


def _load() -> ModuleType:
    """Run the standard library's code again, with the explorer's locks in place of the real."""
    spec = importlib.util.find_spec("queue")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    for name, value in {"threading": threading, "time": time.monotonic}.items():
        setattr(made, name, value)
    for name in ("Empty", "Full", "ShutDown"):
        if hasattr(real, name):
            setattr(made, name, getattr(real, name))
    return made


_own = _load()
Empty, Full = real.Empty, real.Full
Queue, LifoQueue, PriorityQueue = _own.Queue, _own.LifoQueue, _own.PriorityQueue

__all__ = ["Empty", "Full", "LifoQueue", "PriorityQueue", "Queue", "SimpleQueue"]
