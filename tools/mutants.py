"""Mutants of the control plane: each must be killed by a scenario or a test.

A mutant is the shipped source with one change: a ``with`` lock removed, a check
negated or removed, a call or store dropped, a publishing statement swapped with the one before,
a ``finally`` forgotten. The scenarios of `memcg.verify` run on it first, then the tests
of the scheme. What survives must stand in ``tools/mutants.txt`` with the reason why it is
equivalent.

    python tools/mutants.py              all of them; status 1 if one survives unexplained
    python tools/mutants.py --list       name them
    python tools/mutants.py --show NAME  a mutant as a diff
    python tools/mutants.py NAME ...     these alone
"""

from __future__ import annotations

import argparse
import ast
import difflib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
SOURCE = ROOT / "src" / "memcg"
EQUIVALENT = HERE / "mutants.txt"
MODULES = ("memcontrol", "slab_common", "cgroup", "workqueue")
TESTS = ("tests/verify/test_control_plane.py", "tests/scheme", "tests/test_group.py",
         "tests/test_cache.py")  # fmt: skip
TIMEOUT_S = 240  # of the scenarios, and of the tests: ten times what the unchanged source needs
ORIGINAL = "original"
LOCKS = ("mutex", "_lock", "read_side")
# What makes something visible to others: swapped with the statement before.
PUBLISHERS = {
    "publish", "unpublish", "set_dead", "shutdown", "offline", "synchronize", "freed", "set",
    "clear", "css_put", "css_get", "create_done", "memcg_update_array_size", "kmem_cache_destroy",
    "memcg_activate_kmem", "mem_cgroup_css_offline", "flush",
}  # fmt: skip
# Left out: more than a second each, and what they kill others kill.
DEAR = {
    "allocation_offline_root_destruction", "creation_offline_root_destruction",
    "creation_offline_root_destruction_slabinfo", "two_offlines_root_destruction",
    "three_creators", "worker_offline",
}  # fmt: skip


class Place(NamedTuple):
    """A statement: the block it stands in, by the number of the node that has the block."""

    function: str
    node: int
    block: str
    index: int


class Mutant(NamedTuple):
    """One change.

    Attributes
    ----------
    name : str
        ``module.function:operator:n``, n counting the operator's places in the function.
    original : str
        The whole module, unchanged.
    place : Place or None
        The statement to change; None: none.
    """

    name: str
    module: str
    original: str
    place: Place | None
    operator: str

    @property
    def source(self) -> str:
        """The whole module, changed."""
        tree = ast.parse(self.original)
        if self.place is not None:
            apply(tree, self.place, self.operator)
        return ast.unparse(ast.fix_missing_locations(tree))


# -- making them


def places(tree: ast.Module) -> Iterator[tuple[Place, ast.stmt]]:
    """Every statement, with the function it belongs to."""
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
    """The name of the function that a statement calls, or the empty string."""
    call = node.value if isinstance(node, (ast.Expr, ast.Assign)) else None
    function = call.func if isinstance(call, ast.Call) else None
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def stores(node: ast.stmt, function: str) -> bool:
    """Tell whether a statement writes what others can see."""
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
    return name.startswith("_") or name in ("memcg_limited_groups_array_size", "failed")


def operators(node: ast.stmt, before: ast.stmt | None, function: str) -> Iterator[str]:
    """What can be done to a statement."""
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
    """Every mutant of one module."""
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


def all_mutants() -> dict[str, Mutant]:
    """Every mutant, by name, and the source as it is, which nothing may kill."""
    text = (SOURCE / f"{MODULES[0]}.py").read_text()
    return {ORIGINAL: Mutant(ORIGINAL, MODULES[0], text, None, "")} | {
        m.name: m
        for module in MODULES
        for m in mutants_of(module, (SOURCE / f"{module}.py").read_text())
    }


def equivalents() -> dict[str, str]:
    """What is listed as equivalent: name -> reason."""
    lines = EQUIVALENT.read_text().splitlines()
    pairs = [line.split(None, 1) for line in lines if line and not line.startswith("#")]
    return {name: reason for name, reason in pairs}


# -- killing them


def killing_scenario(mutant: Mutant) -> str:
    """The first scenario that notices, cheapest first; the empty string if none does."""
    from memcg.verify import world
    from memcg.verify.scenarios import SCENARIOS

    path = str(SOURCE / f"{mutant.module}.py")
    world._code[mutant.module] = compile(mutant.source, path, "exec")
    sound = [n for n, s in SCENARIOS.items() if not s.long]
    for name in sorted(set(sound) - DEAR):
        try:
            result = SCENARIOS[name].explore(minimise=0)
        except Exception as problem:
            return f"{name} ({type(problem).__name__})"
        if result.failure is not None:
            return f"{name} ({type(result.failure.exception).__name__})"
        if result.schedules < 2:
            return f"{name} (its tasks never meet)"
    return ""


def killing_test(mutant: Mutant) -> str:
    """The first test of the scheme that fails; the empty string if none does."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as directory:
        copy = Path(directory) / "src" / "memcg"
        shutil.copytree(SOURCE, copy, ignore=shutil.ignore_patterns("__pycache__"))
        (copy / f"{mutant.module}.py").write_text(mutant.source)
        try:
            done = subprocess.run(
                [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider",
                 "-o", f"pythonpath={copy.parent} tests", *TESTS],
                cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
                env={**os.environ, "PYTHONPATH": str(copy.parent)},
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return f"the tests (no end in {TIMEOUT_S} s)"
    if done.returncode == 0:
        return ""
    failed = [x for x in done.stdout.splitlines() if x.startswith(("FAILED", "ERROR"))]
    return failed[0].split(" - ")[0].split(None, 1)[1] if failed else "the tests"


def killer(name: str) -> tuple[str, str, float]:
    """Name, what kills it, seconds. Each mutant's scenarios run in a process of their own."""
    began = time.perf_counter()
    try:
        done = subprocess.run(
            [sys.executable, __file__, "--scenarios", name], capture_output=True, text=True,
            timeout=TIMEOUT_S, check=False,
            env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        )  # fmt: skip
        found = done.stdout.strip() if not done.returncode else "the scenarios cannot be loaded"
    except subprocess.TimeoutExpired:
        found = f"the scenarios (no end in {TIMEOUT_S} s)"
    return name, found or killing_test(all_mutants()[name]), time.perf_counter() - began


def run(names: list[str]) -> int:
    """Kill the mutants named; 1 if one survives that is not explained, or an excuse is wrong."""
    excused, known = equivalents(), all_mutants()
    _, noticed, _ = killer(ORIGINAL)
    if noticed:
        print(f"the source without a change does not pass: {noticed}")
        return 2
    survivors, wrong = [], [f"{n}: no such mutant" for n in sorted(set(excused) - set(known))]
    began = time.perf_counter()
    by_scenario = 0
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for name, found, seconds in pool.map(killer, names):
            print(f"{name:60} {found or 'SURVIVES':60} {seconds:5.1f} s", flush=True)
            by_scenario += "::" not in found and bool(found)
            if not found and name not in excused:
                survivors.append(name)
            elif found and name in excused:
                wrong.append(f"{name}: listed as equivalent, but killed by {found}")
    killed = len(names) - len(survivors) - sum(n in excused for n in names)
    print(f"{len(names)} mutants: {killed} killed ({by_scenario} by scenarios), "
          f"{sum(n in excused for n in names)} listed as equivalent, "
          f"{len(survivors)} survive; {time.perf_counter() - began:.0f} s")  # fmt: skip
    for text in [*(f"{name}: survives" for name in survivors), *wrong]:
        print(text)
    return 1 if survivors or wrong else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="default: all")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--show", metavar="NAME")
    parser.add_argument("--scenarios", metavar="NAME", help=argparse.SUPPRESS)
    args = parser.parse_args()
    known = all_mutants()
    if args.list:
        print(*(name for name in known if name != ORIGINAL), sep="\n")
    elif args.show:
        mutant = known[args.show]
        text = (SOURCE / f"{mutant.module}.py").read_text()
        before = ast.unparse(ast.parse(text)).splitlines()
        print(*difflib.unified_diff(before, mutant.source.splitlines(), lineterm=""), sep="\n")
    elif args.scenarios:
        print(killing_scenario(known[args.scenarios]))
    else:
        return run(args.names or [name for name in known if name != ORIGINAL])
    return 0


if __name__ == "__main__":
    sys.exit(main())
