# SPDX-License-Identifier: Apache-2.0
"""Contenders take turns, and what counts is the ratio within a round.

A contender is a process, `worker.py` or a C program. It reads a line with the name of a piece of
work, does it, and answers with a line of JSON: ``{"cpu": s, "wall": s, "check": ...}``. All
contenders live at the same time, and in each round all of them do each piece of work, so that a
change of the machine's speed affects them all. The order turns with each round. Processes are
replaced a few times, because speed depends on where things lie in memory. `check` says what the
work computed, and it is an error if the contenders disagree.
"""

from __future__ import annotations

import json
import os
import platform
import re
import statistics
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
TREE = Path(os.environ.get("MEMCG_TREE", HERE.parent))  # whose src/ and native/ are measured
BUILD = HERE.parent / "build" / "bench"
PYTHON = BUILD / "venv" / "bin" / "python"
OURS = "memcg"

ALLOCATORS = {
    "mimalloc 3": "venv/lib/*/site-packages/cmeel.prefix/lib/libmimalloc.so.3",
    "jemalloc": "debs/usr/lib/*/libjemalloc.so.2",
    "tcmalloc": "debs/usr/lib/*/libtcmalloc_minimal.so.4",
}


class Failed(Exception):
    """A contender cannot do the work. The text says why."""


@dataclass
class Contender:
    """A process that answers requests, or the reason why it is `missing`."""

    name: str
    argv: Sequence[str | Path]
    env: dict[str, str] = field(default_factory=dict)
    missing: str = ""

    def start(self) -> None:
        # Without compiled files each start would compile, which an installed package does not do.
        without = ("OPENBLAS_", "PYTHONDONTWRITEBYTECODE")
        env = {k: v for k, v in os.environ.items() if not k.startswith(without)}
        env |= {"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", **self.env}
        self.process = subprocess.Popen(
            list(map(str, self.argv)), env=env, text=True, bufsize=1,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def ask(self, work: str) -> dict[str, Any]:
        try:
            self.process.stdin.write(work + "\n")  # type: ignore[union-attr]
            answer = json.loads(self.process.stdout.readline())  # type: ignore[union-attr]
        except (OSError, ValueError) as error:
            raise Failed(f"{self.name} ended at {work!r}: {self.process.poll()}") from error
        if "error" in answer:
            raise Failed(f"{self.name}: {work!r}: {answer['error']}")
        return answer  # type: ignore[no-any-return]

    def stop(self) -> None:
        self.process.stdin.close()  # type: ignore[union-attr]
        self.process.wait()


def python(name: str, module: str, world: str = "", **env: str) -> Contender:
    """Make a Python process that does the works of benchmarks/`module`.py in a `world`."""
    world = world or name
    argv = [PYTHON, "-X", "faulthandler", HERE / "worker.py", module, name, world]
    return Contender(name, argv, {"PYTHONPATH": str(TREE / "src"), **env})


def preloaded(contender: Contender, allocator: str) -> Contender:
    """Make the same process with another malloc in place of glibc's."""
    found = sorted(BUILD.glob(ALLOCATORS[allocator]))
    contender.name = allocator
    if found:
        contender.env["LD_PRELOAD"] = str(found[-1])
    else:
        contender.missing = f"no {ALLOCATORS[allocator]} in {BUILD}"
    return contender


@dataclass
class Row:
    """One line of a table: the median of ours / theirs, or of `unit`, and its quartiles."""

    work: str
    against: str
    target: float | None
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    rounds: int = 0
    ours: float | None = None  # median seconds of a round, or in `unit`
    theirs: float | None = None
    unit: str = "s"
    note: str = ""
    at_least: bool = False  # the target is a floor

    @property
    def met(self) -> bool | None:
        if self.target is None or self.ratio is None:
            return None
        return self.ratio >= self.target if self.at_least else self.ratio <= self.target


Times = dict[str, dict[str, list[dict[str, Any]]]]  # work -> contender -> answers


def alternate(
    contenders: Iterable[Contender], works: Iterable[str], rounds: int, processes: int = 3
) -> Times:
    """Have every contender do every work in every round."""
    here = [c for c in contenders if not c.missing]
    times: Times = {w: {c.name: [] for c in here} for w in works}
    for _ in range(min(processes, rounds)):
        for c in here:
            c.start()
        for w in times:  # two turns that do not count fill caches and free lists, and promote
            for c in here * 2:
                c.ask(w)
        for n in range(max(1, rounds // processes)):
            for w, by_name in times.items():
                for c in here[n % len(here) :] + here[: n % len(here)]:
                    by_name[c.name].append(c.ask(w))
                checks = {c.name: by_name[c.name][-1].get("check") for c in here}
                if len(set(map(repr, checks.values()))) > 1:
                    raise Failed(f"{w!r}: the contenders disagree: {checks}")
        for c in here:
            c.stop()
    return times


def row(
    work: str, answers: dict[str, list[dict[str, Any]]], against: str, target: float | None,
    measure: str = "cpu", **more: Any,
) -> Row:  # fmt: skip
    """Compare ours with one contender, round by round."""
    ours = [a[measure] for a in answers[OURS]]
    theirs = [a[measure] for a in answers[against]]
    return ratios(work, against, target, ours, theirs, **more)


def ratios(
    work: str, against: str, target: float | None, ours: Sequence[float], theirs: Sequence[float],
    **more: Any,
) -> Row:  # fmt: skip
    pairs = sorted(a / b for a, b in zip(ours, theirs, strict=True))
    low = high = pairs[0]
    if len(pairs) > 1:
        low, _, high = statistics.quantiles(pairs, n=4, method="inclusive")
    return Row(work, against, target, statistics.median(pairs), low, high, len(pairs),
               statistics.median(ours), statistics.median(theirs), **more)  # fmt: skip


def rows(
    times: Times, targets: dict[str, float | None], measure: str = "cpu", best_of: bool = False
) -> list[Row]:
    """Make a row for each work and peer. With `best_of` only the best median has the target."""
    result = []
    for work, answers in times.items():
        peers = [name for name in answers if name != OURS]
        best = min(peers, key=lambda n: statistics.median(a[measure] for a in answers[n]))
        for name in peers:
            target = targets.get(name, targets.get("*"))
            if best_of and name != best:
                target = None
            result.append(
                row(
                    work,
                    answers,
                    name,
                    target,
                    measure,
                    note="the best of them" if best_of and name == best else "",
                )
            )
    return result


def mean(work: str, of: Iterable[Row], target: float | None) -> Row:
    """Make a row with the geometric mean of the ratios of several rows against one peer."""
    of = list(of)
    names = {r.against for r in of}
    against = names.pop() if len(names) == 1 else "the best of each"
    result = Row(work, against, target, rounds=min(r.rounds for r in of))
    for name in ("ratio", "low", "high"):
        setattr(result, name, statistics.geometric_mean(getattr(r, name) for r in of))
    return result


def missing(contenders: Iterable[Contender]) -> list[Row]:
    return [Row("(all)", c.name, None, note=f"missing: {c.missing}")
            for c in contenders if c.missing]  # fmt: skip


def compiled(name: str, sources: Sequence[str | Path], *flags: str) -> Path:
    """Build a C program or library of benchmarks/ as the extension is built: -O3."""
    to = BUILD / name
    to.parent.mkdir(parents=True, exist_ok=True)
    command = ["cc", "-O3", "-DNDEBUG", "-std=gnu11", "-fno-builtin", "-pthread"]
    includes = [f"-I{TREE / 'native'}", f"-I{HERE / 'native'}"]
    # with -fno-builtin the compiler does not remove a malloc and its free
    subprocess.run([*command, *includes, *map(str, sources), "-o", str(to), *flags], check=True)
    return to


def machine() -> dict[str, str]:
    """Return the machine, the versions and the commit with which this was measured."""
    cpuinfo = Path("/proc/cpuinfo").read_text()
    model = re.search(r"model name\s*: (.*)", cpuinfo)
    git = ["git", "-C", str(HERE.parent), "rev-parse", "--short", "HEAD"]
    freeze = [str(PYTHON), "-m", "pip", "list", "--format=freeze", "--disable-pip-version-check"]
    run = {"capture_output": True, "text": True}
    packages = dict(line.split("==") for line in subprocess.run(freeze, **run).stdout.split())  # type: ignore[call-overload]
    peers = ("numpy", "pandas", "pyarrow", "memray", "pyperformance", "cmeel-mimalloc")
    return {
        "processor": f"{model[1] if model else platform.machine()}, {os.cpu_count()} cores",
        "kernel": platform.release(),
        "libc": " ".join(platform.libc_ver()),
        "python": subprocess.run([PYTHON, "-V"], **run).stdout.strip(),  # type: ignore[call-overload]
        "commit": os.environ.get("MEMCG_REV") or subprocess.run(git, **run).stdout.strip(),  # type: ignore[call-overload]
        **{name: packages.get(name, "missing") for name in peers},
        "Debian": ", ".join(p.stem.replace("_amd64", "") for p in sorted(BUILD.glob("debs/*.deb"))),
    }


def results(quick: bool) -> Path:
    """Return the directory of the JSON of a run."""
    return BUILD / ("quick" if quick else "full")


def write(question: str, result: list[Row], directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    text = {"question": question, "machine": machine(),
            "rows": [asdict(r) | {"met": r.met} for r in result]}  # fmt: skip
    (directory / f"{question}.json").write_text(json.dumps(text, indent=1) + "\n")


def show(result: Iterable[Row]) -> None:
    for r in result:
        verdict = {True: "met", False: "MISSED", None: ""}[r.met]
        figures = "" if r.ratio is None else f"{r.ratio:8.3f} [{r.low:.3f} {r.high:.3f}]"
        target = "" if r.target is None else f"{'>=' if r.at_least else '<='} {r.target:g}"
        print(f"  {r.work:38} {r.against:18} {figures:24} {target:9} {verdict:7} {r.note}")
    sys.stdout.flush()


def summary(result: list[Row]) -> str:
    """Say how many rows with a target met it, and name those that did not, the furthest first."""
    targets = [r for r in result if r.met is not None]
    missed = [r for r in targets if not r.met]
    missed.sort(key=lambda r: -abs(r.ratio / r.target - 1))  # type: ignore[operator]
    lines = [f"{len(targets) - len(missed)} of {len(targets)} rows met their target"]
    lines += [f"  missed: {r.work}, {r.against}: {r.ratio:.3f} for {r.target:g}" for r in missed]
    return "\n".join(lines)
