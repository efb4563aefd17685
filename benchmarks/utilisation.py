# SPDX-License-Identifier: Apache-2.0
"""How much of the slabs is objects, on a server-like mix of 1,000 groups?

Each group is a tenant with a session: parsed JSON, rows, strings, and what requests leave. Half
of the sessions end and others grow, as on a server that has run for a while. The target is for
three such turns. The table also has twelve turns, with a reclaim among them. Live bytes are objects
at class size. Slab bytes are those of the shared slabs and of the groups' own. The cost of rounding
to classes is counted from the sessions' own objects.
"""

from __future__ import annotations

import bisect
import json
import random
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import harness

TENANTS = 1000
TURNS, MORE_TURNS = 3, 12


def session(i: int, rows: int) -> object:
    text = json.dumps([{"id": k, "name": f"t{i} row {k}", "v": k / 3} for k in range(rows)])
    return json.loads(text), [f"key {i} {k}" for k in range(rows)], bytes(rows * 7)


def blocks(value: Any) -> Iterator[int]:
    """Yield the bytes that were requested for each block of a value and of the values in it."""
    head = {dict: 64, list: 56}.get(type(value))  # with the collector's; the rest is a block
    size = sys.getsizeof(value)
    yield from (size,) if head is None else (head, size - head)
    inside = (*value, *value.values()) if type(value) is dict else value
    if type(value) in (dict, list, tuple):
        for each in inside:
            yield from blocks(each)


def rounding(sessions: Iterable[object]) -> float:
    from memcg import core

    asked = [n for session in sessions if session for n in blocks(session) if n]
    classes = core.KMALLOC_SIZES
    rounded = [
        classes[bisect.bisect_left(classes, n)] if n <= classes[-1] else -(-n // 4096) * 4096
        for n in asked
    ]
    return sum(rounded) / sum(asked)


def groups_slabs(groups: Iterable[Any]) -> tuple[int, int]:
    """Return the bytes (live, total) of the shared slabs and of the groups' own."""
    from memcg import core

    core.wait_worker()
    stat = core.global_stat()
    live, total = stat["slab_shared_used"], stat["slab_shared_bytes"]
    for g in groups:
        for child in g.memcg_slab_caches:
            info = child.info()
            live += info.active_objs * info.objsize
            total += child.nr_pages * core.PAGE_SIZE
    return live, total


def works(contender: str) -> dict[str, object]:
    import memcg
    from memcg import core

    if contender == "a cache set per group":
        core.set_promote_bytes(0)

    def mix() -> dict[str, float]:
        chance = random.Random(1)
        sizes = [int(chance.paretovariate(1.1) * 4) for _ in range(TENANTS)]
        groups = [memcg.group(f"u/{i}", max="256MiB") for i in range(TENANTS)]
        sessions: list[object] = [None] * TENANTS

        def serve(turns: range) -> None:
            for turn in turns:
                for i in chance.sample(range(TENANTS), TENANTS):
                    rows = 0 if (i + turn) % 4 == 0 else min(sizes[i], 2000)
                    with groups[i]:
                        sessions[i] = session(i, rows) if rows else None

        serve(range(TURNS))
        live, total = groups_slabs(groups)
        result = {"live": live, "total": total, "share": live / total,
                  "charged": sum(g.current for g in groups)}  # fmt: skip
        result["rounding"] = rounding(sessions)
        memcg.root.reclaim(0)
        core.trim()
        live, total = groups_slabs(groups)
        result["reclaimed"] = live / total
        serve(range(TURNS, MORE_TURNS))
        live, total = groups_slabs(groups)
        result["later"] = live / total
        return result

    return {"mix": mix}


def run(quick: bool) -> list[harness.Row]:
    rows = []
    for name, target in ((harness.OURS, 0.95), ("a cache set per group", None)):
        values = []
        for _ in range(1 if quick else 3):
            c = harness.python(name, "utilisation", world="memcg")
            c.start()
            values.append(c.ask("mix"))
            c.stop()
        v = values[0]
        live, total, charged = (v[k] / 1e6 for k in ("live", "total", "charged"))
        note = f"{live:.1f} of {total:.1f} MB; charged {charged:.1f}"
        for key, what in (("share", "live / slab bytes"), ("reclaimed", "after a reclaim"),
                          ("later", f"after {MORE_TURNS} turns")):  # fmt: skip
            u = sorted(value[key] for value in values)
            rows.append(harness.Row(what, name, target if key == "share" else None,
                                    u[len(u) // 2], u[0], u[-1], len(u), unit="", at_least=True,
                                    note=note if key == "share" else ""))  # fmt: skip
    rounded = values[0]["rounding"]
    rows.append(harness.Row("bytes rounded to classes", "bytes asked for", None, rounded, rounded,
                            rounded, 1, unit=""))  # fmt: skip
    return rows
