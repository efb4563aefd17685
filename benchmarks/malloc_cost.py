# SPDX-License-Identifier: Apache-2.0
"""What do libraries in C, C++ and Rust cost when libmemcg_malloc serves them, beside other mallocs?

The works are those of `coverage/workloads.py`, in the environment of ``make coverage-table``. Ours
has libmemcg_malloc preloaded and charges all of it to a group with a limit. The others have no
memcg, and glibc's malloc or another one that is preloaded. The pairs are malloc and free in C,
called from the same processes.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import harness

COVERAGE = harness.HERE.parent / "build" / "coverage-3.11" / "bin" / "python"
PAIRS = "malloc_pairs.so"
# Above 1 MiB a pair takes page faults in all of them, so there are fewer.
SIZES = {16 << n: min(1_000_000, (64 << 20) // (16 << n) * 50) for n in range(0, 23, 2)}
LIBRARIES = (
    "torch", "pyarrow", "polars", "pandas", "duckdb", "lxml", "pillow", "opencv-python-headless",
    "scikit-learn", "scipy", "xgboost", "matplotlib", "protobuf", "orjson",
)  # fmt: skip
TARGET_GLIBC, TARGET_BEST = 1.05, 1.0


def pair(size: int) -> str:
    return f"pairs of {size} bytes"


def works(contender: str) -> dict[str, Callable[[], object]]:
    pairs = ctypes.CDLL(str(harness.BUILD / PAIRS)).malloc_pairs
    pairs.argtypes, pairs.restype = [ctypes.c_size_t, ctypes.c_long], ctypes.c_uint64
    return {pair(size): partial(pairs, size, n) for size, n in SIZES.items()} | _libraries()


def _libraries() -> dict[str, Callable[[], object]]:
    sys.path.insert(0, str(harness.HERE / "coverage"))
    import workloads

    made: dict[str, Callable[[], object]] = {}

    def run(name: str) -> int:
        if name not in made:
            made[name] = workloads.WORKLOADS[name].prepare()
        return len(list(made[name]()))  # type: ignore[call-overload]

    return {w.name: partial(run, name) for name, w in workloads.WORKLOADS.items()
            if w.library in LIBRARIES}  # fmt: skip


def contenders() -> list[harness.Contender]:
    source = harness.TREE / "src"

    def process(name: str, world: str) -> harness.Contender:
        argv = [COVERAGE, harness.HERE / "worker.py", Path(__file__).stem, name, world]
        env = {"PYTHONPATH": str(source), "POLARS_MAX_THREADS": "1"}
        return harness.Contender(name, argv, env)

    ours = process(harness.OURS, "memcg malloc")
    ours.env["LD_PRELOAD"] = str(source / "memcg" / "core" / "libmemcg_malloc.so")
    others = [harness.preloaded(process(n, n), n) for n in harness.ALLOCATORS]
    here = [ours, process("glibc", "glibc"), *others]
    if not COVERAGE.exists():
        for c in here:
            c.missing = "its environment; make coverage-table makes it"
    return here


def run(quick: bool) -> list[harness.Row]:
    here = contenders()
    if all(c.missing for c in here):
        return harness.missing(here)
    harness.compiled(PAIRS, [harness.HERE / "native" / "malloc_pairs.c"], "-shared", "-fPIC")
    names = [pair(size) for size in SIZES]
    rounds = 3 if quick else 9
    times = harness.alternate(here, names, rounds)
    times |= harness.alternate(here, _libraries(), rounds)
    rows = harness.rows(times, {"glibc": TARGET_GLIBC, "*": None})
    for what, of in ("pairs", set(names)), ("libraries", set(times) - set(names)):
        some = {w: t for w, t in times.items() if w in of}
        best = [r for r in harness.rows(some, {"*": TARGET_BEST}, best_of=True) if r.target]
        rows.append(harness.mean(f"{what}: geometric mean", best, TARGET_BEST))
        glibc = [r for r in rows if r.work in of and r.against == "glibc"]
        rows.append(harness.mean(f"{what}: geometric mean", glibc, TARGET_GLIBC))
    return rows + harness.missing(here)
