# SPDX-License-Identifier: Apache-2.0
"""What does an allocation and its free cost in C, beside the best general allocators?

All contenders run one C program. Ours is linked as a shared library, so that both are calls
through the PLT, and all it allocates is charged to a group with a limit. With several threads
wall time counts. Last-in-first-out runs in processes of its own: there the group never holds more
than one object.
"""

from __future__ import annotations

import os
from pathlib import Path

import harness

NATIVE = Path(__file__).parent / "native"
THREADS = os.cpu_count() or 1
TURNS = 1_000_000
WORKS = [
    *(f"lifo {size} 1" for size in (16, 64, 256, 1024, 8192, 0)),
    *(f"batch {size} 1" for size in (16, 64, 256, 1024, 8192, 0)),
    *(f"random {size} 1" for size in (16, 64, 512, 0)),
    *(f"{p} {s} {n}" for n in (THREADS, 4 * THREADS) for p in ("lifo", "batch", "random")
      for s in (64, 0)),
    *(f"handoff {s} {n}" for n in (2, 2 * THREADS) for s in (64, 0)),
]  # fmt: skip


def ours(name: str, *flags: str) -> harness.Contender:
    core = sorted((harness.TREE / "native").glob("*.c"))
    tests = f"-I{harness.TREE / 'native' / 'tests'}"
    library = harness.compiled(f"lib{name}.so", [NATIVE / "ours.c", *core], "-shared", "-fPIC",
                               "-fvisibility=hidden", "-DOURS", tests, *flags)  # fmt: skip
    program = harness.compiled(f"pairs-{name}", [NATIVE / "pairs.c"], "-DOURS", str(library),
                               "-Wl,-rpath,$ORIGIN")  # fmt: skip
    return harness.Contender(name, [program])


def contenders() -> list[harness.Contender]:
    theirs = harness.compiled("pairs", [NATIVE / "pairs.c"])
    result = [ours(harness.OURS), harness.Contender("glibc", [theirs])]
    for name in harness.ALLOCATORS:
        result.append(harness.preloaded(harness.Contender(name, [theirs]), name))
    return result


def run(quick: bool) -> list[harness.Row]:
    here = contenders()
    pairs = TURNS // 2 if quick else TURNS
    turns = {w: f"{w} {pairs // int(w.split()[2])}" for w in WORKS}
    rounds = 3 if quick else 24
    times = harness.alternate(here, [t for w, t in turns.items() if "lifo" in w], rounds)
    times |= harness.alternate(here, [t for w, t in turns.items() if "lifo" not in w], rounds)
    rows = []
    for measure, threads in (("cpu", True), ("wall", False)):
        some = {w: times[t] for w, t in turns.items() if w.endswith(" 1") == threads}
        rows += harness.rows(some, {"*": 1.0}, measure, best_of=True)
    for kind in ("lifo", "batch", "random", "handoff"):
        of = [r for r in rows if r.work.startswith(kind) and r.target]
        rows.append(harness.mean(f"{kind}: geometric mean", of, 1.0))
    return rows + harness.missing(here)
