# SPDX-License-Identifier: Apache-2.0
"""Make mutants of a module, each with one change, for `mutants.py`.

A mutation removes a ``with`` lock, negates or removes a check, drops a call or a store, swaps a
publishing statement with the one before, or forgets a ``finally``.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import NamedTuple

LOCKS = ("mutex", "_lock", "read_side")
# A call that makes something visible to other threads is swapped with the statement before.
PUBLISHERS = {
    "publish", "unpublish", "set_dead", "shutdown", "mem_cgroup_offline", "synchronize", "freed",
    "set", "clear", "css_put", "css_get", "create_done", "memcg_update_array_size",
    "kmem_cache_destroy", "memcg_activate_kmem", "mem_cgroup_css_offline", "flush",
}  # fmt: skip


class Place(NamedTuple):
    """A statement: the block that it is in, by the number of the node that has the block."""

    function: str
    node: int
    block: str
    index: int


class Mutant(NamedTuple):
    """One change.

    Attributes
    ----------
    name : str
        ``module.function:operator:n``, where n counts the operator's places in the function.
    original : str
        The whole module, unchanged.
    place : Place or None
        The statement to change, or None to change nothing.
    """

    name: str
    module: str
    original: str
    place: Place | None
    operator: str

    @property
    def source(self) -> str:
        """Return the whole module, changed."""
        tree = ast.parse(self.original)
        if self.place is not None:
            apply(tree, self.place, self.operator)
        return ast.unparse(ast.fix_missing_locations(tree))


def places(tree: ast.Module) -> Iterator[tuple[Place, ast.stmt]]:
    """Return every statement with its function."""
    owner = {id(tree): "module"}
    for number, node in enumerate(ast.walk(tree)):
        inside = owner[id(node)]
        for name, value in ast.iter_fields(node):
            for i, child in enumerate(value if isinstance(value, list) else [value]):
                if isinstance(child, ast.AST):
                    named = isinstance(child, (ast.FunctionDef, ast.ClassDef))
                    owner[id(child)] = child.name if named else inside
                    if isinstance(child, ast.stmt):
                        yield Place(inside, number, name, i), child


def called(node: ast.stmt) -> str:
    """Return the name of the function that a statement calls, or the empty string."""
    call = node.value if isinstance(node, (ast.Expr, ast.Assign)) else None
    function = call.func if isinstance(call, ast.Call) else None
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def stores(node: ast.stmt, function: str) -> bool:
    """Tell whether a statement writes what other threads can see."""
    if function == "module" or isinstance(node, ast.AnnAssign):
        return False
    if isinstance(node, ast.Delete):
        return True
    targets = node.targets if isinstance(node, ast.Assign) else []
    if isinstance(node, ast.AugAssign):
        targets = [node.target]
    return any(isinstance(t, (ast.Attribute, ast.Subscript)) or _is_global(t) for t in targets)


def _is_global(target: ast.expr) -> bool:
    name = target.id if isinstance(target, ast.Name) else "__"
    if name.startswith("__"):
        return False  # __slots__
    return name.startswith("_") or name == "failed"


def operators(node: ast.stmt, before: ast.stmt | None, function: str) -> Iterator[str]:
    """Return the changes that can be made to a statement."""
    if isinstance(node, ast.With):
        for i, item in enumerate(node.items):
            if ast.unparse(item.context_expr).endswith(LOCKS):
                yield f"unlock{i or ''}"
    elif isinstance(node, ast.If) and "TYPE_CHECKING" not in ast.unparse(node.test):
        yield "never"
        yield "negate"
        if isinstance(node.test, ast.BoolOp):
            yield from (f"without{i}" for i in range(len(node.test.values)))
    elif isinstance(node, ast.Try) and node.finalbody:
        yield "forget-finally"
    elif called(node) or stores(node, function):
        if isinstance(node, ast.Assign) and called(node) and not stores(node, function):
            return
        yield "drop"
        simple = (ast.Expr, ast.Assign, ast.AugAssign, ast.Delete)
        moves = called(node) in PUBLISHERS or stores(node, function)
        if moves and isinstance(before, simple) and not _is_docstring(before):
            yield "swap"


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def apply(tree: ast.Module, place: Place, operator: str) -> None:
    """Change the statement at `place`."""
    block = getattr(list(ast.walk(tree))[place.node], place.block)
    node = block[place.index]
    if operator.startswith("unlock"):
        del node.items[int(operator.removeprefix("unlock") or 0)]
        if not node.items:
            block[place.index] = ast.If(test=ast.Constant(True), body=node.body, orelse=[])
    elif operator == "never":
        node.test = ast.Constant(False)
    elif operator == "negate":
        node.test = ast.UnaryOp(ast.Not(), node.test)
    elif operator.startswith("without"):
        del node.test.values[int(operator.removeprefix("without"))]
        if len(node.test.values) == 1:
            node.test = node.test.values[0]
    elif operator == "forget-finally":
        node.finalbody = []
        if not node.handlers:
            block[place.index] = ast.If(test=ast.Constant(True), body=node.body, orelse=[])
    elif operator == "drop":
        block[place.index] = ast.Pass()
    else:
        block[place.index - 1], block[place.index] = node, block[place.index - 1]


def mutants_of(module: str, source: str) -> list[Mutant]:
    """Return every mutant of one module."""
    found: list[Mutant] = []
    count: dict[str, int] = {}
    tree = ast.parse(source)
    nodes = list(ast.walk(tree))
    for place, node in sorted(places(tree), key=lambda x: x[1].lineno):
        if place.function == "__init__":
            continue
        block = getattr(nodes[place.node], place.block)
        before = block[place.index - 1] if isinstance(block, list) and place.index else None
        for operator in operators(node, before, place.function):
            name = f"{module}.{place.function}:{operator}"
            count[name] = count.get(name, 0) + 1
            found.append(Mutant(f"{name}:{count[name]}", module, source, place, operator))
    return found
