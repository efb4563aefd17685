# SPDX-License-Identifier: Apache-2.0
"""Which plain objects an instruction uses, found from the code before it runs.

A symbolic stack says where each operand was loaded from: a local name, a global, a closure's cell,
and attributes and items of those. What is not known is None, and its use is not seen. The stack
starts anew at each target of a jump.
"""

from __future__ import annotations

import dis
from types import CodeType
from typing import Any, NamedTuple

from .trace import READ, WRITE

Symbol = tuple[Any, ...] | None  # ("fast", name), ("attr", symbol, name), ...


class Use(NamedTuple):
    """A use of something: ``global``, ``cell``, ``attr``, ``item``, ``whole``, ``call``, ``with``.

    Attributes
    ----------
    holder : Symbol
        The object that has the attribute or item; None for a global and a cell.
    name : Symbol or str
        The attribute's, method's or variable's name, or the key of the item.
    """

    kind: str
    holder: Symbol
    name: Any
    use: int


_READERS = {"len", "list", "tuple", "set", "dict", "sorted", "sum", "min", "max", "any", "all",
            "frozenset", "enumerate", "reversed", "zip", "map", "filter"}  # fmt: skip
_NO_EFFECT = {"PRECALL", "KW_NAMES", "RESUME", "NOP", "CACHE", "EXTENDED_ARG", "MAKE_CELL",
              "COPY_FREE_VARS", "NOT_TAKEN"}  # fmt: skip
_NEVER_FALL_THROUGH = ("RETURN", "RAISE", "RERAISE", "JUMP_FORWARD", "JUMP_BACKWARD")
_NULL = ("null",)


class _Reader:
    """It goes through the instructions of one code object."""

    def __init__(self) -> None:
        self.stack: list[Symbol] = []
        self.uses: dict[int, list[Use]] = {}
        self.offset = 0

    def pop(self, n: int = 1) -> list[Symbol]:
        """Take `n` entries off the stack; return them, the top first."""
        return [self.stack.pop() if self.stack else None for _ in range(n)]

    def note(self, kind: str, holder: Symbol, name: Any, use: int) -> None:
        if holder is not None or kind in ("global", "cell"):
            self.uses.setdefault(self.offset, []).append(Use(kind, holder, name, use))

    def read(self, x: dis.Instruction) -> None:
        self.offset, name = x.offset, x.argval
        if x.is_jump_target:
            self.stack.clear()
        step = getattr(self, f"do_{x.opname}", None)
        if step is not None:
            step(x, name)
        elif x.opname == "BINARY_OP" and x.argrepr == "[]":
            self.do_BINARY_SUBSCR(x, name)
        elif x.opname.startswith(("LOAD_FAST", "STORE_FAST")):
            self._fast(x.opname, name)
        elif x.opname.startswith(_NEVER_FALL_THROUGH):
            self.stack.clear()
        elif x.opname not in _NO_EFFECT:
            self._other(dis.stack_effect(x.opcode, x.arg, jump=False))

    def _other(self, effect: int) -> None:
        self.pop(max(0, -effect))
        if self.stack:
            self.stack[-1] = None
        self.stack += [None] * max(0, effect)

    def _fast(self, opname: str, names: Any) -> None:
        names = list(names) if isinstance(names, tuple) else [names]
        for part in opname.replace("_FAST", "").split("_"):
            if part == "LOAD":
                self.stack.append(("fast", names.pop(0)))
            elif part == "STORE":
                names.pop(0)
                self.pop()

    # -- names

    def do_LOAD_CONST(self, x: dis.Instruction, value: Any) -> None:
        self.stack.append(("const", value))

    do_LOAD_SMALL_INT = do_LOAD_CONST

    def do_LOAD_GLOBAL(self, x: dis.Instruction, name: str) -> None:
        self.note("global", None, name, READ)
        pushed: list[Symbol] = [("global", name)]
        if (x.arg or 0) & 1:
            pushed.append(_NULL)  # on which side it is makes no difference to a call
        self.stack += pushed

    def do_STORE_GLOBAL(self, x: dis.Instruction, name: str) -> None:
        self.note("global", None, name, WRITE)
        self.pop()

    def do_DELETE_GLOBAL(self, x: dis.Instruction, name: str) -> None:
        self.note("global", None, name, WRITE)

    def do_LOAD_DEREF(self, x: dis.Instruction, name: str) -> None:
        self.note("cell", None, name, READ)
        self.stack.append(("fast", name))

    def do_STORE_DEREF(self, x: dis.Instruction, name: str) -> None:
        self.note("cell", None, name, WRITE)
        self.pop()

    # -- attributes and items

    def do_LOAD_ATTR(self, x: dis.Instruction, name: str) -> None:
        (holder,) = self.pop()
        method = x.opname == "LOAD_METHOD" or "NULL|self" in x.argrepr
        self.note("attr", holder, name, READ)
        found: Symbol = ("attr", holder, name) if holder is not None else None
        self.stack += [found, _NULL] if method else [found]

    do_LOAD_METHOD = do_LOAD_ATTR

    def do_STORE_ATTR(self, x: dis.Instruction, name: str) -> None:
        holder, _ = self.pop(2)
        self.note("attr", holder, name, WRITE)

    def do_DELETE_ATTR(self, x: dis.Instruction, name: str) -> None:
        (holder,) = self.pop()
        self.note("attr", holder, name, WRITE)

    def do_BINARY_SUBSCR(self, x: dis.Instruction, name: Any) -> None:
        key, holder = self.pop(2)
        self.note("item", holder, key, READ)
        self.stack.append(None if holder is None or key is None else ("item", holder, key))

    def do_STORE_SUBSCR(self, x: dis.Instruction, name: Any) -> None:
        key, holder, _ = self.pop(3)
        self.note("item", holder, key, WRITE)

    def do_DELETE_SUBSCR(self, x: dis.Instruction, name: Any) -> None:
        _, holder = self.pop(2)
        self.note("whole", holder, "", WRITE)

    def do_BINARY_SLICE(self, x: dis.Instruction, name: Any) -> None:
        self.note("whole", self.pop(3)[-1], "", READ)
        self.stack.append(None)

    def do_STORE_SLICE(self, x: dis.Instruction, name: Any) -> None:
        self.note("whole", self.pop(4)[2], "", WRITE)

    def do_CONTAINS_OP(self, x: dis.Instruction, name: Any) -> None:
        self.note("whole", self.pop(2)[0], "", READ)
        self.stack.append(None)

    def do_GET_ITER(self, x: dis.Instruction, name: Any) -> None:
        (holder,) = self.pop()
        self.note("whole", holder, "", READ)
        self.stack.append(None)

    def do_LIST_EXTEND(self, x: dis.Instruction, name: Any) -> None:
        (holder,) = self.pop()
        self.note("whole", holder, "", READ)

    do_SET_UPDATE = do_DICT_UPDATE = do_LIST_EXTEND

    def do_UNPACK_SEQUENCE(self, x: dis.Instruction, n: int) -> None:
        (holder,) = self.pop()
        self.note("whole", holder, "", READ)
        self.stack += [None] * n

    # -- calls

    def do_CALL(self, x: dis.Instruction, name: Any) -> None:
        arguments = self.pop(x.arg or 0)
        for callee in self.pop(2):
            if callee is not None and callee[0] == "attr":
                self.note("call", callee[1], callee[2], WRITE)
            elif callee is not None and callee[0] == "global" and callee[1] in _READERS:
                for argument in arguments:
                    self.note("whole", argument, "", READ)
        self.stack.append(None)

    def do_CALL_KW(self, x: dis.Instruction, name: Any) -> None:
        self.pop()
        self.do_CALL(x, name)

    def do_BEFORE_WITH(self, x: dis.Instruction, name: Any) -> None:
        (holder,) = self.pop()
        self.note("with", holder, "", WRITE)
        self.stack += [None, None]

    do_LOAD_SPECIAL = do_BEFORE_WITH

    # -- the stack

    def do_PUSH_NULL(self, x: dis.Instruction, name: Any) -> None:
        self.stack.append(_NULL)

    def do_POP_TOP(self, x: dis.Instruction, name: Any) -> None:
        self.pop()

    def do_COPY(self, x: dis.Instruction, n: int) -> None:
        self.stack.append(self.stack[-n] if len(self.stack) >= n else None)

    def do_SWAP(self, x: dis.Instruction, n: int) -> None:
        self.stack[:0] = [None] * (n - len(self.stack))
        self.stack[-n], self.stack[-1] = self.stack[-1], self.stack[-n]


def uses_of(code: CodeType) -> dict[int, list[Use]]:
    """Return what each instruction of `code` uses: offset -> uses."""
    reader = _Reader()
    for instruction in dis.get_instructions(code):
        reader.read(instruction)
    return reader.uses
