# SPDX-License-Identifier: Apache-2.0
"""Values that tasks share without a lock. Each use is a scheduling point and indivisible."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any, Generic, TypeVar, cast

from . import runtime
from .errors import GuardViolation
from .objects import Mutex, Sync
from .places import where
from .trace import READ, WRITE

T = TypeVar("T")


class Atomic(Sync):
    """An integer that is changed by indivisible steps."""

    def __init__(self, value: int = 0) -> None:
        super().__init__("atomic")
        self._value = value

    def _state(self) -> Any:
        return self._value

    def _restore(self, state: Any) -> None:
        self._value = state

    def _do(self, kind: str, use: int) -> None:
        run = self._in(runtime.active)
        if run is not None and run.step(kind, self, use):
            run.access(self, use)

    def get(self) -> int:
        self._do("get", READ)
        return self._value

    def set(self, value: int) -> None:
        self._do("set", WRITE)
        self._value = value

    def add(self, n: int) -> int:
        self._do("add", WRITE)
        self._value += n
        return self._value

    def swap(self, value: int) -> int:
        self._do("swap", WRITE)
        old, self._value = self._value, value
        return old

    def compare_exchange(self, expected: int, new: int) -> bool:
        run = self._in(runtime.active)
        if run is not None and run.step("compare_exchange", self, WRITE):
            run.access(self, WRITE if self._value == expected else READ)
        if self._value != expected:
            return False
        self._value = new
        return True


class Published(Sync, Generic[T]):
    """A cell that one task writes and all read without a lock. A list's slots are cells too."""

    def __init__(self, value: T) -> None:
        super().__init__("published")
        self._value: T = self._cells(value)

    def _cells(self, value: T) -> T:
        return cast(T, Array(value)) if isinstance(value, list) else value

    def _state(self) -> Any:
        return self._value

    def _restore(self, state: Any) -> None:
        self._value = state

    def load(self) -> T:
        run = self._in(runtime.active)
        if run is not None and run.step("load", self, READ):
            run.access(self, READ)
        return self._value

    def store(self, value: T) -> None:
        run = self._in(runtime.active)
        if run is not None and run.step("store", self, WRITE):
            run.access(self, WRITE)
        self._value = self._cells(value)


class Array:
    """A list of fixed length whose slots are read and written by indivisible steps."""

    def __init__(self, values: list[Any]) -> None:
        self.values = [*values]
        self._sync = Cells(self)

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, i: int) -> Any:
        self._sync.do("load slot", READ)
        return self.values[i]

    def __setitem__(self, i: int, value: Any) -> None:
        self._sync.do("store slot", WRITE)
        self.values[i] = value

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(len(self)))

    def __eq__(self, other: object) -> bool:
        return [*self] == other

    def __add__(self, other: list[Any]) -> list[Any]:
        self._sync.do("copy slots", READ)
        return [*self.values, *other]


class Cells(Sync):
    """The slots of one `Array` as one object of the trace."""

    def __init__(self, array: Array) -> None:
        super().__init__("slots")
        self._array = array

    def _state(self) -> Any:
        return [*self._array.values]

    def _restore(self, state: Any) -> None:
        self._array.values[:] = state

    def do(self, kind: str, use: int) -> None:
        run = self._in(runtime.active)
        if run is not None and run.step(kind, self, use):
            run.access(self, use)


class Table(dict[str, Any]):
    """A dictionary of fixed keys whose values are read and written by indivisible steps."""

    def __init__(self, values: dict[str, Any]) -> None:
        super().__init__({key: Published(value) for key, value in values.items()})
        for key, cell in self.items():
            cell.name = key

    def __getitem__(self, key: str) -> Any:
        return super().__getitem__(key).load()

    def __setitem__(self, key: str, value: Any) -> None:
        super().__getitem__(key).store(value)


def _check_mutex(name: str, mutex: Mutex) -> None:
    run = runtime.active
    if run is None or run.quiet or run.abandoned or run.alone(run.current):
        return
    if not mutex.held():
        run.fail(
            GuardViolation(
                f"{name} is used by {run.current.name} at {where()} without {mutex.name}"
            )
        )


class GuardedDict(dict[Any, Any]):
    """A module's dictionary that a mutex guards.

    A task that uses it without the mutex, while other tasks run, is reported. The uses that are
    checked are looking up, storing, deleting, popping and iterating.
    """

    def __init__(self, name: str, mutex: Mutex, values: dict[Any, Any]) -> None:
        super().__init__(values)
        self._name = name
        self._mutex = mutex

    def _check(self) -> None:
        _check_mutex(self._name, self._mutex)

    def __contains__(self, key: object) -> bool:
        self._check()
        return super().__contains__(key)

    def __getitem__(self, key: Any) -> Any:
        self._check()
        return super().__getitem__(key)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._check()
        super().__setitem__(key, value)

    def __delitem__(self, key: Any) -> None:
        self._check()
        super().__delitem__(key)

    def __iter__(self) -> Iterator[Any]:
        self._check()
        return super().__iter__()

    def pop(self, *args: Any) -> Any:
        self._check()
        return super().pop(*args)


class GuardedList(list[Any]):
    """A module's list that a mutex guards: a use without the mutex is reported, as `GuardedDict`.

    The uses that are checked are looking up, storing, deleting, appending, popping, iterating and
    asking for the length.
    """

    def __init__(self, name: str, mutex: Mutex, values: list[Any]) -> None:
        super().__init__(values)
        self._name = name
        self._mutex = mutex

    def _check(self) -> None:
        _check_mutex(self._name, self._mutex)

    def __len__(self) -> int:
        self._check()
        return super().__len__()

    def __getitem__(self, i: Any) -> Any:
        self._check()
        return super().__getitem__(i)

    def __setitem__(self, i: Any, value: Any) -> None:
        self._check()
        super().__setitem__(i, value)

    def __delitem__(self, i: Any) -> None:
        self._check()
        super().__delitem__(i)

    def __iter__(self) -> Iterator[Any]:
        self._check()
        return super().__iter__()

    def append(self, value: Any) -> None:
        self._check()
        super().append(value)

    def pop(self, *args: Any) -> Any:
        self._check()
        return super().pop(*args)


class Queue:
    """A queue that many tasks append to and take from.

    The test for emptiness and the take that follows it in the same expression are one step.
    """

    def __init__(self, name: str) -> None:
        self.items: deque[Any] = deque()
        self._sync = _QueueSync(self, name)
        self._looked: object = None  # the step in which a task found that it is not empty

    def append(self, item: Any) -> None:
        self._sync.do("append", WRITE)
        self.items.append(item)

    def __bool__(self) -> bool:
        self._sync.do("take", WRITE if self.items else READ)
        self._looked = self._step()
        return bool(self.items)

    def popleft(self) -> Any:
        if self._looked is None or self._looked != self._step():
            self._sync.do("take", WRITE)
        self._looked = None
        return self.items.popleft()

    @staticmethod
    def _step() -> object:
        run = runtime.active
        return None if run is None else (run, len(run.steps))


class _QueueSync(Sync):
    def __init__(self, queue: Queue, name: str) -> None:
        super().__init__(name)
        self._queue = queue

    def _state(self) -> Any:
        return [*self._queue.items]

    def _restore(self, state: Any) -> None:
        self._queue.items = deque(state)

    def do(self, kind: str, use: int) -> None:
        run = self._in(runtime.active)
        if run is not None and run.step(kind, self, WRITE):
            run.access(self, WRITE if self._queue.items or kind == "append" else READ)
