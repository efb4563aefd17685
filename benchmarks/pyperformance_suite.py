"""What does the pyperformance suite cost, with everything charged to a group with a limit?

The suite's own scripts in all their variants, each with the packages that the suite asks for, run
by pyperf: stock and ours in turn, a process each, ours through a `sitecustomize` that installs
memcg and enters a group before the benchmark is imported. pyperf's own worker loop measures; the
lowest of a process's values counts (noise only adds), and the median of the pairs of processes.
The whole suite runs turn by turn, so that a slow minute of the machine meets each benchmark at most
once; short ones have two pairs a turn. What is measured is written down after each turn.
tracemalloc and memray (with Python's allocators traced) run beside eleven of them, once. What
cannot be run here is said to be missing.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
import tomllib
from pathlib import Path
from typing import NamedTuple

import harness

QUICK = ("json_loads", "json_dumps", "nbody", "float", "richards", "deltablue", "chaos", "go",
         "regex_compile", "unpack_sequence", "deepcopy")  # fmt: skip
TURNS = int(os.environ.get("MEMCG_BENCH_TURNS", "3"))
SITE = Path(__file__).parent / "pyperformance_site"
PROFILERS = {"tracemalloc": 0.20, "memray": 0.45}  # name -> target for the mean
SECONDS = 120  # a process may take
SHORT = 15  # seconds of a pair: measured twice a turn
CANNOT = {
    "hg_startup": "pyperformance leaves it out too; its Mercurial does not build on 3.11",
    "python_startup_no_site": "without site nothing installs memcg",
}


class Benchmark(NamedTuple):
    name: str
    script: Path
    options: tuple[str, ...]
    needs: Path  # its packages, unpacked by peers.sh


def suite() -> list[Benchmark]:
    """Every variant of every benchmark, sorted by name."""
    found = []
    for file in harness.BUILD.glob(
        "venv/lib/*/site-packages/pyperformance/data-files/benchmarks/bm_*/*.toml"
    ):
        tool = tomllib.loads(file.read_text())["tool"]["pyperformance"]
        options = tuple(tool.get("extra_opts", ()))
        needs = harness.BUILD / "suite" / file.parent.name
        found.append(Benchmark(tool["name"], file.parent / "run_benchmark.py", options, needs))
    return sorted(found)


def measure(benchmark: Benchmark, world: str) -> dict[str, list[float]]:
    """Values of each benchmark in a script: one process, calibrated by pyperf."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("OPENBLAS_")}
    env["PYTHONHASHSEED"] = "0"
    env["MEMCG_BENCH_WORLD"] = world
    env["PYTHONPATH"] = f"{SITE}:{harness.TREE / 'src'}:{benchmark.needs}"
    with tempfile.TemporaryDirectory() as d:
        command = [harness.PYTHON, benchmark.script, *benchmark.options,
                   "-p1", "-n4", "-w1", "--min-time=0.05", "-q", "-o", f"{d}/out",
                   "--inherit-environ", "PYTHONPATH,PYTHONHASHSEED,MEMCG_BENCH_WORLD"]  # fmt: skip
        try:
            done = subprocess.run(command, env=env, capture_output=True, text=True, cwd=d,
                                  timeout=SECONDS)  # fmt: skip
        except subprocess.TimeoutExpired:
            raise harness.Failed(f"took more than {SECONDS} s") from None
        if done.returncode:
            raise harness.Failed((done.stderr.strip().splitlines() or ["failed"])[-1][:90])
        answer = json.loads(Path(d, "out").read_text())
    return {
        b.get("metadata", {}).get("name") or answer["metadata"].get("name", benchmark.name):
        [v for r in b["runs"] for v in r.get("values", ())]
        for b in answer["benchmarks"]
    }  # fmt: skip


class Suite:
    """What has been measured so far, and what could not be."""

    def __init__(self) -> None:
        # (benchmark, contender) -> ours and theirs of each turn
        self.pairs: dict[tuple[str, str], list[tuple[float, float]]] = {}
        self.missing: dict[tuple[str, str], str] = {}

    def take(self, benchmark: Benchmark, turn: int) -> float:
        """Add a turn of `benchmark`, stock beside ours; seconds that it took."""
        if (benchmark.name, "stock") in self.missing:
            return SECONDS
        start = time.monotonic()
        try:
            if benchmark.name in CANNOT:
                raise harness.Failed(CANNOT[benchmark.name])
            order = (harness.OURS, "stock") if turn % 2 else ("stock", harness.OURS)
            values = {world: measure(benchmark, world) for world in order}
        except harness.Failed as error:
            self.missing[benchmark.name, "stock"] = str(error)
            return SECONDS
        for profiler in PROFILERS if turn == 0 and benchmark.name in QUICK else ():
            try:
                values[profiler] = measure(benchmark, profiler)
            except harness.Failed as error:
                self.missing[benchmark.name, profiler] = str(error)
        all_ours = values.pop(harness.OURS)
        for peer, theirs in values.items():
            for name, ours in all_ours.items():
                self.pairs.setdefault((name, peer), []).append((min(ours), min(theirs[name])))
        return time.monotonic() - start

    def rows(self) -> list[harness.Row]:
        """A row per figure and contender, what is missing, and the geometric means."""
        rows = [
            harness.ratios(name, peer, 1.10 if peer == "stock" else None, *zip(*both, strict=True))
            for (name, peer), both in sorted(self.pairs.items(), key=lambda item: item[0][0])
        ]
        rows += [harness.Row(name, peer, None, note=f"missing: {why}")
                 for (name, peer), why in self.missing.items()]  # fmt: skip
        for peer, target in {"stock": 1.0, **PROFILERS}.items():
            measured = [r for r in rows if r.against == peer and r.ratio]
            if measured:
                rows.append(harness.mean("geometric mean", measured, target))
        return rows


def run(quick: bool) -> list[harness.Row]:
    measured = Suite()
    benchmarks = [b for b in suite() if not quick or b.name in QUICK]
    for turn in range(min(TURNS, 2) if quick else TURNS):
        short = [b for b in benchmarks if measured.take(b, 2 * turn) < SHORT]
        for benchmark in () if quick else short:
            measured.take(benchmark, 2 * turn + 1)
        harness.write("pyperformance_suite", measured.rows(), harness.results(quick))
    return measured.rows()
