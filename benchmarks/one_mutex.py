# SPDX-License-Identifier: Apache-2.0
"""What does one mutex for all groups cost, against a mutex per group, when children are made?

This is the patch's own question, on the native core without the GIL: threads make, publish, use and
destroy child caches of different groups, with the same work under either kind of mutex.
"""

from __future__ import annotations

from pathlib import Path

import harness

NATIVE = Path(__file__).parent / "native"
WORKS = [(t, g) for g in (1, 100, 10_000) for t in (1, 2, 8, 64) if t <= g]
TURNS = 2000


def run(quick: bool) -> list[harness.Row]:
    core = sorted((harness.TREE / "native").glob("*.c"))
    program = harness.compiled("schemes", [NATIVE / "schemes.c", *core],
                               f"-I{harness.TREE / 'native' / 'tests'}")  # fmt: skip
    here = [harness.Contender(harness.OURS, [program, "one"]),
            harness.Contender("a mutex per group", [program, "each"])]  # fmt: skip
    names = {f"{t} threads, {g:,} groups": f"{t} {g} {TURNS}" for t, g in WORKS}
    times = harness.alternate(here, names.values(), 6 if quick else 24)
    rows = []
    for name, work in names.items():
        row = harness.row(name, times[work], "a mutex per group", None, "wall")
        speeds = [TURNS / seconds for seconds in (row.ours, row.theirs) if seconds]
        row.note = "{:,.0f} against {:,.0f} children a second".format(*speeds)
        rows.append(row)
    return rows
