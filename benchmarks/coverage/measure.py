# SPDX-License-Identifier: Apache-2.0
"""Runs one workload in a group, under `memcg run`, and prints what was charged.

    memcg run measure.py WORKLOAD [LIMIT]

RSS is that of the process after free pages were given back, so that only what is held counts.
"""

from __future__ import annotations

import ctypes
import gc
import json
import sys
import time
from pathlib import Path
from typing import Any

import workloads

import memcg


def give_back() -> None:
    """Give free pages back, until threads of the library have no more of them."""
    before = 0
    while abs(resident() - before) > 1_000_000:
        before = resident()
        ctypes.CDLL(None).malloc_trim(0)  # libmemcg_malloc's gives back the data plane's pages too
        time.sleep(0.1)


def resident() -> int:
    text = Path("/proc/self/smaps_rollup").read_text()
    return 1024 * int(
        next(line for line in text.splitlines() if line.startswith("Rss:")).split()[1]
    )


def peak_resident() -> int:
    text = Path("/proc/self/status").read_text()
    return 1024 * int(next(t for t in text.splitlines() if t.startswith("VmHWM:")).split()[1])


def main() -> None:
    work = workloads.WORKLOADS[sys.argv[1]]
    limit = int(sys.argv[2]) if len(sys.argv) > 2 else None
    run = work.prepare()
    kept: list[Any] = []
    found: dict[str, Any] = {}
    gc.collect()
    give_back()
    outside, before = memcg.root.current, resident()
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew
    error: BaseException | None = None
    try:
        with memcg.scope("work", max=limit) as group:
            for made in run():
                kept.append(made)
            found["peak_rss"] = peak_resident() - before
            give_back()
            found["rss"] = resident() - before
            found["charged"] = group.current
            found["with_root"] = memcg.root.current - outside
    except BaseException as caught:
        error = caught
        found["error"] = f"{type(caught).__module__}.{type(caught).__qualname__}"
        found["is_memory_error"] = isinstance(caught, MemoryError)
        found["text"] = str(caught)[:200]
        found["cause"] = type(caught.__cause__).__name__
    found["peak"] = group.peak
    found["peak_rss"] = peak_resident() - before
    found["done"] = error is None
    print(json.dumps(found), flush=True)  # what follows, the end of the libraries, must work too


if __name__ == "__main__":
    main()
