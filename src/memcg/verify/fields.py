# SPDX-License-Identifier: Apache-2.0
"""Guarded fields, freed objects, and races between undeclared fields.

Each use of a field that is declared ``published`` or ``atomic`` is a scheduling point. A use of a
field that a mutex guards is none: a task that holds the mutex is alone with the field, and a task
that does not hold it is reported. Undeclared fields of a declared class are checked for data races
by vector clocks (FastTrack; Flanagan & Freund 2009), and so are the uses of an object before
it is freed. A race of one schedule shows in every schedule of its trace, so exploring one schedule
per trace finds it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from . import runtime
from .errors import DataRace, GuardViolation, UseAfterFree
from .objects import Mutex, Sync
from .places import where
from .runtime import Run
from .trace import READ, WRITE, covers

C = TypeVar("C", bound=type)
POINTS = ("published", "atomic")


class Cell(Sync):
    """A published or atomic field of one object."""

    def _state(self) -> Any:
        return None

    def _restore(self, state: Any) -> None:
        pass


class Record:
    """What an execution knows about one object."""

    __slots__ = ("building", "cells", "forgotten", "freed", "obj", "reads", "touched", "writes")

    def __init__(self, obj: object) -> None:
        self.obj = obj  # this keeps the object alive, so that no other object gets its id
        self.building = 0
        self.freed = ""
        self.forgotten = False
        self.touched: dict[int, tuple[int, str]] = {}  # task -> clock entry, place
        self.reads: dict[str, dict[int, tuple[int, str]]] = {}
        self.writes: dict[str, tuple[int, int, str]] = {}  # field -> task, clock entry, place
        self.cells: dict[str, Cell] = {}


def _record(run: Run, obj: object) -> Record:
    record: Record | None = run.objects.get(id(obj))
    if record is None:
        record = run.objects[id(obj)] = Record(obj)
    return record


def _name(obj: object) -> str:
    return type(obj).__name__


def _touch(run: Run, obj: object, name: str, use: int) -> None:
    """Note and check one use of a field by the task that has the turn."""
    record = _record(run, obj)
    if record.freed:
        run.fail(UseAfterFree(f"{_name(obj)}.{name} is used at {_place()}; {record.freed}"))
    if record.building:
        return
    guard = type(obj).__guards__.get(name, "")  # type: ignore[attr-defined]
    if guard in POINTS:
        cell = record.cells.get(name)
        if cell is None:
            cell = record.cells[name] = Cell(f"{_name(obj)}.{name}")
        if run.step("load" if use == READ else "store", cell, use):
            run.access(cell, use)
        if record.freed:  # another task freed it while this one waited for its turn
            run.fail(UseAfterFree(f"{_name(obj)}.{name} is used at {_place()}; {record.freed}"))
    elif guard:
        _check_guard(run, obj, name, guard, use)
    task = run.current
    if run.alone(task):
        return
    place = _place() if run.lines is not None else ""
    now = task.clock[task.id]
    record.touched[task.id] = (now, place)
    if guard == "":
        _check_race(run, record, name, use, now, place)


def _check_guard(run: Run, obj: object, name: str, guard: str, use: int) -> None:
    if "|" in guard:
        names = {m.name for m in run.current.held}
        wanted = set(guard.split(" | "))
        ok = wanted <= names if use == WRITE else not wanted.isdisjoint(names)
        if not ok:
            how = "written" if use == WRITE else "used"
            without = "all of" if use == WRITE else "one of"
            run.fail(
                GuardViolation(
                    f"{_name(obj)}.{name} is {how} by {run.current.name} at {_place()} without "
                    f"{without} {guard.replace(' |', ',')}"
                )
            )
        return
    own = object.__getattribute__(obj, "__dict__").get(guard)
    if isinstance(own, Mutex):
        ok = own in run.current.held
    else:
        ok = any(m.name == guard for m in run.current.held)
    if not ok:
        run.fail(
            GuardViolation(
                f"{_name(obj)}.{name} is used by {run.current.name} at {_place()} without {guard}"
            )
        )


def _check_race(run: Run, record: Record, name: str, use: int, now: int, place: str) -> None:
    task = run.current
    last = record.writes.get(name)
    if last is not None and last[0] != task.id and not covers(task.clock, last[0], last[1]):
        _race(run, record.obj, name, last[0], "written", last[2])
    reads = record.reads.setdefault(name, {})
    if use == READ:
        reads[task.id] = (now, place)
        return
    for other, (when, there) in reads.items():
        if other != task.id and not covers(task.clock, other, when):
            _race(run, record.obj, name, other, "read", there)
    reads.clear()
    record.writes[name] = (task.id, now, place)


def _race(run: Run, obj: object, name: str, other: int, how: str, place: str) -> None:
    by = f"{how} by {run.tasks[other].name} {'at ' + place if place else ''}".rstrip()
    run.fail(
        DataRace(
            f"{_name(obj)}.{name} is used by {run.current.name} at {_place()} and {by}, and "
            "nothing orders the two; declare what guards it"
        )
    )


def _place() -> str:
    return where()


def _looked_at() -> Run | None:
    """Return the execution that the caller is part of; None if there is none or a checker looks."""
    run = runtime.active
    return None if run is None or run.quiet or run.abandoned else run


def _getattribute(self: Any, name: str) -> Any:
    run = _looked_at()
    if run is not None and name in object.__getattribute__(self, "__dict__"):
        _touch(run, self, name, READ)
    elif run is not None and name[:2] != "__":
        record = run.objects.get(id(self))
        if record is not None and record.freed:
            _touch(run, self, name, READ)
    return object.__getattribute__(self, name)


def _setattr(self: Any, name: str, value: Any) -> None:
    run = _looked_at()
    if run is not None:
        if isinstance(value, Sync) and value.name in ("atomic", "published"):
            value.name = f"{_name(self)}.{name.lstrip('_')}"
        _touch(run, self, name, WRITE)
    object.__setattr__(self, name, value)


def shared(**guards: str | None) -> Callable[[C], C]:
    """Declare what guards which field: a mutex's name, ``published`` or ``atomic``.

    ``a | b`` are mutexes that a writer holds together; a reader holds one of them. None says that
    races on the field are intended. If the object itself has a mutex under the name, that mutex
    must be held.
    """

    def declare(cls: C) -> C:
        inherited = getattr(cls, "__guards__", None)
        cls.__guards__ = {**(inherited or {}), **guards}  # type: ignore[attr-defined]
        if inherited is None:
            type.__setattr__(cls, "__getattribute__", _getattribute)
            type.__setattr__(cls, "__setattr__", _setattr)
        build = cls.__init__  # type: ignore[misc]

        def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
            run = runtime.active
            if run is None:
                build(self, *args, **kwargs)
                return
            record = _record(run, self)
            record.building += 1
            try:
                build(self, *args, **kwargs)
            finally:
                record.building -= 1

        cls.__init__ = __init__  # type: ignore[misc]
        return cls

    return declare


def forget(obj: object) -> None:
    """Note that the program has no name left for `obj`."""
    run = _looked_at()
    if run is not None:
        _record(run, obj).forgotten = True


def is_forgotten(obj: object) -> bool:
    """Tell whether the program has called `forget` for `obj`. Then it is taken back."""
    run = _looked_at()
    if run is None:
        return False
    record = _record(run, obj)
    forgotten, record.forgotten = record.forgotten, False
    return forgotten


def freed(obj: object) -> None:
    """Note that `obj` must not be used again, and check that every use is ordered before this."""
    run = _looked_at()
    if run is None:
        return
    record = _record(run, obj)
    task = run.current
    place = _place()
    if record.freed:
        run.fail(UseAfterFree(f"{_name(obj)} is freed twice: at {place}; {record.freed}"))
    run.note(f"free {_name(obj)}")
    record.freed = f"{task.name} freed it at {place}"
    if run.alone(task):
        return
    for other, (when, there) in record.touched.items():
        if other != task.id and not covers(task.clock, other, when):
            by = f"{run.tasks[other].name} {'at ' + there if there else ''}".rstrip()
            run.fail(
                UseAfterFree(
                    f"{_name(obj)} is freed by {task.name} at {place} while {by} may still use "
                    "it: nothing orders that use before the free"
                )
            )
