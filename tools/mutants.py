# SPDX-License-Identifier: Apache-2.0
"""Make mutants of the control plane. A scenario or a test must kill each of them.

A mutant is the shipped source with one change: a ``with`` lock is removed, a check is negated or
removed, a call or store is dropped, a publishing statement is swapped with the one before, or a
``finally`` is forgotten. The scenarios of `memcg.verify` run on it first, then the tests of the
scheme. A mutant that survives must be in ``tools/mutants.txt``, with the reason why it is
equivalent.

A kill has the name of the scenario or test that failed. A kill without a name is an error of this
tool. A mutant that does not end is killed too. The clock does not decide that, because it shows
nothing on a busy machine. A mutant is *endless* once it has used ten times the processor time that
the unchanged source needs in the same run. It *hangs* once it has neither used a processor nor
waited for one for a while. The tool works in a copy of the tree, so that the tree may be edited
meanwhile.

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
import difflib
import json
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import judging
import mutations
import watching
from judging import ToolError, Verdict
from mutations import Mutant
from watching import NO_LIMIT_S, Ended

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
SOURCE = ROOT / "src" / "memcg" / "control"
EQUIVALENT = HERE / "mutants.txt"
MODULES = ("memcontrol", "slab_common", "cgroup", "vmscan", "fork", "workqueue")
COPIED = ("src", "tests", "tools", "pyproject.toml")
CALIBRATION = HERE / "calibration.json"  # in the copy: scenario -> schedules, the cheapest first
DEAR_TEST = "tests/core/test_state_machine.py"
SLACK = 10  # times the processor time and the schedules of the unchanged source
ORIGINAL = "original"
# These are left out: each takes more than a second, and other scenarios kill the same mutants.
DEAR = {
    "allocation_offline_root_destruction", "creation_offline_root_destruction",
    "creation_offline_root_destruction_slabinfo", "two_offlines_root_destruction",
    "three_creators", "worker_offline",
}  # fmt: skip


def all_mutants() -> dict[str, Mutant]:
    """Return every mutant by name, and the unchanged source, which nothing may kill."""
    text = (SOURCE / f"{MODULES[0]}.py").read_text()
    return {ORIGINAL: Mutant(ORIGINAL, MODULES[0], text, None, "")} | {
        m.name: m
        for module in MODULES
        for m in mutations.mutants_of(module, (SOURCE / f"{module}.py").read_text())
    }


def equivalents() -> dict[str, str]:
    """Return the mutants that are listed as equivalent: name -> reason."""
    return judging.reasons(EQUIVALENT)


# -- killing them


class Limits(NamedTuple):
    """Processor time that the scenarios and the tests may use, in seconds."""

    scenarios_s: float = NO_LIMIT_S
    tests_s: float = NO_LIMIT_S


def explore_all(mutant: Mutant) -> None:
    """Print each scenario before it is explored, and the first one that notices the mutant.

    A mutant may have more schedules than the source. If it has ten times as many, the scenario has
    noticed nothing and the next one is explored.
    """
    from memcg.verify.scheme import world
    from memcg.verify.scheme.scenarios import SCENARIOS

    with world.other_source(mutant.module, mutant.source):
        _explore(mutant, SCENARIOS)


def _explore(mutant: Mutant, scenarios: dict[str, Any]) -> None:
    sound = {n for n, s in scenarios.items() if not s.long} - DEAR
    known = json.loads(CALIBRATION.read_text()) if CALIBRATION.exists() else {}
    costs = {}
    for name in known or sorted(sound):
        print(f"scenario {name}", flush=True)
        began, bound = time.process_time(), SLACK * known[name] if known else None
        try:
            result = scenarios[name].explore(minimise=0, max_schedules=bound)
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
    """Return the scenario that noticed, from the output of `explore_all`, or the empty string."""
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
    """Return the test that failed or ran last, from pytest's output, or the empty string."""
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
    """The tests that are run, the slowest last."""
    scheme = sorted(str(p.relative_to(ROOT)) for p in ROOT.glob("tests/control/test_*.py"))
    return ["tests/verify/test_control_plane.py", *scheme,
            "tests/test_group.py", "tests/test_cache.py", "tests/test_tree_limits.py",
            "tests/programs/test_busy.py", "tests/programs/test_forks.py",
            "tests/programs/test_spare_groups.py", DEAR_TEST]  # fmt: skip


def run_scenarios(mutant: Mutant, limit_s: float) -> Ended:
    command = [sys.executable, "-u", __file__, "--scenarios", mutant.name]
    return watching.watch(command, ROOT, limit_s)


def run_tests(mutant: Mutant, limit_s: float) -> Ended:
    """Run the tests up to the first that fails, in a copy with the mutant in the module's place."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as directory:
        copy_tree(Path(directory))
        (Path(directory) / f"src/memcg/control/{mutant.module}.py").write_text(mutant.source)
        return watching.watch(
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
    """Run the unchanged source, which nothing may kill, and measure what it needs.

    Raises
    ------
    ToolError
        The unchanged source does not pass.
    """
    original = all_mutants()[ORIGINAL]
    CALIBRATION.unlink(missing_ok=True)
    scenarios = run_scenarios(original, NO_LIMIT_S)
    tests = run_tests(original, NO_LIMIT_S)
    noticed = noticing_scenario(scenarios) or failing_test(tests)
    if noticed:
        raise ToolError(f"the source without a change does not pass: {noticed}")
    return Limits(1 + SLACK * scenarios.processor_s, 1 + SLACK * tests.processor_s)


def judge(mutant: Mutant, limits: Limits) -> Verdict:
    """Run the scenarios and then the tests on a mutant, until one kills it."""
    began = time.monotonic()
    try:
        by, what = "scenario", noticing_scenario(run_scenarios(mutant, limits.scenarios_s))
        if not what:
            by, what = "test", failing_test(run_tests(mutant, limits.tests_s))
    except ToolError as error:
        by, what = "error", str(error)
    return Verdict(mutant.name, by if what else "nobody", what, time.monotonic() - began)


def run(names: list[str], jobs: int) -> int:
    """Judge the named mutants. Return 1 if one survives unexplained, or if an excuse is wrong."""
    known = all_mutants()
    try:
        limits = calibrate()
    except ToolError as error:
        print(error)
        return 2
    return judging.report(
        names, lambda name: judge(known[name], limits), jobs,
        killers=("scenario", "test"), excused=equivalents(), known=known,
    )  # fmt: skip


def main() -> int:
    parser = judging.arguments(str(__doc__))
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
        explore_all(known[args.scenarios])
    elif args.here:
        return run(args.names or [name for name in known if name != ORIGINAL], args.jobs)
    else:
        return judging.run_in_a_copy(Path(__file__), copy_tree)
    return 0


if __name__ == "__main__":
    sys.exit(main())
