# SPDX-License-Identifier: Apache-2.0
"""Make mutants of the data plane in C. A protocol of the litmus suite or a C test must kill each.

A mutant is a file of ``native/`` with one change (`native_mutations`): a fence, a store, a count, a
reference, an uncharge, a clearing or a lock is dropped, an order is weakened, two stores are
swapped, a check is negated or removed, or an atomic count is off by one. If the change is an access
of a protocol in ``tests/litmus``, that protocol runs with it. Then the programs of ``native/tests``
run: with asserts, under ASan and UBSan, and, if threads may share what is changed, those with
threads under TSan. A mutant that survives
must be in ``tools/native_mutants.txt``, with the reason why it is equivalent. Two kinds of mutants
need no line there: those of which the compiler makes the same code in every flavour, and orders
that ``tests/litmus/test_protocols.py`` lists as not needed or not modelled.

A mutant's name is ``file.function:operator:n``. A name of a file stands for its mutants. Without
names, the mutants of `CORE` run. The clock decides nothing (`watching`). The tool works in a copy
of the tree.

    python tools/native_mutants.py              those of CORE; status 1 if one survives unexplained,
                                                2 on an error of the tool
    python tools/native_mutants.py slab.c       those of a file
    python tools/native_mutants.py --jobs 1     one at a time; default: as many as processors
    python tools/native_mutants.py --list       name them
    python tools/native_mutants.py --show NAME  a mutant as a diff
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import judging
import native_mutations
import watching
from judging import ToolError, Verdict
from native_mutations import Mutant
from watching import Ended

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
NATIVE = ROOT / "native"
EQUIVALENT = HERE / "native_mutants.txt"
# Counters, references, frees, sheaves, events and sections.
CORE = ("css.h", "css.c", "event.c", "free.c", "page_counter.c", "section.h", "section.c",
        "sheaf.c")  # fmt: skip
FLAVOURS = ("plain", "address", "thread")
COPIED = ("native", "tests/litmus", "tools")
SLACK = 10  # times the processor time of the unchanged source,
# and so much more: threads that spin until another is done need more on a busy machine.
SPINNING_S = 10
ASLEEP_S = 6.0  # the longest that a test sleeps is the second after which pages are given back
# Left out under TSan, where each needs more than two seconds, some in forked children.
DEAR = {"test_debug", "test_fault", "test_heap", "test_kmem_cache", "test_page_alloc",
        "test_shared"}  # fmt: skip
THREADED = re.compile(r"\b(?:pthread_create|start)\(")
# A mutant may leave a variable unused. TSan knows orders that no flavour has.
FLAGS = ("-w", "-g0", "-Dfetch_or_relaxed(p,n)=__atomic_fetch_or(&(p)->value,n,__ATOMIC_RELAXED)")
OPERATIONS = {"plain": 20000, "address": 20000, "thread": 2000}  # of stress


def all_mutants() -> dict[str, Mutant]:
    """Return every mutant by name."""
    return {
        m.name: m
        for path in sorted(NATIVE.glob("*.[ch]"))
        for m in native_mutations.mutants_of(path.name, path.read_text())
    }


def chosen(names: list[str], known: dict[str, Mutant]) -> list[str]:
    """Return the mutants that the arguments name, or those of `CORE`."""
    names = names or [file for file in CORE if (NATIVE / file).exists()]
    unknown = [n for n in names if n not in known and not (NATIVE / n).is_file()]
    if unknown:
        raise ToolError(f"neither a mutant nor a file of native/: {', '.join(unknown)}")
    return [name for name, m in known.items() if name in names or m.file in names]


# -- the programs


class Program:
    """A test of ``native/tests``, and what it needs of the processor in each flavour."""

    def __init__(self, path: Path):
        self.name = path.stem
        self.threaded = bool(THREADED.search(path.read_text()))
        self.limits_s: dict[str, float] = {}

    def runs_in(self, flavour: str) -> bool:
        return flavour != "thread" or (self.threaded and self.name not in DEAR)

    def run(self, directory: Path, flavour: str, limit_s: float = watching.NO_LIMIT_S) -> Ended:
        stress = [str(OPERATIONS[flavour]), "1"] if self.name == "stress" else []
        return watching.watch([f"./{flavour}/{self.name}", *stress], directory, limit_s, ASLEEP_S)


def noticed(ended: Ended) -> str:
    """Return what a program noticed, in a few words, or the empty string."""
    if ended.how == "status 0":
        return ""
    for pattern in (r"^tests/\S+?:\d+: (\w+): ", r"^memcg: (\w+\.[ch]:\d+: .*)$",
                    r"^SUMMARY: (\w+: [\w -]+)", r"^memcg: (.+)$"):  # fmt: skip
        if found := re.findall(pattern, ended.shown, re.M):
            return found[-1].strip()
    return ended.how


class Bench:
    """The unchanged objects and programs of all flavours, in a folder beside the sources."""

    def __init__(self, directory: Path):
        self.directory = directory
        makefile = (NATIVE / "Makefile").read_text()
        found = re.findall(r"^(\w+?)(?:_FLAGS)? := (-.*)$", makefile, re.M)
        self.flags = {name: flags.replace("-Werror", "").split() for name, flags in found}
        self.sources = sorted(path.name for path in NATIVE.glob("*.c"))
        self.programs = [Program(path) for path in sorted(NATIVE.glob("tests/*.c"))]
        self.first: dict[str, list[str]] = {}  # file -> what killed its mutants, the latest first

    def compile(self, directory: Path, flavour: str, *what: str) -> None:
        """Run the compiler in a folder of sources.

        Raises
        ------
        ToolError
            It does not compile.
        """
        command = ["cc", *self.flags["BASE"], *self.flags[flavour], *FLAGS, *what]
        done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ToolError(f"it does not compile: {done.stderr.strip()[:300]}")

    def object(self, directory: Path, flavour: str, source: str) -> None:
        self.compile(directory, flavour, "-c", source, "-o", f"{flavour}/{Path(source).stem}.o")

    def objects(self, flavour: str, source: str) -> Path:
        return self.directory / flavour / f"{Path(source).stem}.o"

    def link(self, directory: Path, flavour: str, program: str, changed: set[str]) -> None:
        """Link a program of the objects that are changed in this folder, and of ours."""
        parts = [f"tests/{program}.c", *self.sources]
        places = [f"{flavour}/{Path(part).stem}.o" if part in changed
                  else str(self.objects(flavour, part)) for part in parts]  # fmt: skip
        self.compile(directory, flavour, *places, "-o", f"{flavour}/{program}", "-lm")

    def users(self, header: str) -> set[str]:
        """Return the sources that include a header."""
        tests = [f"tests/{program.name}.c" for program in self.programs]
        command = ["cc", "-MM", *self.flags["BASE"], *self.sources, *tests]
        rules = subprocess.run(command, cwd=NATIVE, capture_output=True, text=True, check=True)
        found = (rule.split() for rule in rules.stdout.replace("\\\n", " ").splitlines())
        return {rule[1] for rule in found if header in {Path(name).name for name in rule[2:]}}

    def prepare(self, jobs: int) -> None:
        """Build everything, run it, and measure what it needs.

        Raises
        ------
        ToolError
            The unchanged source does not pass.
        """
        farm(self.directory)
        tests = [f"tests/{program.name}.c" for program in self.programs]
        with ThreadPoolExecutor(jobs) as pool:
            both = [(flavour, source) for flavour in FLAVOURS for source in self.sources + tests]
            list(pool.map(lambda x: self.object(self.directory, *x), both))
        for flavour in FLAVOURS:
            for program in self.programs:
                if program.runs_in(flavour):
                    self.link(self.directory, flavour, program.name, set())
                    ended = program.run(self.directory, flavour)
                    if what := noticed(ended):
                        raise ToolError(f"the source without a change does not pass: "
                                        f"{flavour}/{program.name}: {what}")  # fmt: skip
                    program.limits_s[flavour] = SPINNING_S + SLACK * ended.processor_s

    def in_order(self, mutant: Mutant, flavour: str) -> Iterator[Program]:
        """Yield the programs of a flavour, the one that is most likely to notice first."""
        fitting = [p for p in self.programs if p.runs_in(flavour)]
        own, killed = f"test_{Path(mutant.file).stem}", self.first.get(mutant.file, [])

        def rank(program: Program) -> tuple[bool, int, float]:
            last = killed.index(program.name) if program.name in killed else len(killed)
            return program.name != own, last, program.limits_s[flavour]

        yield from sorted(fitting, key=rank)

    def killed_by(self, mutant: Mutant, program: Program) -> None:
        others = [name for name in self.first.get(mutant.file, []) if name != program.name]
        self.first[mutant.file] = [program.name, *others]


def farm(directory: Path) -> None:
    """Fill a folder with links to the sources and with folders for what is built of them."""
    for flavour in (*FLAVOURS, "tests"):
        (directory / flavour).mkdir(parents=True)
    for path in [*NATIVE.glob("*.[ch]"), *NATIVE.glob("tests/*.[ch]")]:
        (directory / path.relative_to(NATIVE)).symlink_to(path)


# -- killing them


def is_like(mutant: Mutant, site: Any) -> bool:
    """Tell whether a mutant does to a protocol's access what the protocol's mutant does."""
    begin, end, _ = mutant.edits[0]
    return {
        "order": site.order != "PRESENT",
        "never": site.text.startswith("if ("),
        "drop": site.text.rstrip(";") == mutant.original[begin:end].rstrip(";"),
    }[mutant.operator]


def explore_protocol(mutant: Mutant) -> None:
    """Print which protocol of the litmus suite notices a mutant, if it is one of its accesses."""
    sys.path.insert(0, str(ROOT / "tests"))
    from litmus import test_protocols
    from litmus.memory_model import Violation
    from litmus.protocols import DROPPED, PRESENT

    body = test_protocols.functions(mutant.file)[mutant.function]
    path = NATIVE / mutant.file
    path.unlink()  # the copy's, which may be a link
    path.write_text(mutant.source)
    changed = test_protocols.functions(mutant.file)[mutant.function]
    for protocol in test_protocols.PROTOCOLS:
        for name, site in protocol.sites.items():
            if (site.file, site.function) != (mutant.file, mutant.function):
                continue
            # A call that a protocol has "whole" is split by its mutant, and not dropped.
            if not is_like(mutant, site) or name.endswith("_whole"):
                continue
            text = test_protocols.written(site)
            if changed.count(text) == body.count(text):
                continue
            weaker = DROPPED if site.order == PRESENT else "RELAXED"
            weak = test_protocols.written(site._replace(order=weaker))
            if weaker != DROPPED and weak not in changed:
                continue
            if reason := test_protocols.NOT_NEEDED.get((protocol.name, name, weaker)):
                print(f"not needed in {protocol.name}: {reason}")
                continue
            try:
                protocol.run(protocol.orders(**{name: weaker}))
            except Violation as violation:
                print(f"noticed {protocol.name}.{name} {weaker} ({str(violation)[:40]})")
    if reason := test_protocols.NOT_MODELLED.get((mutant.file, mutant.function)):
        print(f"not modelled: {reason}")


def judge_protocols(mutant: Mutant) -> tuple[str, str]:
    """Return the protocol that noticed, and the reason why none needs the order."""
    with tempfile.TemporaryDirectory(prefix="litmus-") as directory:
        copy_tree(Path(directory))
        tool = Path(directory) / "tools" / Path(__file__).name
        command = [sys.executable, str(tool), "--protocols", mutant.name]
        ended = watching.watch(command, Path(directory))
    if ended.how != "status 0":
        raise ToolError(f"the litmus suite: {ended.how}: {ended.shown[-300:]!r}")
    killer = re.search(r"^noticed (.+)$", ended.shown, re.M)
    excuse = re.search(r"^(not .+)$", ended.shown, re.M)
    return killer[1] if killer else "", excuse[1] if excuse else ""


def judge(mutant: Mutant, bench: Bench) -> Verdict:
    """Run the protocols and the programs on a mutant, until one kills it."""
    began = time.monotonic()

    def verdict(by: str, what: str) -> Verdict:
        return Verdict(mutant.name, by, what, time.monotonic() - began)

    excuse, is_order = "", mutant.operator == "order"
    try:
        if is_order or mutant.operator in ("drop", "never"):
            killer, excuse = judge_protocols(mutant)
            if killer:
                return verdict("protocol", killer)
        killer, same = run_programs(mutant, bench)
    except ToolError as error:
        return verdict("error", str(error))
    if killer:
        return verdict("test", killer)
    if same:
        return verdict("listed", "the compiler makes the same code of it in each flavour")
    return verdict("listed", excuse) if is_order and excuse else verdict("nobody", "")


def run_programs(mutant: Mutant, bench: Bench) -> tuple[str, bool]:
    """Return what noticed a mutant, and whether its code is the same as before."""
    same = True
    with tempfile.TemporaryDirectory(prefix="native-mutant-") as name:
        directory = Path(name)
        farm(directory)
        (directory / mutant.file).unlink()
        (directory / mutant.file).write_text(mutant.source)
        is_header = mutant.file.endswith(".h")
        changed = bench.users(mutant.file) if is_header else {mutant.file}
        for flavour in FLAVOURS if mutant.races else FLAVOURS[:-1]:
            for source in changed:
                bench.object(directory, flavour, source)
            if all((directory / flavour / f"{Path(source).stem}.o").read_bytes()
                   == bench.objects(flavour, source).read_bytes()
                   for source in changed):  # fmt: skip
                continue
            same = False
            for program in bench.in_order(mutant, flavour):
                bench.link(directory, flavour, program.name, changed)
                ended = program.run(directory, flavour, program.limits_s[flavour])
                if what := noticed(ended):
                    bench.killed_by(mutant, program)
                    return f"{flavour}/{program.name}: {what}", False
    return "", same


def run(names: list[str], jobs: int) -> int:
    """Judge the named mutants. Return 1 if one survives unexplained, or if an excuse is wrong."""
    known = all_mutants()
    os.environ["TSAN_OPTIONS"] = "halt_on_error=1"
    try:
        names = chosen(names, known)
        with tempfile.TemporaryDirectory(prefix="native-") as directory:
            bench = Bench(Path(directory))
            bench.prepare(jobs)
            return judging.report(
                names, lambda name: judge(known[name], bench), jobs,
                killers=("protocol", "test"), excused=judging.reasons(EQUIVALENT), known=known,
            )  # fmt: skip
    except ToolError as error:
        print(error)
        return 2


def copy_tree(directory: Path) -> None:
    ignore = shutil.ignore_patterns("build", "__pycache__")
    for name in COPIED:
        if (ROOT / name).exists():
            shutil.copytree(ROOT / name, directory / name, ignore=ignore)
    binding = Path("src/memcg/core/binding")  # the litmus suite reads it too
    if (ROOT / binding).exists():
        shutil.copytree(ROOT / binding, directory / binding)


def main() -> int:
    parser = judging.arguments(str(__doc__))
    parser.add_argument("--protocols", metavar="NAME", help=argparse.SUPPRESS)
    args = parser.parse_args()
    known = all_mutants()
    if args.list:
        print(*chosen(args.names, known), sep="\n")
    elif args.show:
        mutant = known[args.show]
        before, after = mutant.original.splitlines(), mutant.source.splitlines()
        print(*difflib.unified_diff(before, after, lineterm=""), sep="\n")
    elif args.protocols:
        explore_protocol(known[args.protocols])
    elif args.here:
        return run(args.names, args.jobs)
    else:
        return judging.run_in_a_copy(Path(__file__), copy_tree)
    return 0


if __name__ == "__main__":
    sys.exit(main())
