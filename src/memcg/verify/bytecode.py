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

# ("fast", name), ("attr", symbol, name, offset), ...: the offset tells two loads of one name apart.
Symbol = tuple[Any, ...] | None


class Use(NamedTuple):
    """A use of something.

    The kinds are ``global``, ``cell``, ``attr``, ``item``, ``whole``, ``call`` of a method,
    ``with``, ``argument`` of a call, and ``loaded``, which says that a symbol has its value now.

    Attributes
    ----------
    holder : Symbol
        The object that has the attribute or item; None for a global and a cell.
    name : Symbol or str
        The attribute's, method's or variable's name, the key of the item, or what is called.
    """

    kind: str
    holder: Symbol
    name: Any
    use: int


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
        self.loaded: Symbol = None  # what the instruction before has loaded

    def pop(self, n: int = 1) -> list[Symbol]:
        """Take `n` entries off the stack; return them, the top first."""
        return [self.stack.pop() if self.stack else None for _ in range(n)]

    def note(self, kind: str, holder: Symbol, name: Any, use: int) -> None:
        if holder is not None or kind in ("global", "cell"):
            self.uses.setdefault(self.offset, []).append(Use(kind, holder, name, use))

    def read(self, x: dis.Instruction) -> None:
        self.offset, name = x.offset, x.argval
        if self.loaded is not None:
            self.note("loaded", self.loaded, "", READ)
            self.loaded = None
        if x.is_jump_target and x.opname != "FOR_ITER":  # a loop begins with what was there before
            self.stack.clear()
        step = getattr(self, f"do_{x.opname}", None)
        if step is not None:
            step(x, name)
        elif x.opname == "BINARY_OP" and x.argrepr == "[]":
            self.do_BINARY_SUBSCR(x, name)
        elif x.opname in ("BINARY_OP", "COMPARE_OP"):
            right, left = self.pop(2)
            self.note("whole", right, "", READ)
            self.note("whole", left, "", WRITE if x.opname == "BINARY_OP" and "=" in x.argrepr
                      else READ)  # fmt: skip
            self.stack.append(left if "=" in x.argrepr and x.opname == "BINARY_OP" else None)
        elif "JUMP" in x.opname and "IF_" in x.opname and "NONE" not in x.opname:
            self.note("whole", self.stack[-1] if self.stack else None, "", READ)
            self._other(dis.stack_effect(x.opcode, x.arg, jump=False))
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

    def _build(self, x: dis.Instruction, name: Any) -> None:
        self.pop((x.arg or 0) * (2 if x.opname == "BUILD_MAP" else 1))
        self.stack.append(None)

    do_BUILD_LIST = do_BUILD_TUPLE = do_BUILD_SET = do_BUILD_MAP = do_BUILD_STRING = _build

    # -- names

    def do_LOAD_CONST(self, x: dis.Instruction, value: Any) -> None:
        self.stack.append(("const", value))

    do_LOAD_SMALL_INT = do_LOAD_CONST

    def do_LOAD_GLOBAL(self, x: dis.Instruction, name: str) -> None:
        self.note("global", None, name, READ)
        self.loaded = ("global", name, x.offset)
        if (x.arg or 0) & 1:
            self.stack.append(_NULL)  # on which side it is makes no difference to a call
        self.stack.append(self.loaded)

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
        found: Symbol = ("attr", holder, name, x.offset) if holder is not None else None
        self.loaded = found
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
        known = holder is not None and key is not None
        self.loaded = ("item", holder, key, x.offset) if known else None
        self.stack.append(self.loaded)

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
        self.stack.append(holder)  # the iterator stands for what it goes through

    def do_FOR_ITER(self, x: dis.Instruction, name: Any) -> None:
        self.note("whole", self.stack[-1] if self.stack else None, "", READ)
        self.stack.append(None)

    def do_UNARY_NOT(self, x: dis.Instruction, name: Any) -> None:
        self.note("whole", self.pop()[0], "", READ)
        self.stack.append(None)

    do_TO_BOOL = do_UNARY_NOT

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
            if callee is None or callee == _NULL:
                continue
            if callee[0] == "attr":
                self.note("call", callee[1], callee[2], WRITE)
            for argument in arguments:
                if argument is not None and argument[0] != "const":
                    self.note("argument", argument, callee, WRITE)
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
    needed = {use.holder for uses in reader.uses.values() for use in uses if use.kind != "loaded"}
    needed |= {use.name for uses in reader.uses.values() for use in uses if use.kind == "argument"}
    for offset, uses in reader.uses.items():
        reader.uses[offset] = [u for u in uses if u.kind != "loaded" or u.holder in needed]
    return {offset: uses for offset, uses in reader.uses.items() if uses}
