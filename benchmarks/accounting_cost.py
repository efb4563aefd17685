# SPDX-License-Identifier: Apache-2.0
"""What does accounting and limiting cost, in the same allocator?

"Unaccounted" is the same library with the root, which has no limit, as the current group. A "small
group" never holds more than one object, so that it lives in shared slabs.
"""

from __future__ import annotations

import harness
import native_pairs

SMALL = {"lifo, small group": "lifo 64 1 1000000"}
LARGE = {"batch": "batch 64 1 1000000", "random": "random 64 1 1000000"}


def run(quick: bool) -> list[harness.Row]:
    here = [native_pairs.ours(harness.OURS), native_pairs.ours("unaccounted", "-DUNACCOUNTED")]
    rows = []
    for works in (SMALL, LARGE, {"lifo, after a batch": "lifo 64 1 1000000", **LARGE}):
        times = harness.alternate(here, list(works.values())[::-1], 9 if quick else 30)
        for name, work in works.items():
            if not any(r.work == f"64 B, {name}" for r in rows):
                rows.append(harness.row(f"64 B, {name}", times[work], "unaccounted", 1.10))
    return rows
