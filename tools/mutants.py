"""Mutants of the control plane: each must be killed by a scenario or a test.

A mutant is the shipped source with one change: a ``with`` lock removed, a check
negated or removed, a call or store dropped, a publishing statement swapped with the one before,
a ``finally`` forgotten. The scenarios of `memcg.verify` run on it first, then the tests
of the scheme. What survives must stand in ``tools/mutants.txt`` with the reason why it is
equivalent.

A kill has the name of the scenario or test that failed; without one it is an error of this tool.
A mutant that does not end is killed too, but not by the clock, which on a busy machine tells
nothing: it is *endless* once it has used ten times the processor time that the unchanged source
needs in the same run, and it *hangs* once it has neither used a processor nor waited for one for
a while. Work goes on in a copy of the tree, so that it may be edited meanwhile.

    python tools/mutants.py              all of them; status 1 if one survives unexplained, 2 on
                                         an error of the tool
    python tools/mutants.py --jobs 1     one at a time; default: as many as processors
    python tools/mutants.py --list       name them
    python tools/mutants.py --show NAME  a mutant as a diff
    python tools/mutants.py NAME ...     these alone
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import difflib
import json
import os
import re
import resource
import shutil
import signal
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
COPIED = ("src", "tests", "tools", "pyproject.toml")
CALIBRATION = HERE / "calibration.json"  # in the copy: scenario -> schedules, the cheapest first
DEAR_TEST = "tests/scheme/test_state_machine.py"
SLACK = 10  # times what the unchanged source needs: processor time, schedules of a scenario
ASLEEP_S = 20.0  # without wanting a processor: nothing in the unchanged source waits for a second
DOZING = 0.01  # so much of that time does not count: a waiter may poll
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


# -- running them


class Ended(NamedTuple):
    """How a process ended.

    Attributes
    ----------
    how : str
        ``status N``, by itself (negative: a signal); ``endless`` or ``hangs`` if it was ended.
    processor_s : float
        What it used, with its children; right if nothing else runs meanwhile.
    """

    how: str
    shown: str
    processor_s: float


def wanted_s(process: int) -> float:
    """Seconds that the threads of a process were on a processor or waited for one."""
    total = 0
    for thread in Path(f"/proc/{process}/task").glob("*/schedstat"):
        with contextlib.suppress(OSError):  # it ended
            total += sum(map(int, thread.read_text().split()[:2]))
    return total / 1e9


def watch(command: list[str], cwd: Path, limit_s: float = resource.RLIM_INFINITY) -> Ended:
    """Run a command until it ends, is endless, or hangs; nothing of it stays."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryFile("w+", errors="replace") as output:
        process = subprocess.Popen(
            command, cwd=cwd, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            start_new_session=True, env={**os.environ, "PYTHONPATH": str(cwd / "src")},
        )  # fmt: skip
        limit = int(limit_s)
        resource.prlimit(process.pid, resource.RLIMIT_CPU, (limit, resource.RLIM_INFINITY))
        how, since, had = "", time.monotonic(), 0.0
        while not how:
            try:
                status = process.wait(ASLEEP_S / 20)
                how = "endless" if status == -signal.SIGXCPU else f"status {status}"
            except subprocess.TimeoutExpired:
                now, wanted = time.monotonic(), wanted_s(process.pid)
                if abs(wanted - had) > ASLEEP_S * DOZING:  # less: a thread ended
                    since, had = now, wanted
                elif now - since > ASLEEP_S:
                    how = "hangs"
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        used = sum(after[:2]) - sum(before[:2])
        output.seek(0)
        return Ended(how, output.read(), used)


# -- killing them


class ToolError(Exception):
    """The tool cannot tell whether a mutant is killed."""


class Verdict(NamedTuple):
    """What became of a mutant.

    Attributes
    ----------
    by : str
        ``scenario``, ``test``, or ``nobody``; ``error`` if the tool cannot tell.
    what : str
        The scenario or test, and what it noticed.
    """

    name: str
    by: str
    what: str
    seconds: float


class Limits(NamedTuple):
    """Processor time that the scenarios and the tests may use, in seconds."""

    scenarios_s: float = resource.RLIM_INFINITY
    tests_s: float = resource.RLIM_INFINITY


def explore_all(mutant: Mutant) -> None:
    """Print each scenario before it is explored, and the first that notices.

    A mutant may have more schedules than the source; if it has ten times as many, the scenario
    has noticed nothing and the next one is explored.
    """
    from memcg.verify import world
    from memcg.verify.scenarios import SCENARIOS

    path = str(SOURCE / f"{mutant.module}.py")
    world._code[mutant.module] = compile(mutant.source, path, "exec")
    sound = {n for n, s in SCENARIOS.items() if not s.long} - DEAR
    known = json.loads(CALIBRATION.read_text()) if CALIBRATION.exists() else {}
    costs = {}
    for name in known or sorted(sound):
        print(f"scenario {name}", flush=True)
        began, bound = time.process_time(), SLACK * known[name] if known else None
        try:
            result = SCENARIOS[name].explore(minimise=0, max_schedules=bound)
        except Exception as problem:
            return print(f"noticed {name} ({type(problem).__name__})")
        if result.failure is not None:
            return print(f"noticed {name} ({type(result.failure.exception).__name__})")
        if result.schedules < 2:
            return print(f"noticed {name} (its tasks never meet)")
        costs[name] = time.process_time() - began, result.schedules
    if mutant.name == ORIGINAL:
        by_cost = sorted(costs, key=costs.__getitem__)
        CALIBRATION.write_text(json.dumps({name: costs[name][1] for name in by_cost}))
    print("nothing noticed")


def noticing_scenario(ended: Ended) -> str:
    """The scenario that `explore_all` says noticed; the empty string if none did."""
    noticed = re.findall(r"^noticed (.+)$", ended.shown, re.M)
    begun = re.findall(r"^scenario (\S+)$", ended.shown, re.M)
    if ended.how == "status 0" and noticed:
        return noticed[-1]
    if ended.how == "status 0" and re.search(r"^nothing noticed$", ended.shown, re.M):
        return ""
    if not begun or re.fullmatch(r"status \d+", ended.how):
        raise ToolError(f"no scenario named, {ended.how}: {ended.shown[-300:]!r}")
    return f"{begun[-1]} ({ended.how})"


def failing_test(ended: Ended) -> str:
    """The test that pytest says failed, or that ran last; the empty string if all passed."""
    if ended.how == "status 0":
        return ""
    failed = re.search(r"^(?:FAILED|ERROR) (tests/.+?)(?: - .*)?$", ended.shown, re.M)
    if failed:
        return failed[1]
    conftest = re.search(r"while loading conftest '.*/(tests/.+)'", ended.shown)
    if conftest:
        return f"{conftest[1]} (it cannot be loaded)"
    begun = re.findall(r"^(tests/\S+::.+?)(?: PASSED.*)?$", ended.shown, re.M)
    if not begun or re.fullmatch(r"status \d+", ended.how):
        raise ToolError(f"no test named, {ended.how}: {ended.shown[-300:]!r}")
    return f"{begun[-1].strip()} ({ended.how})"


def test_files() -> list[str]:
    """What is run, the dearest last."""
    scheme = sorted(str(p.relative_to(ROOT)) for p in ROOT.glob("tests/scheme/test_*.py"))
    return ["tests/verify/test_control_plane.py", *(p for p in scheme if p != DEAR_TEST),
            "tests/test_group.py", "tests/test_cache.py", DEAR_TEST]  # fmt: skip


def run_scenarios(mutant: Mutant, limit_s: float) -> Ended:
    return watch([sys.executable, "-u", __file__, "--scenarios", mutant.name], ROOT, limit_s)


def run_tests(mutant: Mutant, limit_s: float) -> Ended:
    """Run the tests in a copy that has the mutant for the module, up to the first that fails."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as directory:
        copy_tree(Path(directory))
        (Path(directory) / f"src/memcg/{mutant.module}.py").write_text(mutant.source)
        return watch(
            [sys.executable, "-m", "pytest", "-x", "-vv", "-p", "no:cacheprovider",
             "-k", "not a_flaw_of_one_core", *test_files()],
            Path(directory), limit_s,
        )  # fmt: skip


def copy_tree(directory: Path) -> None:
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(
                ROOT / name, directory / name, ignore=shutil.ignore_patterns("__pycache__")
            )
        else:
            shutil.copy(ROOT / name, directory / name)


def calibrate() -> Limits:
    """Run the source as it is, which nothing may kill, and see what it needs.

    Raises
    ------
    ToolError
        It does not pass.
    """
    original = all_mutants()[ORIGINAL]
    CALIBRATION.unlink(missing_ok=True)
    scenarios = run_scenarios(original, resource.RLIM_INFINITY)
    tests = run_tests(original, resource.RLIM_INFINITY)
    noticed = noticing_scenario(scenarios) or failing_test(tests)
    if noticed:
        raise ToolError(f"the source without a change does not pass: {noticed}")
    return Limits(1 + SLACK * scenarios.processor_s, 1 + SLACK * tests.processor_s)


def judge(mutant: Mutant, limits: Limits) -> Verdict:
    """Look for who kills a mutant: the scenarios, then the tests."""
    began = time.monotonic()
    try:
        by, what = "scenario", noticing_scenario(run_scenarios(mutant, limits.scenarios_s))
        if not what:
            by, what = "test", failing_test(run_tests(mutant, limits.tests_s))
    except ToolError as error:
        by, what = "error", str(error)
    return Verdict(mutant.name, by if what else "nobody", what, time.monotonic() - began)


def run(names: list[str], jobs: int) -> int:
    """Judge the mutants named; 1 if one survives that is not explained, or an excuse is wrong."""
    excused, known = equivalents(), all_mutants()
    try:
        limits = calibrate()
    except ToolError as error:
        print(error)
        return 2
    began = time.monotonic()
    verdicts = []
    with ThreadPoolExecutor(jobs) as pool:
        for v in pool.map(lambda name: judge(known[name], limits), names):
            verdicts.append(v)
            print(f"{v.name:60} {v.by:8} {v.what:60} {v.seconds:5.1f} s", flush=True)
    found = {by: [v for v in verdicts if v.by == by]
             for by in ("scenario", "test", "nobody", "error")}  # fmt: skip
    survivors = [v for v in found["nobody"] if v.name not in excused]
    wrong = [v for v in found["scenario"] + found["test"] if v.name in excused]
    print(f"{len(names)} mutants: {len(found['scenario'])} killed by scenarios, "
          f"{len(found['test'])} by tests, {len(found['nobody']) - len(survivors)} listed as "
          f"equivalent, {len(survivors)} survive, {len(found['error'])} errors of the tool; "
          f"{time.monotonic() - began:.0f} s")  # fmt: skip
    unknown = [f"{name}: listed, but there is no such mutant" for name in set(excused) - set(known)]
    lines = [f"{v.name}: survives" for v in survivors] + sorted(unknown)
    lines += [f"{v.name}: listed as equivalent, but killed by {v.what}" for v in wrong]
    lines += [f"{v.name}: {v.what}" for v in found["error"]]
    for line in lines:
        print(line)
    return 2 if found["error"] else 1 if lines else 0


def run_in_a_copy(arguments: list[str]) -> int:
    """Run this tool in a copy of the tree, which nobody edits meanwhile."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as directory:
        copy_tree(Path(directory))
        tool = Path(directory) / "tools" / Path(__file__).name
        command = [sys.executable, str(tool), "--here", *arguments]
        return subprocess.run(command, check=False).returncode


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="default: all")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--show", metavar="NAME")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), metavar="N")
    parser.add_argument("--scenarios", metavar="NAME", help=argparse.SUPPRESS)
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
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
        explore_all(known[args.scenarios])
    elif args.here:
        return run(args.names or [name for name in known if name != ORIGINAL], args.jobs)
    else:
        return run_in_a_copy(sys.argv[1:])
    return 0


if __name__ == "__main__":
    sys.exit(main())
