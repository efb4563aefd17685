# SPDX-License-Identifier: Apache-2.0
"""What does it cost to close a group with a million `KmemCache` objects that nobody freed?

The cost is compared with freeing them one by one. The second table has ten times fewer and ten
times larger objects, in as many slabs: the cost grows with slabs, so it must be the same.
"""

from __future__ import annotations

import time

import harness

MANY, SIZE = 1_000_000, 64


def works(contender: str) -> dict[str, object]:
    def timed(n: int, size: int, close: bool) -> dict[str, float]:
        import memcg

        cache = memcg.KmemCache(f"objects-{size}", size)
        g = memcg.group("bench/million", max="2GiB")
        with g:
            cache.free(cache.alloc())
            memcg.core.wait_worker()  # a child cache of its own
            buffers = [cache.alloc() for _ in range(n)]
        assert g.current >= n * size
        start = time.perf_counter()
        if close:
            g.close()
        else:
            for b in buffers:
                cache.free(b)
        took = time.perf_counter() - start
        buffers.clear()
        if not close:
            g.close()
        memcg.core.wait_worker()
        cache.destroy()
        return {"took": took, "check": n}

    close = contender == harness.OURS
    return {
        "10^6 of 64 B": lambda: timed(MANY, SIZE, close),
        "10^5 of 640 B": lambda: timed(MANY // 10, SIZE * 10, close),
    }


def run(quick: bool) -> list[harness.Row]:
    ours = harness.python(harness.OURS, "close_million")
    free = harness.python("one by one", "close_million", world="memcg")
    times = harness.alternate([ours, free], works(""), 2 if quick else 6, processes=1)
    rows = harness.rows(times, {"*": 0.05}, "took")
    pair = [[a["took"] for a in times[w][harness.OURS]] for w in ("10^6 of 64 B", "10^5 of 640 B")]
    rows.append(harness.ratios("closing: 10^6 of 64 B", "10^5 of 640 B", None, *pair))
    return rows
