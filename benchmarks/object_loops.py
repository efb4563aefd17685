# SPDX-License-Identifier: Apache-2.0
"""What do loops over small objects cost, charged to a group, beside stock and the profilers?

"memray objects" traces Python's allocators, so it sees what memcg charges; plain memray sees only
pymalloc's arenas. The cost of tracing differs by loop, so the target is for the mean.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import harness

N = 20_000
TARGETS = {"stock": 1.0, "tracemalloc": 0.20, "memray objects": 0.45, "memray": None}


class Point:
    __slots__ = ("x", "y")

    def __init__(self, x: int, y: int) -> None:
        self.x = x
        self.y = y


DOCUMENT = json.dumps(
    [{"id": i, "name": f"user {i}", "tags": ["a", f"b{i}"], "at": i / 7} for i in range(2500)]
)


def instances() -> int:
    return sum(p.x for p in [Point(i, -i) for i in range(N)])


def dicts() -> int:
    return sum(d["b"] for d in [{"a": i, "b": i + 1, "c": None} for i in range(N)])


def json_loads() -> int:
    return len(json.loads(DOCUMENT)) + len(json.loads(DOCUMENT))


def tuples() -> int:
    return sum(t[1] for t in [(i, i + 1000, None) for i in range(2 * N)])


def strings() -> int:
    parts = [f"line {i} of {N}" for i in range(N)]
    return len("\n".join(p.upper() for p in parts).split("\n"))


def ints() -> int:  # LIFO, because nothing is kept
    total = 0
    for i in range(10 * N):
        total += i * 1_000_003
    return total


def tree(depth: int = 14) -> int:
    def make(d: int) -> tuple:  # type: ignore[type-arg]
        return (make(d - 1), make(d - 1)) if d else (None, None)

    def count(t: tuple) -> int:  # type: ignore[type-arg]
        return 1 if t[0] is None else 1 + count(t[0]) + count(t[1])

    return count(make(depth))


def growing_lists() -> int:
    lists: list[list[int]] = [[] for _ in range(200)]
    for i in range(N * 2):
        lists[i % 200].append(i)
    return sum(map(len, lists))


def replaced() -> int:  # a live set of mixed sizes, in which random ones are replaced
    live: list[bytes] = [b""] * 4096
    k = 1
    for _ in range(2 * N):
        k = k * 1103515245 + 12345 & 0x7FFFFFFF
        live[k >> 8 & 4095] = bytes(k >> 20 & 511)
    return sum(map(len, live))


def works(contender: str) -> dict[str, Callable[[], int]]:
    return {f.__name__: f for f in (instances, dicts, json_loads, tuples, strings, ints, tree,
                                    growing_lists, replaced)}  # fmt: skip


def run(quick: bool) -> list[harness.Row]:
    contenders = [harness.python(name, "object_loops") for name in (harness.OURS, *TARGETS)]
    times = harness.alternate(contenders, works(""), 4 if quick else 30)
    rows = harness.rows(times, {"stock": 1.10})
    for name, target in TARGETS.items():
        of = [r for r in rows if r.against == name]
        rows.append(harness.mean("geometric mean", of, target))
    return rows
