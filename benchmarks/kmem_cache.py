# SPDX-License-Identifier: Apache-2.0
"""What does a buffer from a `KmemCache` cost beside the other ways to get one in Python?

A pair is allocate and free, of one buffer or of eight. "Written" also fills it, which is where
fresh pages cost. The pools of objects hand out bytearrays that they keep. Each way is written out
as statements, so that no contender pays for a wrapper. "Nothing allocated" is the same loop
around one buffer that is kept; no allocator can be quicker than that.
"""

from __future__ import annotations

import functools
import mmap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import harness

KEPT = "nothing allocated"
SIZES = {"4 KiB": 4096, "64 KiB": 65536, "1 MiB": 1 << 20, "8 MiB": 8 << 20}
# how to get one, how to give it back, the buffer in it, the package that is needed
WAYS = {
    harness.OURS: ("alloc()", "free(x)", "x", ""),
    "bytearray": ("bytearray(size)", "del x", "x", ""),
    "np.empty": ("empty(size, 'u1')", "del x", "x", "numpy"),
    "mmap": ("mmap(-1, size)", "x.close()", "x", ""),
    "pyarrow pool": ("allocate(size, pool)", "del x", "x", "pyarrow"),
    "pyarrow system pool": ("allocate(size, pool)", "del x", "x", "pyarrow"),
    "object-pool": ("get()", "put(x)", "x", "object_pool"),
    KEPT: ("kept", "pass", "x", ""),
    "pondpond": ("borrow(name='frame')", "recycle(x, name='frame')", "x.keeped_object", "pond"),
}

LOOPS = """
def pairs(n={turns}):
    for _ in range(n):
        x = {get}
        {give}
    return n

def eights(n):
    for _ in range(n):
        held = [{get} for _ in range(8)]
        while held:
            x = held.pop()
            {give}
    return n

def written(n):
    total = 0
    for i in range(n):
        x = {get}
        array = frombuffer({buffer}, 'u1')
        array.fill(i & 255)
        total += int(array[-1])
        del array
        {give}
    return total
"""


def names(contender: str, size: int) -> dict[str, Any]:
    """Return the names to which the statements of a way refer."""
    import numpy as np

    found: dict[str, Any] = {"size": size, "frombuffer": np.frombuffer, "empty": np.empty,
                             "mmap": mmap.mmap, "kept": bytearray(size)}  # fmt: skip
    if contender == harness.OURS:
        import memcg

        cache = memcg.KmemCache(f"bench-{size}", size)
        found |= {"alloc": cache.alloc, "free": cache.free}
    elif contender.startswith("pyarrow"):
        import pyarrow as pa

        pool = pa.system_memory_pool() if "system" in contender else pa.default_memory_pool()
        found |= {"allocate": pa.allocate_buffer, "pool": pool}
    elif contender == "object-pool":
        from object_pool import ObjectPool

        objects = ObjectPool(lambda: bytearray(size))
        found |= {"get": objects.get, "put": objects.put}
    elif contender == "pondpond":
        from pond import Pond, PooledObject, PooledObjectFactory

        class Factory(PooledObjectFactory):  # type: ignore[misc]
            def createInstance(self) -> PooledObject:
                return PooledObject(bytearray(size))

            def destroy(self, pooled_object: PooledObject) -> None: ...
            def reset(self, pooled_object: PooledObject, **_: Any) -> PooledObject:
                return pooled_object

            def validate(self, pooled_object: PooledObject) -> bool:
                return True

        pond = Pond(time_between_eviction_runs=-1)
        pond.register(Factory(pooled_maxsize=16, least_one=False), name="frame")
        found |= {"borrow": pond.borrow, "recycle": pond.recycle}
    return found


def works(contender: str) -> dict[str, Callable[[], int]]:
    get, give, buffer, _ = WAYS[contender]
    result: dict[str, Callable[[], int]] = {}
    for name, size in SIZES.items():
        scope = names(contender, size)
        turns = max(100, min(2000, (1 << 30) // size))
        exec(LOOPS.format(turns=turns, get=get, give=give, buffer=buffer), scope)
        n = max(4, (8 << 20) // size)
        result[name] = scope["pairs"]
        result[f"{name}, eight"] = functools.partial(scope["eights"], min(n, 200))
        result[f"{name}, written"] = functools.partial(scope["written"], n)
    return result


def run(quick: bool) -> list[harness.Row]:
    site = next(harness.BUILD.glob("venv/lib/*/site-packages"), Path())
    here = []
    for name, (*_, package) in WAYS.items():
        c = harness.python(name, "kmem_cache", world="memcg" if name == harness.OURS else "stock")
        if package and not (site / package).exists():
            c.missing = f"{package} is not installed"
        here.append(c)
    asked = [f"{n}{kind}" for n in SIZES for kind in ("", ", eight", ", written")]
    times = harness.alternate(here, asked, 4 if quick else 21)
    kept = {work: answers.pop(KEPT) for work, answers in times.items()}
    rows = []
    for work, answers in times.items():
        of_work = harness.rows({work: answers}, {"*": 0.5}, best_of=True)
        best = next(r.against for r in of_work if r.target)
        floor = {harness.OURS: kept[work], best: answers[best]}
        rows += [*of_work, harness.row(f"{work}: {KEPT}", floor, best, None, note="the floor")]
    return rows + harness.missing(here)
