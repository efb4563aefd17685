# SPDX-License-Identifier: Apache-2.0
"""What does a trace at the default rate cost on loops over small objects, beside the profilers?

`memcg` is traced here (`memcg.trace`, one sample in 512 KiB), and "untraced" is the same group
without a trace. tracemalloc keeps one frame of each block that lives, and memray writes the stack
of each allocation to a file.
"""

from __future__ import annotations

import harness
import object_loops

works = object_loops.works
TARGETS = {"untraced": 1.03, "tracemalloc": 0.20, "memray objects": 0.45}


def run(quick: bool) -> list[harness.Row]:
    ours = harness.python(harness.OURS, "tracing_cost", "memcg traced")
    untraced = harness.python("untraced", "tracing_cost", "memcg")
    others = [harness.python(name, "tracing_cost") for name in list(TARGETS)[1:]]
    times = harness.alternate([ours, untraced, *others], works(""), 4 if quick else 30)
    rows = harness.rows(times, {})
    for name, target in TARGETS.items():
        of = [r for r in rows if r.against == name]
        rows.append(harness.mean("geometric mean", of, target))
    return rows
