# SPDX-License-Identifier: Apache-2.0
"""What does a group cost from its making to its end, and what does a dying one pin?

Our group is created, limited, entered, used, left and closed. A kernel cgroup is only made,
limited and removed. A process is forked, allocates and exits. "Make and close alone" is our group
without the rest, beside the whole life of the others: this would be left if all else cost
nothing. A request of so many items reads and writes JSON in a group of its own. Stock has no
groups.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import harness

CGROUPS = Path("/sys/fs/cgroup")
TURNS = 100
REQUESTS = (5, 60, 600)
TARGETS = {"kernel cgroup": 0.1, "fork": 0.01}


def memory_controller() -> tuple[Path, str] | None:
    """Return the directory where a cgroup can be made, and its limit's file, for v2 or v1."""
    for base, limit in ((CGROUPS, "memory.max"), (CGROUPS / "memory", "memory.limit_in_bytes")):
        probe = base / "memcg-bench-probe"
        try:
            probe.mkdir()
            found = (probe / limit).exists()
            probe.rmdir()
        except OSError:
            continue
        if found:
            return base, limit
    return None


def use() -> int:
    return len([[i] for i in range(100)])


def request(items: int) -> int:
    body = json.dumps([{"id": k, "name": f"item {k}", "price": k * 7 % 97} for k in range(items)])
    prices = {item["name"]: item["price"] for item in json.loads(body)}
    return len(json.dumps({"count": len(prices), "sum": sum(prices.values())}))


def requests(items: int) -> Callable[[], int]:
    return lambda: sum(request(items) for _ in range(TURNS))


def works(contender: str) -> dict[str, Callable[[], Any]]:
    if contender == harness.OURS:
        import memcg

        def life() -> int:
            for i in range(TURNS):
                g = memcg.group(f"life{i}", max="64MiB")
                with g:
                    use()
                g.close()
            return TURNS

        def bare() -> int:
            for i in range(TURNS):
                memcg.group(f"life{i}").close()
            return TURNS

        def pinned() -> dict[str, float]:
            """Measure a closed group's metadata while one of its objects lives, and after."""
            from memcg import core

            core.wait_worker()
            before, held = core.global_stat()["metadata"], []
            for i in range(TURNS):
                with (g := memcg.group(f"pin{i}", max="64MiB")):
                    held.append([i, i])
                g.close()
            del g
            core.wait_worker()
            dying = (core.global_stat()["metadata"] - before) / TURNS
            held.clear()
            core.wait_worker()
            gone = (core.global_stat()["metadata"] - before) / TURNS
            return {"dying": dying, "gone": gone}

        def requests_in_groups(items: int) -> Callable[[], int]:
            def serve() -> int:
                total = 0
                for i in range(TURNS):
                    with (g := memcg.group(f"request{i}", max="64MiB")):
                        total += request(items)
                    g.close()
                return total

            return serve

        of = {f"request of {n} items": requests_in_groups(n) for n in REQUESTS}
        return {"life": life, "bare": bare, "pinned": pinned, **of}
    if contender == "stock":
        return {f"request of {n} items": requests(n) for n in REQUESTS}
    if contender == "fork":

        def life() -> int:
            for _ in range(TURNS):
                pid = os.fork()
                if not pid:
                    os._exit(use() != 100)
                assert os.waitpid(pid, 0)[1] == 0
            return TURNS
    else:
        where = memory_controller()
        assert where
        base, limit = where

        def life() -> int:
            for i in range(TURNS):
                path = f"{base}/memcg-bench-{i}"
                os.mkdir(path)
                fd = os.open(f"{path}/{limit}", os.O_WRONLY)
                os.write(fd, b"67108864")
                os.close(fd)
                os.rmdir(path)
            return TURNS

    return {"life": life, "bare": life}


def run(quick: bool) -> list[harness.Row]:
    ours = harness.python(harness.OURS, "group_life")
    fork = harness.python("fork", "group_life", world="stock")
    kernel = harness.python("kernel cgroup", "group_life", world="stock")
    if not memory_controller():
        kernel.missing = f"no cgroup with a memory controller can be made in {CGROUPS}"
    times = harness.alternate([ours, kernel, fork], ["life", "bare"], 9 if quick else 30)
    rows = harness.rows(
        {"create, limit, enter, allocate, leave, close": times["life"]}, TARGETS, "wall"
    )
    for r in harness.rows({"make and close alone": times["bare"]}, {}, "wall"):
        r.note = "the floor"
        rows.append(r)
    stock = harness.python("stock", "group_life")
    asked = [f"request of {n} items" for n in REQUESTS]
    rows += harness.rows(harness.alternate([ours, stock], asked, 9 if quick else 30), {})
    ours.start()
    for _ in range(20):  # until there are as many shared slabs as all groups leave behind
        ours.ask("pinned")
    pins = [ours.ask("pinned") for _ in range(5)]
    ours.stop()
    for key, work, target in (("dying", "bytes pinned by a dying group", 1024),
                              ("gone", "bytes left once its objects are gone", 0)):  # fmt: skip
        values = sorted(p[key] for p in pins)
        rows.append(harness.Row(work, "(bytes)", target, values[2], values[0], values[-1], 5,
                                unit="bytes"))  # fmt: skip
    return rows + harness.missing([kernel])
