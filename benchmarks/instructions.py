# SPDX-License-Identifier: Apache-2.0
"""How many instructions do the fast paths, an entry and a group's life take? A budget limits them.

Callgrind counts them. A figure is the difference of two run lengths divided by the difference of
their turns, so start-up does not count. Two runs of one thread give the same figure. If a worker
takes part they have differed by up to 0.3 %. No clock, load or other program changes them.
``instructions.toml`` has the budget: a table for each processor, compiler and C library, and for
each CPython, because each of them changes the code that runs. A figure that is 2 % above its budget
fails. One that is 2 % below asks for a new budget (``--update``).

    make bench-instructions
    python benchmarks/instructions.py --only hook_free --update

The exit status is 0 if all figures are within the budget, 1 if one is above it, and 2 if callgrind
is missing or a run failed. It is 3 if there is no budget for this machine, so that nothing was
compared.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import harness

BUDGET = Path(__file__).with_suffix(".toml")
MORE = 1.02  # a figure above it fails, and one below its inverse asks for a new budget
VALGRIND = ("instructions are counted by callgrind, which is not installed: "
            "apt-get install valgrind (or your system's package of that name)")  # fmt: skip


class Failed(Exception):
    """Nothing can be counted. The text says why."""


@dataclass(frozen=True)
class Figure:
    """Instructions per turn of a piece of work, all of them or those of one function itself."""

    name: str
    work: str
    turns: int  # of the shorter run, and of the warm-up; the longer run has twice as many
    native: bool = False
    function: str = ""


FIGURES = [
    Figure("native: malloc and free of 64 bytes", "pair", 50_000, native=True),
    Figure("native: malloc and free, 2,048 at a time", "refill", 204_800, native=True),
    Figure("native: malloc and free of a page run", "page-run", 20_000, native=True),
    Figure("hook_malloc, for an int", "lists", 8_000, function="hook_malloc"),
    Figure("hook_calloc, for a list's table", "lists", 8_000, function="hook_calloc"),
    Figure("hook_free, for an int and a table", "lists", 8_000, function="hook_free"),
    Figure("hook_malloc, published", "lists_published", 8_000, function="hook_malloc"),
    Figure("hook_calloc, published", "lists_published", 8_000, function="hook_calloc"),
    Figure("hook_free, published", "lists_published", 8_000, function="hook_free"),
    Figure("with group:", "enter", 5_000),
    Figure("with shield():", "shield", 5_000),
    Figure("a group's life", "life", 100),
    Figure("scope() with one allocation", "scope", 100),
    Figure("json.loads of 60 items", "loads", 200),
    Figure("json.loads of 60 items, in a group", "loads_in_group", 200),
    Figure("a list past max, shielded", "past_max", 5_000),
]


def built_by(libc: str) -> str:
    """Name the processor, the C compiler and the C library."""
    cc = subprocess.run(["cc", "-dumpfullversion", "-dumpversion"], capture_output=True, text=True)
    name = subprocess.run(["cc", "--version"], capture_output=True, text=True).stdout
    compiler = "clang" if "clang" in name else "gcc"
    return f"{platform.machine()}, {compiler} {cc.stdout.strip()}, {libc}"


def machine() -> str:
    """Return the key of the native budgets. The interpreter may have another C library."""
    got = subprocess.run(["getconf", "GNU_LIBC_VERSION"], capture_output=True, text=True)
    return built_by(got.stdout.strip())


def interpreter() -> str:
    """Return the key of the other budgets, which has the build of CPython and its C library."""
    pgo = "--enable-optimizations" in (sysconfig.get_config_var("CONFIG_ARGS") or "")
    return (f"{built_by(' '.join(platform.libc_ver()))}, CPython {platform.python_version()} by "
            f"{platform.python_compiler()}{' with profile' if pgo else ''}")  # fmt: skip


def key(figure: Figure) -> str:
    return machine() if figure.native else interpreter()


# -- counting


def profile(argv: list[str]) -> str:
    """Return the text that callgrind writes about a run."""
    # The environment is on the stack, and its length moves what is below, so it is always the same.
    env = {"PATH": os.environ["PATH"], "PYTHONHASHSEED": "0", "LC_ALL": "C",
           "PYTHONPATH": str(harness.TREE / "src")}  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="callgrind-") as directory:
        out = Path(directory) / "out"
        env["MEMCG_RUNTIME_DIR"] = f"{directory}/pages"  # there are no other processes' pages
        done = subprocess.run(
            ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}", *argv],
            env=env, text=True, capture_output=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise Failed(f"{' '.join(argv)} has failed under callgrind:\n{done.stderr}")
        return out.read_text()


def cost(profile: str, function: str) -> int:
    return self_cost(profile, function) if function else total_cost(profile)


def total_cost(profile: str) -> int:
    return int(re.findall(r"^(?:summary|totals): (\d+)", profile, re.M)[-1])


def self_cost(profile: str, function: str) -> int:
    """Return what the function itself costs, without its callees, from callgrind's profile.

    A cost line is "POSITION COST". The one after "calls=" is the callee's. A name is written as
    "fn=(12) name" once, and then as "fn=(12)".
    """
    names: dict[str, str] = {}
    inside = callee = found = False
    cost = 0
    for line in profile.splitlines():
        if line.startswith(("fn=", "cfn=")):
            number, _, name = line.partition("=")[2].partition(" ")
            names.setdefault(number, name)
            if line.startswith("fn="):
                inside = names[number] == function
                found |= inside
        elif line.startswith("calls="):
            callee = True
        elif line.startswith(tuple("0123456789+-*")):
            if inside and not callee:
                cost += sum(map(int, line.split()[1:2]))  # none: 0
            callee = False
    if not found:
        raise Failed(f"the profile has no function {function!r}: it was renamed or inlined")
    return cost


def program(figure: Figure) -> list[str]:
    if figure.native:
        sources = [harness.HERE / "native" / name for name in ("instructions.c", "ours.c")]
        core = sorted((harness.TREE / "native").glob("*.c"))
        tests = f"-I{harness.TREE / 'native' / 'tests'}"
        return [str(harness.compiled("instructions", [*sources, *core], "-DOURS", tests))]
    return [sys.executable, "-S", str(harness.HERE / "instructions_work.py")]


def measure(figures: list[Figure]) -> dict[str, float]:
    if not shutil.which("valgrind"):
        raise Failed(VALGRIND)
    programs = {native: program(next(f for f in figures if f.native == native))
                for native in {f.native for f in figures}}  # fmt: skip
    for native, work in sorted({(f.native, f.work) for f in figures}):
        # compiles what it imports, so that the first run that is counted does not
        subprocess.run([*programs[native], work, "1", "1"], check=True, env=os.environ | {
            "PYTHONPATH": str(harness.TREE / "src"), "PYTHONDONTWRITEBYTECODE": ""})  # fmt: skip

    runs = sorted({(f.native, f.work, f.turns, n * f.turns) for f in figures for n in (1, 2)})
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        argvs = [[*programs[native], work, str(warm), str(n)] for native, work, warm, n in runs]
        profiles = dict(zip(runs, pool.map(profile, argvs), strict=True))

    def per_turn(f: Figure) -> float:
        short, long = (
            cost(profiles[f.native, f.work, f.turns, n * f.turns], f.function) for n in (1, 2)
        )
        return round((long - short) / f.turns, 2)

    return {f.name: per_turn(f) for f in figures}


# -- the budget


Budget = dict[str, dict[str, float]]  # key -> figure -> instructions


def read(file: Path) -> Budget:
    return tomllib.loads(file.read_text()) if file.exists() else {}


def write(file: Path, budget: Budget) -> None:
    lines = ["# Instructions per turn, by benchmarks/instructions.py --update."]
    for machine, figures in sorted(budget.items()):
        lines += ["", f'["{machine}"]', *(f'"{n}" = {figures[n]:.2f}' for n in figures)]
    file.write_text("\n".join(lines) + "\n")


def compare(figures: list[Figure], measured: dict[str, float], budget: Budget) -> int:
    """Print a line for each figure, and return the exit status."""
    status = 0
    for figure in figures:
        got, most = measured[figure.name], budget.get(key(figure), {}).get(figure.name)
        if most is None:
            verdict, status = "NO BUDGET", status or 3
        else:
            verdict = f"{got / most - 1:+.2%} of {most:,.2f}"
            if got > most * MORE:
                verdict, status = f"{verdict}  TOO MANY", 1
            elif got < most / MORE:
                verdict += "  fewer: make them the budget with --update"
        print(f"{figure.name:45}{got:>14,.2f}   {verdict}")
    for missing in sorted({key(f) for f in figures} - set(budget)):
        print(f"no budget for {missing}: nothing was compared; --update writes one")
    return status


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", action="append", metavar="TEXT", help="figures that have it")
    parser.add_argument("--budget", type=Path, default=BUDGET, help="another budget file")
    parser.add_argument("--update", action="store_true", help="make the figures the budget")
    args = parser.parse_args(arguments)
    figures = [f for f in FIGURES if not args.only or any(text in f.name for text in args.only)]
    if not figures:
        parser.error(f"no figure has {' or '.join(args.only)!r} in its name")
    try:
        measured = measure(figures)
    except Failed as error:
        print(error, file=sys.stderr)
        return 2
    budget = read(args.budget)
    if args.update:
        for figure in figures:
            budget.setdefault(key(figure), {})[figure.name] = measured[figure.name]
        write(args.budget, budget)
    return compare(figures, measured, budget)


if __name__ == "__main__":
    sys.exit(main())
