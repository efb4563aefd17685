# SPDX-License-Identifier: Apache-2.0
"""Do many groups waste memory, or slow each other down?

Waste is slab bytes / live bytes with 10,000 groups that each keep a few small objects, beside one
cache set per group (threshold 0, the patch's way) and one set for all (one group). Cost is the
time of an operation in one group while N others exist, and of operations in the groups in turn.
"""

from __future__ import annotations

import harness
from utilisation import groups_slabs

GROUPS = 10_000


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

    return {"waste": waste, "one": one, "rotating": rotating, "one cache": one_cache}


def flat(work: str, kind: str, sizes: tuple[int, ...], target: float | None, rounds: int,
         ) -> list[harness.Row]:  # fmt: skip
    """Do the same work in processes that differ by how many groups or caches they have."""
    here = [harness.python(f"{kind} {n}", "many_groups", world="memcg") for n in sizes]
    times = harness.alternate(here, [work], rounds)[work]
    cpu = {name: [a["cpu"] for a in answers] for name, answers in times.items()}
    first, *rest = cpu
    return [harness.ratios(f"{work} in use: {name}", first, target, cpu[name], cpu[first])
            for name in rest]  # fmt: skip


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
    return rows + flat("one cache", "caches", (1, 10, 1000), 1.2, rounds)
