# SPDX-License-Identifier: Apache-2.0
"""What does the one mutex of the control plane cost when many threads make groups and caches?

The first part is the throughput of T threads that make, use and close groups, against one thread.
In the storm, 1,000 groups ask for 40 child caches each at the same time (threshold 0). Meanwhile
another group goes on, and its allocations are timed one by one. Each (group, root cache) must get
exactly one child.
"""

from __future__ import annotations

import statistics
import threading
import time

import harness

GROUPS, CLASSES = 1000, 40


def works(contender: str) -> dict[str, object]:
    import memcg
    from memcg import core

    def lives(first: int, n: int) -> None:
        for i in range(first, first + n):
            with (g := memcg.group(f"c{i}", max="64MiB")):
                [bytearray(i % 512) for i in range(20)]
            g.close()

    def threads(n: int, total: int = 8192) -> dict[str, float]:
        some = [threading.Thread(target=lives, args=(i * total, total // n)) for i in range(n)]
        start = time.perf_counter()
        for t in some:
            t.start()
        for t in some:
            t.join()
        return {"took": time.perf_counter() - start, "check": total // n * n}

    def latencies(seconds: float) -> list[float]:
        """Time each of many allocations in a group that exists, and look up every 1,000."""
        clock, found = time.perf_counter_ns, []
        with memcg.group("bystander", max="1GiB"):
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                for _ in range(1000):
                    start = clock()
                    bytes(100)
                    found.append(clock() - start)
        return found

    def p99(found: list[float]) -> float:
        return statistics.quantiles(found, n=100)[98]

    def storm() -> dict[str, float]:
        quiet = latencies(0.3)
        before = core.set_promote_bytes
        groups = [memcg.group(f"storm/{i}") for i in range(GROUPS)]
        sizes = [size - 60 for size in core.KMALLOC_SIZES if size > 60]
        before(0)
        start = time.perf_counter()
        for g in groups:
            with g:
                for n in sizes:
                    bytes(n)
        busy = latencies(0.3)
        core.wait_worker()
        took = time.perf_counter() - start
        before(65536)
        children = {}
        for g in groups:
            lines = [x.split()[0] for x in memcg.slabinfo(g.path).splitlines()[2:]]
            assert len(lines) == len(set(lines)), "a child cache was made twice"
            children[g.path] = len(lines)
        made = sum(children.values())
        for g in groups:
            g.close()
        return {"quiet": p99(quiet), "busy": p99(busy), "made": made, "took": took}

    result = {f"{n} threads": lambda n=n: threads(n) for n in (1, 2, 8, 64)}
    return result | {"storm": storm}


def run(quick: bool) -> list[harness.Row]:
    c = harness.python(harness.OURS, "creation_contention")
    c.start()
    times: dict[str, list[float]] = {f"{n} threads": [] for n in (1, 2, 8, 64)}
    for turn in range(4 if quick else 21):
        for work, found in times.items():
            took = c.ask(work)["took"]
            if turn:
                found.append(took)
    rows = [harness.ratios(f"groups made and closed a second, {work}", "1 thread", 0.8,
                           times["1 threads"], times[work], at_least=True)
            for work in times if work != "1 threads"]  # fmt: skip
    storms = [c.ask("storm") for _ in range(2 if quick else 5)]
    c.stop()
    rows.append(harness.ratios(f"p99 of an allocation, storm of {GROUPS} x {CLASSES}", "quiet", 1.2,
                               [s["busy"] for s in storms], [s["quiet"] for s in storms],
                               note=f"{storms[-1]['made']} children in {storms[-1]['took']:.2f} s, "
                                    "none twice"))  # fmt: skip
    return rows
