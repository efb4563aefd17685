# SPDX-License-Identifier: Apache-2.0
"""What does the pyperformance suite cost, with everything charged to a group with a limit?

The suite's own scripts run under pyperf in all their variants, each with the packages that the
suite asks for. Stock and ours run at the same time in a process each. Ours has a `sitecustomize`
that installs memcg and enters a group before the benchmark is imported. The two share one
processor, so that the scheduler's slices give them the same machine, quick or slow. The clock is
processor time, and a process's mean counts. The spread is that of values made at the same time.
Each processor has a benchmark of its own. Benchmarks of pools have all processors. Four that use
one port or directory run one after the other. A process of either world may be slow for as long as
it lives. So a script with a ratio further than a tenth from one, above or below, is run twice more
in new processes, and the median of the three counts. There may be several turns, and results are
written after each. tracemalloc and memray (with Python's allocators traced) run once, beside eleven
of the benchmarks. The table says which benchmarks cannot be run here.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import queue
import signal
import statistics
import subprocess
import tempfile
import threading
import time
import tomllib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from pathlib import Path
from typing import NamedTuple

import harness

QUICK = ("json_loads", "json_dumps", "nbody", "float", "richards", "deltablue", "chaos", "go",
         "regex_compile", "unpack_sequence", "deepcopy")  # fmt: skip
# Each needs a port or a directory that another process would take.
ALONE = ("asyncio_tcp", "asyncio_tcp_ssl", "asyncio_websockets", "sphinx")
POOLS = ("concurrent_imap",)  # two benchmarks, one of threads and one of processes
TURNS = int(os.environ.get("MEMCG_BENCH_TURNS", "1"))
SITE = Path(__file__).parent / "pyperformance_site"
PROFILERS = {"tracemalloc": 0.20, "memray": 0.45}  # name -> target for the mean
SECONDS = 600  # that a benchmark may take
FAR = 1.10  # a ratio beyond it, or below its inverse, is measured again
# Values of a process. Among few values the number of full collections is chance.
VALUES, QUICK_VALUES = 12, 2
CANNOT = {
    "hg_startup": "pyperformance leaves it out too; its Mercurial does not build on 3.11",
    "python_startup_no_site": "without site nothing installs memcg",
}


alone = threading.Lock()


class Benchmark(NamedTuple):
    name: str
    script: Path
    options: tuple[str, ...]
    needs: Path  # its packages, unpacked by peers.sh


def suite() -> list[Benchmark]:
    """Return every variant of every benchmark, sorted by name."""
    found = []
    for file in harness.BUILD.glob(
        "venv/lib/*/site-packages/pyperformance/data-files/benchmarks/bm_*/*.toml"
    ):
        tool = tomllib.loads(file.read_text())["tool"]["pyperformance"]
        options = tuple(tool.get("extra_opts", ()))
        needs = harness.BUILD / "suite" / file.parent.name
        found.append(Benchmark(tool["name"], file.parent / "run_benchmark.py", options, needs))
    return sorted(found)


def start(
    benchmark: Benchmark, world: str, values: int, cpus: Iterable[int], to: Path
) -> subprocess.Popen[bytes]:
    """Start a process of pyperf, which calibrates itself and writes `to`/world."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("OPENBLAS_")}
    env["PYTHONHASHSEED"] = "0"
    env["MEMCG_BENCH_WORLD"] = world
    env["MEMCG_BENCH_CPUS"] = " ".join(map(str, cpus))
    env["PYTHONPATH"] = f"{SITE}:{harness.TREE / 'src'}:{benchmark.needs}"
    inherit = "PYTHONPATH,PYTHONHASHSEED,MEMCG_BENCH_WORLD,MEMCG_BENCH_CPUS"
    command = [harness.PYTHON, benchmark.script, *benchmark.options, "-p1", f"-n{values}", "-w1",
               "--min-time=0.05", "-q", "-o", to / world, "--inherit-environ", inherit]  # fmt: skip
    with open(to / f"{world}.err", "wb") as err:
        return subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=err, cwd=to)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End pyperf as Ctrl-C does, because then it ends its worker too."""
    process.send_signal(signal.SIGINT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(10)
    process.kill()
    process.wait()


def result(benchmark: Benchmark, to: Path, world: str) -> dict[str, list[float]]:
    """Return the seconds of each benchmark in the script, value by value."""
    read = json.loads((to / world).read_text())
    return {
        b.get("metadata", {}).get("name") or read["metadata"].get("name", benchmark.name):
        [v for r in b["runs"] for v in r.get("values", ())]
        for b in read["benchmarks"]
    }  # fmt: skip


def row(work: str, against: str, pairs: Sequence[tuple[list[float], list[float]]]) -> harness.Row:
    """Make a row: the ratio of means, and the spread of ratios of values made at the same time."""
    means = [[statistics.fmean(values) for values in pair] for pair in pairs]
    of_means = harness.ratios(
        work, against, 1.10 if against == "stock" else None, *zip(*means, strict=True)
    )
    ours, theirs = ([v for values in side for v in values] for side in zip(*pairs, strict=True))
    of_values = harness.ratios(work, against, None, ours, theirs)
    return dataclasses.replace(of_means, low=of_values.low, high=of_values.high)


def measure(
    benchmark: Benchmark, worlds: Sequence[str], values: int, cpus: Iterable[int]
) -> dict[str, dict[str, list[float]] | str]:
    """Run all worlds at the same time, and return their answers, or what went wrong."""
    if benchmark.name in ALONE and len(worlds) > 1:
        with alone:
            each = [measure(benchmark, [world], values, cpus) for world in worlds]
        return {world: answer for answers in each for world, answer in answers.items()}
    end = time.monotonic() + SECONDS
    answers: dict[str, dict[str, list[float]] | str] = {}
    with tempfile.TemporaryDirectory() as d:
        to = Path(d)
        processes = {world: start(benchmark, world, values, cpus, to) for world in worlds}
        for world, process in processes.items():
            try:
                status = process.wait(max(0.0, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                stop(process)
                answers[world] = f"took more than {SECONDS} s"
                continue
            if status:
                said = (to / f"{world}.err").read_text(errors="replace").strip().splitlines()
                answers[world] = (said or ["failed"])[-1][:90]
            else:
                answers[world] = result(benchmark, to, world)
    return answers


class Suite:
    """What has been measured so far, and what could not be measured."""

    def __init__(self) -> None:
        # (benchmark, contender) -> values, ours and theirs, of each turn
        self.pairs: dict[tuple[str, str], list[tuple[list[float], list[float]]]] = {}
        self.missing: dict[tuple[str, str], str] = {}

    def take(
        self, benchmark: Benchmark, turn: int, values: int, cpus: Iterable[int], again: int
    ) -> None:
        """Add a turn of `benchmark`, stock beside ours, and `again` pairs if a ratio is far off."""
        if benchmark.name in CANNOT:
            self.missing[benchmark.name, "stock"] = CANNOT[benchmark.name]
        if (benchmark.name, "stock") in self.missing:
            return
        worlds = [harness.OURS, "stock"] if turn % 2 else ["stock", harness.OURS]
        profilers = PROFILERS if turn == 0 and benchmark.name in QUICK else ()
        ratios = self.pair(benchmark, [*worlds, *profilers], values, cpus)
        if any(not 1 / FAR <= ratio <= FAR for ratio in ratios):
            for _ in range(again):
                worlds.reverse()
                self.pair(benchmark, worlds, values, cpus)

    def pair(
        self, benchmark: Benchmark, worlds: Sequence[str], values: int, cpus: Iterable[int]
    ) -> list[float]:
        """Run the script in `worlds`, ours among them, and return its ratios to stock."""
        answers = measure(benchmark, worlds, values, cpus)
        ours = answers.pop(harness.OURS)
        ratios = []
        for peer, theirs in answers.items():
            for why in (ours, theirs):
                if isinstance(why, str):
                    self.missing[benchmark.name, peer] = why
            if isinstance(ours, dict) and isinstance(theirs, dict):
                for name in ours:
                    self.pairs.setdefault((name, peer), []).append((ours[name], theirs[name]))
                    if peer == "stock":
                        ratios.append(statistics.fmean(ours[name]) / statistics.fmean(theirs[name]))
        return ratios

    def rows(self) -> list[harness.Row]:
        """Make rows for figures and contenders, missing benchmarks, and the geometric means."""
        rows = [row(name, peer, pairs) for (name, peer), pairs in
                sorted(self.pairs.items(), key=lambda item: item[0][0])]  # fmt: skip
        rows += [harness.Row(name, peer, None, note=f"missing: {why}")
                 for (name, peer), why in self.missing.items()]  # fmt: skip
        for peer, target in {"stock": 1.0, **PROFILERS}.items():
            measured = [r for r in rows if r.against == peer and r.ratio]
            if measured:
                rows.append(harness.mean("geometric mean", measured, target))
        return rows


def run(quick: bool) -> list[harness.Row]:
    measured = Suite()
    values, again = (QUICK_VALUES, 0) if quick else (VALUES, 2)
    benchmarks = [b for b in suite() if not quick or b.name in QUICK]
    everywhere = sorted(os.sched_getaffinity(0))
    free: queue.SimpleQueue[int] = queue.SimpleQueue()
    for cpu in everywhere:
        free.put(cpu)

    def take(benchmark: Benchmark, turn: int) -> None:
        cpu = free.get()
        try:
            cpus = everywhere if benchmark.name in POOLS else [cpu]
            measured.take(benchmark, turn, values, cpus, again)
        finally:
            free.put(cpu)

    for turn in range(1 if quick else TURNS):
        with ThreadPoolExecutor(len(everywhere)) as pool:
            list(pool.map(take, benchmarks, repeat(turn)))
        harness.write("pyperformance_suite", measured.rows(), harness.results(quick))
    return measured.rows()
