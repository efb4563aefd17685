# SPDX-License-Identifier: Apache-2.0
"""Classes and modules whose state becomes steps, though they do not use the seam.

Each use of a field of a tracked class is a step: the class gets a ``__getattribute__`` of ours
while the exploration lasts, so a use by ``getattr`` or from C is seen as well. Class attributes,
globals of tracked modules and the contents of lists, dicts, sets and deques have no such hook.
`plain.Audit` finds their uses by tracing instructions.

Before each execution, the globals, the class attributes, and the containers and tracked objects
that can be reached from them get the state that they had when the exploration began.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from functools import partial
from types import FunctionType, MemberDescriptorType, ModuleType
from typing import Any

from . import runtime
from .fields import Cell
from .runtime import Run
from .trace import READ, WRITE

_MISSING: Any = object()
CONTAINERS = (list, dict, set, deque, bytearray)
_CODE = (FunctionType, ModuleType, type, classmethod, staticmethod, property)


def touch(run: Run, holder: object, name: Any, use: int, text: str) -> None:
    """Make a use of a part of `holder` a step of its own."""
    cell = run.tracked.get((id(holder), name))
    if cell is None:
        cell = run.tracked[id(holder), name] = (
            Cell(text),
            holder,
        )  # kept, so that the id stays its own
    if run.step("load" if use == READ else "store", cell[0], use):
        run.access(cell[0], use)


def _own(obj: object) -> dict[str, Any]:
    try:
        found: dict[str, Any] = object.__getattribute__(obj, "__dict__")
    except AttributeError:
        found = {}
    return found


class Tracking:
    """It makes the state of classes and modules steps, and undoes what an execution did to it.

    Parameters
    ----------
    targets : iterable of class or module
        A module stands for the classes that it defines, too.

    Raises
    ------
    TypeError
        A target is neither, or a class that is written in C.
    """

    def __init__(self, targets: Iterable[type | ModuleType]) -> None:
        targets = [*targets]
        for target in targets:
            if not isinstance(target, (type, ModuleType)):
                raise TypeError(f"track: {target!r} is neither a class nor a module")
        self.modules = [t for t in targets if isinstance(t, ModuleType)]
        classes = {t for t in targets if isinstance(t, type)}
        for module in self.modules:
            classes |= {c for c in vars(module).values()
                        if isinstance(c, type) and c.__module__ == module.__name__}  # fmt: skip
        self.classes = sorted(classes, key=lambda c: (len(c.__mro__), c.__qualname__))
        self.scopes = {id(vars(module)): module for module in self.modules}
        self._undo: list[Callable[[], object]] = []
        self._restore: list[Callable[[], object]] = []
        self._saved: set[int] = set()

    def __enter__(self) -> Tracking:
        try:
            for cls in self.classes:
                self._hook(cls)
        except BaseException:
            self._unhook()
            raise
        for module in self.modules:
            self._save_names(vars(module), partial(dict.__setitem__, vars(module)),
                             partial(dict.__delitem__, vars(module)))  # fmt: skip
        for cls in self.classes:
            self._save_names(
                vars(cls), partial(type.__setattr__, cls), partial(type.__delattr__, cls)
            )
        return self

    def __exit__(self, *exc: object) -> None:
        self.restore()
        self._unhook()
        self._restore.clear()
        self._saved.clear()

    def restore(self) -> None:
        """Give everything the state that it had at the beginning."""
        for undo in self._restore:
            undo()

    # -- classes

    def _hook(self, cls: type) -> None:
        get: Any = cls.__getattribute__
        if getattr(get, "tracks", False):
            return  # a base class is tracked too

        def __getattribute__(obj: Any, name: str) -> Any:
            run = runtime.active
            if run is not None and name[:2] != "__" and not run.quiet and not run.abandoned:
                self._field(run, obj, name, READ)
            return get(obj, name)

        def changes(then: Callable[..., None]) -> Any:
            def hook(obj: Any, name: str, *value: Any) -> None:
                run = runtime.active
                if run is not None and not run.quiet and not run.abandoned:
                    self._field(run, obj, name, WRITE)
                then(obj, name, *value)

            return hook

        __getattribute__.tracks = True  # type: ignore[attr-defined]
        for name, hook in {
            "__getattribute__": __getattribute__,
            "__setattr__": changes(cls.__setattr__),
            "__delattr__": changes(cls.__delattr__),
        }.items():
            before = vars(cls).get(name, _MISSING)
            try:
                type.__setattr__(cls, name, hook)
            except TypeError:
                raise TypeError(f"track: {cls.__qualname__} is written in C; track a class of "
                                "Python, or the module that uses it") from None  # fmt: skip
            if before is _MISSING:
                self._undo.append(partial(type.__delattr__, cls, name))
            else:
                self._undo.append(partial(type.__setattr__, cls, name, before))

    def _unhook(self) -> None:
        for undo in reversed(self._undo):
            undo()
        self._undo.clear()

    def _field(self, run: Run, obj: Any, name: str, use: int) -> None:
        cls = type(obj)
        if run.alone(run.current):
            return
        if name not in _own(obj):
            for base in cls.__mro__:
                found = vars(base).get(name, _MISSING)
                if found is _MISSING:
                    continue
                if isinstance(found, MemberDescriptorType):
                    break
                if isinstance(found, _CODE) or hasattr(type(found), "__get__"):
                    if use == READ or hasattr(type(found), "__set__"):
                        return  # its code is explored
                    break
                if use == READ:
                    self.of_class(run, base, name, READ)
                break
        touch(run, obj, name, use, f"{cls.__name__}.{name}")

    def of_class(self, run: Run, cls: type, name: str, use: int) -> bool:
        """Make a use of a class attribute a step, if its class is tracked. Tell whether it is."""
        for base in cls.__mro__ if use == READ else (cls,):
            if use == WRITE or name in vars(base):
                if base not in self.classes:
                    return False
                if not isinstance(vars(base).get(name), _CODE):
                    touch(run, base, name, use, f"{base.__name__}.{name}")
                return True
        return False

    def of_module(self, run: Run, scope: dict[str, Any], name: str, use: int) -> bool:
        """Make a use of a global a step, if its module is tracked. Tell whether it is."""
        module = self.scopes.get(id(scope))
        if module is None:
            return False
        if use == WRITE or not isinstance(scope.get(name, _CODE), _CODE):
            touch(run, scope, name, use, f"{module.__name__.rpartition('.')[2]}.{name}")
        return True

    # -- what is undone

    def _save_names(
        self, names: Any, put: Callable[[str, Any], None], delete: Callable[[str], None]
    ) -> None:
        before = {n: v for n, v in names.items() if n[:2] != "__"}
        for value in before.values():
            self._save(value)

        def undo() -> None:
            for name, value in [*names.items()]:
                if name[:2] != "__" and before.get(name, _MISSING) is not value:
                    if name in before:
                        put(name, before[name])
                    else:
                        delete(name)
            for name in before.keys() - names.keys():
                put(name, before[name])

        self._restore.append(undo)

    def _save(self, value: Any) -> None:
        """Remember what a container or a tracked object contains, and what that contains."""
        if id(value) in self._saved:
            return
        if isinstance(value, CONTAINERS):
            self._saved.add(id(value))
            before = value.copy()
            self._restore.append(partial(_refill, value, before))
            for inner in before.values() if isinstance(before, dict) else [*before]:
                self._save(inner)
        elif isinstance(value, tuple(self.classes)):
            self._saved.add(id(value))
            own = _own(value)
            kept = dict(own)
            self._restore.append(partial(_refill, own, kept))
            for base in type(value).__mro__:
                for slot in vars(base).values():
                    if isinstance(slot, MemberDescriptorType):
                        self._save_slot(value, slot)
            for inner in kept.values():
                self._save(inner)

    def _save_slot(self, obj: Any, slot: MemberDescriptorType) -> None:
        try:
            value = slot.__get__(obj)
        except AttributeError:
            return
        self._restore.append(partial(slot.__set__, obj, value))
        self._save(value)


def _refill(container: Any, before: Any) -> None:
    """Give a container the contents of `before`, without code of a subclass."""
    if isinstance(container, OrderedDict):
        OrderedDict.clear(container)
        OrderedDict.update(container, before)
    elif isinstance(container, dict):
        dict.clear(container)
        dict.update(container, before)
    elif isinstance(container, set):
        set.clear(container)
        set.update(container, before)
    elif isinstance(container, deque):
        deque.clear(container)
        deque.extend(container, before)
    else:
        container[:] = before
