"""What does the pyperformance suite cost, with everything charged to a group with a limit?

The suite's own scripts, run by pyperf: stock and ours in turn, a process each, ours through a
`sitecustomize` that installs memcg and enters a group before the benchmark is imported. pyperf's
own worker loop measures; the lowest of a process's values counts (noise only adds), and the median
of the pairs of processes. What cannot be run here is said to be missing.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from pathlib import Path

import harness

QUICK = ("json_loads", "json_dumps", "nbody", "float", "richards", "deltablue", "chaos", "go",
         "regex_compile", "unpack_sequence", "deepcopy")  # fmt: skip
TURNS = int(os.environ.get("MEMCG_BENCH_TURNS", "0"))
SITE = Path(__file__).parent / "pyperformance_site"


def scripts() -> dict[str, Path]:
    found = harness.BUILD.glob(
        "venv/lib/*/site-packages/pyperformance/data-files/benchmarks/bm_*/run_benchmark.py"
    )
    return {p.parent.name.removeprefix("bm_"): p for p in sorted(found)}


def measure(script: Path, ours: bool) -> dict[str, list[float]]:
    """Values of each benchmark in a script: one process, calibrated by pyperf."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("OPENBLAS_")}
    env["PYTHONHASHSEED"] = "0"
    if ours:
        env["PYTHONPATH"] = f"{SITE}:{harness.TREE / 'src'}"
    with tempfile.TemporaryDirectory() as d:
        command = [harness.PYTHON, script, "-p1", "-n4", "-w1", "--min-time=0.05", "-q",
                   "--inherit-environ", "PYTHONPATH,PYTHONHASHSEED", "-o", f"{d}/out"]  # fmt: skip
        try:
            done = subprocess.run(command, env=env, capture_output=True, text=True, cwd=d,
                                  timeout=45)  # fmt: skip
        except subprocess.TimeoutExpired:
            raise harness.Failed("took more than 45 s") from None
        if done.returncode:
            raise harness.Failed((done.stderr.strip().splitlines() or ["failed"])[-1][:90])
        suite = json.loads(Path(d, "out").read_text())
    one = suite["metadata"].get("name", script.parent.name.removeprefix("bm_"))
    return {
        b.get("metadata", {}).get("name", one): [v for r in b["runs"] for v in r.get("values", ())]
        for b in suite["benchmarks"]
    }


def run(quick: bool) -> list[harness.Row]:
    rows = []
    for name, script in scripts().items():
        if quick and name not in QUICK:
            continue
        pairs: dict[str, tuple[list[float], list[float]]] = {}
        try:
            for turn in range(TURNS or (3 if quick else 5)):
                both = [measure(script, ours) for ours in (turn % 2 == 0, turn % 2 == 1)]
                first, second = both if turn % 2 == 0 else both[::-1]
                for key in first:
                    a, b = pairs.setdefault(key, ([], []))
                    a.append(min(first[key]))
                    b.append(min(second[key]))
        except harness.Failed as error:
            rows.append(harness.Row(name, "stock", None, note=f"missing: {error}"))
            continue
        rows += [harness.ratios(key, "stock", 1.10, a, b) for key, (a, b) in pairs.items()]
    rows.append(harness.mean("geometric mean", [r for r in rows if r.ratio], 1.0))
    return rows
