# SPDX-License-Identifier: Apache-2.0
"""Do many groups waste memory, or slow each other down?

Waste is slab bytes / live bytes with 10,000 groups that each keep a few small objects, beside one
cache set per group (threshold 0, the patch's way) and one set for all (one group). Cost is the
time of an operation in one group while N others exist, and of operations in the groups in turn.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path

import harness
from utilisation import groups_slabs

GROUPS = 10_000
# A million groups in one process: what each takes, and what an operation costs beside one with a
# thousand. Threads are started and ended, each with a group; tasks are in their groups at the
# same time. The last thread or the many tasks are compared with the first or few. A quick run has a
# tenth of each.
FEW = 1000  # groups, beside which an operation with many is compared
SCALE = {"groups": 1_000_000, "threads": 100_000, "tasks": 10_000}
PROBES = 1000  # operations that are timed
STEP = 7919  # a prime: groups are taken far from each other, as requests are


def timed(fn: Callable[[int], object], n: int) -> float:
    """Return the seconds of CPU that `fn` takes for each of `n` operations."""
    start = time.process_time()
    fn(n)
    return (time.process_time() - start) / n


def resident() -> int:
    """Return the bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def million(n: int) -> dict[str, float]:
    """Make `n` groups; return the cost of each operation with `FEW` and with all of them."""
    import memcg

    groups: list[memcg.Group] = []
    held: list[object] = []
    before = resident()

    def make(more: int) -> None:
        groups.extend(memcg.group(f"million/{len(groups) + i}") for i in range(more))

    def some(k: int) -> list[memcg.Group]:
        return [groups[i * STEP % len(groups)] for i in range(k)]

    def enter(k: int) -> None:
        for g in some(k):
            with g:
                held[:] = [g]

    def limit(k: int) -> None:
        for g in some(k):
            g.max = "64MiB"

    def serve(k: int) -> None:
        for _ in range(k):
            with memcg.scope("million/request", max="64MiB"):
                held[:] = [k]

    def close(k: int) -> None:
        for _ in range(k):
            groups.pop().close()

    found = {}
    for size in (FEW, n):
        made = timed(make, size - len(groups))
        costs = {"make": made, "request": timed(serve, PROBES), "limit": timed(limit, PROBES)}
        costs |= {"enter": timed(enter, PROBES), "enter again": timed(enter, PROBES)}
        found |= {f"{name} {size}": cost for name, cost in costs.items()}
        found[f"bytes {size}"] = (resident() - before) / size
        found[f"close {size}"] = timed(close, PROBES // 10)
        make(PROBES // 10)
    return found


def threads(n: int) -> dict[str, float]:
    """Start and end `n` threads; return what one of the first and of the last tenth costs."""
    import memcg

    def body() -> None:
        with memcg.scope("threads/one", max="16MiB"):
            [[i] for i in range(20)]

    def run(k: int) -> None:
        for _ in range(k // 10):
            started = [threading.Thread(target=body) for _ in range(10)]
            for thread in started:
                thread.start()
            for thread in started:
                thread.join()

    run(100)
    tenths, sizes = [], []
    for _ in range(10):
        tenths.append(timed(run, n // 10))
        sizes.append(resident())
    return {"first": tenths[0], "last": tenths[-1], "grown": sizes[-1] - sizes[0]}


def in_flight(n: int) -> dict[str, float]:
    """Return what a task costs when `FEW` / 10 and when `n` are in their groups at once."""
    import memcg

    async def serve(k: int, grouped: bool) -> None:
        go, inside = asyncio.Event(), 0

        async def body() -> None:
            nonlocal inside
            rows = [[i] for i in range(50)]
            inside += 1
            if inside == k:
                go.set()
            await go.wait()
            del rows

        async def in_group() -> None:
            with memcg.scope("tasks/request", max="16MiB"):
                await body()

        await asyncio.gather(*(in_group() if grouped else body() for _ in range(k)))

    few = FEW // 10
    for grouped in (True, False):
        asyncio.run(serve(few, grouped))
    found = {}
    for k in (few, n):
        for name, grouped in (("in a group", True), ("alone", False)):
            found[f"{name} {k}"] = timed(lambda k, g=grouped: asyncio.run(serve(k, g)), k)
    return found


def works(contender: str) -> dict[str, object]:
    import memcg
    from memcg import core

    if contender == "a cache set per group":
        core.set_promote_bytes(0)

    def waste() -> dict[str, float]:
        n = 1 if contender == "one shared set" else GROUPS
        groups = [memcg.group(f"w/{i}") for i in range(n)]
        held: list[object] = [None] * GROUPS
        for i in [*range(GROUPS)] * 2:  # the second set replaces the first, so the caches exist
            if i == 0:
                core.wait_worker()
            with groups[i % n]:
                held[i] = [bytes(40), bytes(100), [i, i], {"a": 1}, f"text {i}"]
        live, total = groups_slabs(groups)
        return {"waste": total / live, "live": live / GROUPS}

    def lists() -> int:
        return sum(len([[i] for i in range(100)]) for _ in range(300))

    work = memcg.group("work", max="1GiB")
    kind, _, n = contender.partition(" ")
    groups, caches = [work], []
    if kind == "groups":
        groups += [memcg.group(f"many/{i}") for i in range(int(n) - 1)]
    elif kind == "caches":
        caches = [memcg.KmemCache(f"many-{i}", 256) for i in range(int(n))]

    def one() -> int:
        with work:
            return lists()

    def rotating() -> int:
        return sum(take_turns(groups[i % len(groups)]) for i in range(20_000))

    def take_turns(g: memcg.Group) -> int:
        with g:
            return len([g, g])

    def one_cache() -> int:
        with work:
            for _ in range(20_000):
                caches[0].free(caches[0].alloc())
        return 20_000

    scale = {"million": million, "threads": threads, "in flight": in_flight}
    return {"waste": waste, "one": one, "rotating": rotating, "one cache": one_cache} | {
        f"{name} {n}": lambda fn=fn, n=n: fn(n)
        for name, fn in scale.items()
        for whole in SCALE.values()
        for n in (whole, whole // 10)
    }


def flat(work: str, kind: str, sizes: tuple[int, ...], target: float | None, rounds: int,
         ) -> list[harness.Row]:  # fmt: skip
    """Do the same work in processes that differ by how many groups or caches they have."""
    here = [harness.python(f"{kind} {n}", "many_groups", world="memcg") for n in sizes]
    times = harness.alternate(here, [work], rounds)[work]
    cpu = {name: [a["cpu"] for a in answers] for name, answers in times.items()}
    first, *rest = cpu
    return [harness.ratios(f"{work} in use: {name}", first, target, cpu[name], cpu[first])
            for name in rest]  # fmt: skip


def beside(work: str, against: str, many: float, few: float, target: float | None) -> harness.Row:
    ratio = many / few
    return harness.Row(work, against, target, ratio, ratio, ratio, 1, many, few)


def scale(quick: bool) -> list[harness.Row]:
    part = 10 if quick else 1
    groups, started, tasks = (n // part for n in SCALE.values())
    found = {}
    for name, n in (("million", groups), ("threads", started), ("in flight", tasks)):
        c = harness.python(harness.OURS, "many_groups", world="memcg")
        c.start()
        found[name] = c.ask(f"{name} {n}")
        c.stop()
    costs = found["million"]
    rows = [
        beside(f"{name}, {groups:,} groups", f"{FEW:,}", costs[f"{name} {groups}"],
               costs[f"{name} {FEW}"], target)
        for name, target in (("make", 2.0), ("request", 2.0), ("close", 2.0),
                             # the processor's caches do not hold so many
                             ("limit", None), ("enter", None), ("enter again", None))
    ]  # fmt: skip
    took = costs[f"bytes {groups}"]
    rows.append(harness.Row(f"an idle group of {groups:,}, resident", "(bytes)", 1024, took, took,
                            took, 1, unit="bytes"))  # fmt: skip
    costs = found["threads"]
    rows.append(beside(f"a thread with a group, the last of {started:,}", "the first",
                       costs["last"], costs["first"], 1.2))  # fmt: skip
    grown = costs["grown"]
    rows.append(harness.Row(f"what {started:,} threads leave", "(bytes)", 1 << 20, grown, grown,
                            grown, 1, unit="bytes"))  # fmt: skip
    costs, few = found["in flight"], FEW // 10
    for name in ("in a group", "alone"):
        rows.append(beside(f"a task {name}, {tasks:,} at once", f"{few}",
                           costs[f"{name} {tasks}"], costs[f"{name} {few}"], 2.0))  # fmt: skip
    return rows


def run(quick: bool) -> list[harness.Row]:
    wasted = {}
    for name in (harness.OURS, "a cache set per group", "one shared set"):
        c = harness.python(name, "many_groups", world="memcg")
        c.start()
        wasted[name] = c.ask("waste")["waste"]
        c.stop()
    ours = wasted[harness.OURS]
    rows = [
        harness.Row(f"slab / live bytes, {GROUPS:,} small groups", name, target,
                    ours / wasted[name], ours / wasted[name], ours / wasted[name], 1, ours,
                    wasted[name], unit="")
        for name, target in (("a cache set per group", 0.1), ("one shared set", 1.10))
    ]  # fmt: skip
    counts = (1, 100, 10_000) if quick else (1, 100, 10_000, 100_000)
    rounds = 9 if quick else 30
    rows += flat("one", "groups", counts, 1.2, rounds)
    rows += flat("rotating", "groups", counts, None, rounds)
    rows += flat("one cache", "caches", (1, 10, 1000), 1.2, rounds)
    return rows + scale(quick)
