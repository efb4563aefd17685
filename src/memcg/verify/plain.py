# SPDX-License-Identifier: Apache-2.0
"""Plain objects that two tasks use, and that the explorer therefore does not explore.

Globals, closures, attributes of undeclared classes, lists, dicts and sets are not on the seam: a
use of one is no step. If two tasks use the same one, nothing orders the two uses, and one of them
writes, then schedules that differ in it were not run. The same is true of a lock of `threading`.
`Audit` traces the instructions of the program and notes such uses in vector clocks, as `fields.py`
does for declared classes.

If classes and modules are tracked (`tracking.py`), the uses of their globals and class attributes,
and of the contents of all containers that the program's instructions use, are steps instead.

Not looked at: files of the standard library, of memcg and of the explorer; an object that an
instruction takes from a call's result.
"""

from __future__ import annotations

import _thread
import gc
import queue
import sysconfig
import threading
from collections.abc import Callable
from types import (
    BuiltinFunctionType,
    CodeType,
    FrameType,
    FunctionType,
    MemberDescriptorType,
    MethodDescriptorType,
    ModuleType,
)
from typing import TYPE_CHECKING, Any

from . import runtime
from .bytecode import Symbol, Use, uses_of
from .places import beneath
from .trace import READ, WRITE, covers
from .tracking import CONTAINERS as _CONTAINERS
from .tracking import Tracking, touch

if TYPE_CHECKING:
    from .runtime import Run

Tracer = Callable[[FrameType, str, Any], Any]
_MEMCG = __file__.rsplit("/", 2)[0] + "/"
_STDLIB = sysconfig.get_paths()["stdlib"] + "/"
_MISSING: Any = object()
_CHANGING = {
    "append", "appendleft", "extend", "extendleft", "insert", "pop", "popleft", "popitem", "remove",
    "clear", "update", "setdefault", "add", "discard", "sort", "reverse", "rotate",
    "difference_update", "intersection_update", "symmetric_difference_update", "move_to_end",
}  # fmt: skip
_READERS = {
    "len", "list", "tuple", "set", "dict", "sorted", "sum", "min", "max", "any", "all", "frozenset",
    "enumerate", "reversed", "zip", "map", "filter", "iter", "repr", "str", "print", "bool",
    "extend", "update", "join", "append", "isinstance", "type", "id",
}  # fmt: skip
_SYNC = (
    type(_thread.allocate_lock()), type(threading.RLock()), threading.Condition, threading.Event,
    threading.Semaphore, threading.Barrier, threading.Thread, queue.Queue, queue.SimpleQueue,
)  # fmt: skip
_MANY = 64  # items of a container that is read whole; the others are not looked at one by one


class _Seen:
    """The uses of one thing in one execution. `thing` is kept, so that its id is not used again."""

    __slots__ = ("reads", "thing", "write")

    def __init__(self, thing: object) -> None:
        self.thing = thing
        self.write: tuple[int, int, str] | None = None  # task, clock entry, place
        self.reads: dict[int, tuple[int, str]] = {}


class Audit:
    """It traces the tasks of executions.

    Attributes
    ----------
    found : dict
        What two tasks use and is not on the seam -> a sentence about it.
    """

    def __init__(self, tracking: Tracking | None = None) -> None:
        self.found: dict[str, str] = {}
        self.tracking = tracking
        self.notes = True  # false: uses of what is tracked are steps, and others are not noted
        self._tables: dict[CodeType, dict[int, list[Use]]] = {}
        self._run: Run | None = None
        self._seen: dict[Any, _Seen] = {}
        self._functions: dict[int, dict[CodeType, FunctionType]] = {}  # of each task

    def begin(self, run: Run) -> None:
        self._run, self._seen, self._functions = run, {}, {}

    def trace(self, frame: FrameType, event: str, arg: Any) -> Tracer | None:
        """Trace a call, if its code uses what may be shared. It is for `sys.settrace`."""
        code = frame.f_code
        table = self._tables.get(code)
        if table is None:
            table = self._tables[code] = {} if _is_foreign(code.co_filename) else uses_of(code)
        if not table:
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        loaded: dict[Symbol, Any] = {}

        def instruction(frame: FrameType, event: str, arg: Any) -> Tracer:
            if event == "opcode":
                uses = table.get(frame.f_lasti)
                run = runtime.active
                if uses and run is not None and run is self._run and self._looks(run):
                    for use in uses:
                        if use.kind == "loaded":
                            loaded.pop(use.holder, None)
                            loaded[use.holder] = _value(use.holder, frame, loaded)
                        else:
                            self._use(run, frame, use, loaded)
            return instruction

        return instruction

    @staticmethod
    def _looks(run: Run) -> bool:
        return not run.quiet and not run.abandoned and not run.alone(run.current)

    # -- what an instruction uses

    def _use(self, run: Run, frame: FrameType, use: Use, loaded: dict[Symbol, Any]) -> None:
        if use.kind == "global":
            self._global(run, frame, frame.f_globals, use, f"the global {use.name}")
            return
        if use.kind == "cell":
            cell = self._cell(run, frame, use.name)
            if cell is not None:
                text = f"the closure's variable {use.name}"
                if self.tracking is not None:
                    touch(run, cell, "", use.use, use.name)
                else:
                    self._note(run, frame, ("cell", id(cell), ""), cell, use.use, text)
            return
        holder = _value(use.holder, frame, loaded)
        if holder is _MISSING or _is_ours(holder):
            return
        if use.kind == "attr":
            self._attribute(run, frame, holder, use)
        elif isinstance(holder, _SYNC):
            if use.kind in ("call", "with"):
                self._sync(run, frame, holder, _text(use.holder))
        elif use.kind != "with":
            holder = _behind(holder)
            if not isinstance(holder, _CONTAINERS):
                return
            if use.kind == "call" and isinstance(getattr(type(holder), use.name, 0), FunctionType):
                return  # its code is explored
            if use.kind == "argument":
                how = _does_to_arguments(use.name, frame, loaded)
                if not how:
                    return
                use = use._replace(kind="whole", use=how)
            self._container(run, frame, holder, use, loaded)

    def _global(
        self, run: Run, frame: FrameType, scope: dict[str, Any], use: Use, text: str
    ) -> None:
        if use.name in scope or use.use == WRITE:
            if self.tracking is not None and self.tracking.of_module(run, scope, use.name, use.use):
                return
            self._note(run, frame, ("global", id(scope), use.name), scope, use.use, text)

    def _attribute(self, run: Run, frame: FrameType, holder: Any, use: Use) -> None:
        owner = holder
        tracking = self.tracking
        if tracking is not None:
            if isinstance(holder, type) and tracking.of_class(run, holder, use.name, use.use):
                return
            if isinstance(holder, ModuleType) and tracking.of_module(
                run, vars(holder), use.name, use.use
            ):
                return
            if getattr(type(holder).__getattribute__, "tracks", False):
                return  # the class notices itself
        if not isinstance(holder, (type, ModuleType)) and use.use == READ:
            if not _has(holder, use.name):
                owner = type(holder)
                if not isinstance(vars(owner).get(use.name), (*_CONTAINERS, int, str, float)):
                    return  # a method, a property, or nothing
        elif isinstance(getattr(type(holder), use.name, None), property):
            return
        if isinstance(owner, threading.local):
            return
        text = f"{_owner(owner)}.{use.name}"
        self._note(run, frame, (id(owner), use.name), owner, use.use, text)

    def _container(
        self, run: Run, frame: FrameType, holder: Any, use: Use, loaded: dict[Symbol, Any]
    ) -> None:
        text = f"the {type(holder).__name__} {_text(use.holder)}"
        whole = (id(holder), "")
        changes = use.use == WRITE and (use.kind != "call" or use.name in _CHANGING)
        key = _value(use.name, frame, loaded) if use.kind == "item" else _MISSING
        if use.kind == "item" and not changes and hasattr(type(holder), "__missing__"):
            changes = True
        if self.tracking is not None:
            touch(run, holder, "", WRITE if changes else READ, text)
            return
        if isinstance(key, (str, int, float, bytes, tuple, frozenset, type(None))):
            new = isinstance(holder, dict) and changes and key not in holder
            self._note(run, frame, whole, holder, WRITE if new else READ, text)
            self._note(run, frame, (id(holder), "item", key), holder, use.use, text)
            return
        self._note(run, frame, whole, holder, WRITE if changes else READ, text)
        keys = holder if isinstance(holder, dict) else range(len(holder))
        if not isinstance(holder, set) and len(holder) <= _MANY:
            for one in [*keys]:
                item = (id(holder), "item", one)
                self._note(run, frame, item, holder, WRITE if changes else READ, text)

    def _sync(self, run: Run, frame: FrameType, holder: Any, name: str) -> None:
        if not self.notes:
            return
        seen = self._seen.setdefault((id(holder), "sync"), _Seen(holder))
        place, task = _place(frame), run.current
        seen.reads.setdefault(task.id, (0, place))
        for other, (_, there) in seen.reads.items():
            if other != task.id:
                kind = f"{type(holder).__module__.lstrip('_')}.{type(holder).__name__}"
                self._say(run, f"the {kind} {name}", "used", place, other, "used", there)

    def _note(
        self, run: Run, frame: FrameType, key: Any, thing: object, use: int, text: str
    ) -> None:
        if not self.notes:
            return
        seen = self._seen.get(key)
        if seen is None:
            seen = self._seen[key] = _Seen(thing)
        task, last = run.current, seen.write
        now, place = task.clock[task.id], _place(frame)
        did = "read" if use == READ else "written"
        if last is not None and last[0] != task.id and not covers(task.clock, last[0], last[1]):
            self._say(run, text, did, place, last[0], "written", last[2])
        if use == READ:
            seen.reads[task.id] = now, place
            return
        for other, (when, there) in seen.reads.items():
            if other != task.id and not covers(task.clock, other, when):
                self._say(run, text, did, place, other, "read", there)
        seen.write = task.id, now, place

    def _say(
        self, run: Run, text: str, did: str, place: str, other: int, had: str, there: str
    ) -> None:
        mine, its = run.current.name, run.tasks[other].name
        self.found.setdefault(
            text, f"{text} is {did} by {mine} at {place} and {had} by {its} at {there}, and is not "
            "on the seam",
        )  # fmt: skip

    def _cell(self, run: Run, frame: FrameType, name: str) -> Any:
        """Return the cell of a closure's variable, if its function is one that the task began with.

        A frame does not tell its function.
        """
        task, code = run.current, frame.f_code
        functions = self._functions.get(task.id)
        if functions is None:
            functions = self._functions[task.id] = {}
            _collect(task.fn, functions)
        function = functions.get(code)
        if function is not None and name in code.co_freevars:
            return (function.__closure__ or ())[code.co_freevars.index(name)]
        return None


def _collect(thing: Any, found: dict[CodeType, FunctionType]) -> None:
    """Add the functions that `thing` can call by its closures, also through methods."""
    thing = getattr(thing, "__func__", getattr(thing, "func", thing))
    if not isinstance(thing, FunctionType) or thing.__code__ in found:
        return
    found[thing.__code__] = thing
    for cell in thing.__closure__ or ():
        try:
            _collect(cell.cell_contents, found)
        except ValueError:  # the variable has no value yet
            continue


def _is_foreign(file: str) -> bool:
    library = file.startswith(_STDLIB) and "/site-packages/" not in file
    return library or file.startswith((_MEMCG, "<frozen")) or file in beneath


def _is_ours(holder: Any) -> bool:
    kind = type(holder)
    return hasattr(kind, "__guards__") or kind.__module__.startswith("memcg.verify")


def _place(frame: FrameType) -> str:
    return f"{frame.f_code.co_filename.rpartition('/')[2]}:{frame.f_lineno}"


def _owner(owner: Any) -> str:
    return owner.__name__ if isinstance(owner, (type, ModuleType)) else type(owner).__name__


def _text(symbol: Symbol) -> str:
    """Return a symbol as the source has it."""
    if symbol is None:
        return "?"
    kind, *rest = symbol
    if kind == "attr":
        return f"{_text(rest[0])}.{rest[1]}"
    if kind == "item":
        return f"{_text(rest[0])}[{_text(rest[1])}]"
    return repr(rest[0]) if kind == "const" else str(rest[0])


def _has(holder: Any, name: str) -> bool:
    """Tell whether `holder` has the attribute itself, and not only its class."""
    try:
        if name in object.__getattribute__(holder, "__dict__"):
            return True
    except AttributeError:
        pass
    return any(isinstance(vars(c).get(name), MemberDescriptorType) for c in type(holder).__mro__)


def _value(symbol: Symbol, frame: FrameType, loaded: dict[Symbol, Any]) -> Any:
    """Return the object that a symbol stands for, without running code of the program.

    If it was loaded, that is the object which was there then.
    """
    if symbol is None:
        return _MISSING
    if symbol in loaded:
        return loaded[symbol]
    kind, *rest = symbol
    if kind == "const":
        return rest[0]
    if kind == "fast":
        return frame.f_locals.get(rest[0], _MISSING)
    if kind == "global":
        name = rest[0]
        return frame.f_globals.get(name, frame.f_builtins.get(name, _MISSING))
    if kind not in ("attr", "item"):
        return _MISSING
    holder = _value(rest[0], frame, loaded)
    if holder is _MISSING:
        return _MISSING
    if kind == "item":
        key = _value(rest[1], frame, loaded)
        if type(holder) in (list, tuple, dict) and isinstance(key, (int, str, tuple, bytes)):
            try:
                return holder[key]
            except (LookupError, TypeError):
                return _MISSING
        return _MISSING
    return _attribute_of(holder, rest[1])


def _behind(holder: Any) -> Any:
    """Return the container that an iterator goes through; other objects as they are."""
    if hasattr(type(holder), "__next__") and type(holder).__module__ in ("builtins", "collections"):
        return next((x for x in gc.get_referents(holder) if isinstance(x, _CONTAINERS)), holder)
    return holder


def _does_to_arguments(callee: Symbol, frame: FrameType, loaded: dict[Symbol, Any]) -> int:
    """Return what a call does to a container that it gets; 0 if its own code is explored."""
    if callee is not None and callee[0] == "attr":
        holder = _value(callee[1], frame, loaded)
        if isinstance(holder, ModuleType):
            found = vars(holder).get(callee[2])
        else:
            found = getattr(type(holder), callee[2], None)
    else:
        found = _value(callee, frame, loaded)
    if isinstance(found, (type, BuiltinFunctionType, MethodDescriptorType)):
        if found.__name__ in _READERS:
            return READ
        return 0 if isinstance(found, type) else WRITE
    if isinstance(found, FunctionType) and _is_foreign(found.__code__.co_filename):
        return WRITE
    return 0


def _attribute_of(holder: Any, name: str) -> Any:
    try:
        own = object.__getattribute__(holder, "__dict__")
    except AttributeError:
        own = {}
    if name in own:
        return own[name]
    for base in type(holder).__mro__ if not isinstance(holder, type) else holder.__mro__:
        found = vars(base).get(name, _MISSING)
        if isinstance(found, MemberDescriptorType):
            try:
                return found.__get__(holder)
            except AttributeError:
                return _MISSING
        if isinstance(found, (*_CONTAINERS, *_SYNC)):
            return found
    return _MISSING
