# SPDX-License-Identifier: Apache-2.0
"""Threads, groups, caches and arrays work together while any request of any thread may fail.

With the hooks installed only some kinds of request fail. Faults inside the core could refuse
CPython's smallest objects, and then a new thread could end before it signals its start:
`Thread.start` would wait for ever.
"""

from __future__ import annotations

import pytest

OBJECTS = ("memcg.install()", "alloc+madvise+thread")
THE_CORES_OWN = ("", "alloc+metadata+pages+mmap+madvise+thread")


@pytest.mark.parametrize(("install", "what"), [OBJECTS, THE_CORES_OWN])
@pytest.mark.parametrize("seed", [1, 2])
def test_whatever_fails_by_chance_nothing_is_left(sweep, install, what, seed):
    faults, told = sweep(f"""
    import _thread, random, time
    {install}
    import numpy as np
    frames = memcg.KmemCache("frame", 3000)
    frames.free(frames.alloc())
    told = [0] * 4
    # Outside the `try` no line of a tenant allocates, because nothing catches a MemoryError there.
    rngs = [random.Random({seed} * 10 + me) for me in range(4)]
    turns, held = [iter(range(60)) for _ in range(4)], [[] for _ in range(4)]
    start, done, stop = [[threading.Lock() for _ in range(4)] for _ in range(3)]
    for lock in start + done + stop: lock.acquire()

    def tenant(me):
        rng, buffers = rngs[me], held[me]
        start[me].acquire()
        for i in turns[me]:
            try:
                with memcg.scope(f"tenant-{{me}}", max="32MiB"):
                    buffers += frames.alloc_bulk(rng.randrange(20))
                    a = np.arange(rng.randrange(20_000))
                    b = np.sort(a[::-1] + a)
                    rows = [bytes(rng.randrange(4000)) for _ in range(50)]
                    with memcg.KmemCache(f"cache-{{me}}", 200) as cache:
                        cache.free_bulk(cache.alloc_bulk(30))
            except (MemoryError, SystemError):
                told[me] += 1
            finally:
                a = b = rows = None
                frames.free_bulk(buffers)
                buffers.clear()
        done[me].release()
        stop[me].acquire()

    def close_all():
        for g in list(memcg.root.children.values()):
            g.close(recursive=True)

    def read():
        settle()
        return {{
            "groups": sorted(memcg.root.children), "dying": len(memcontrol.dying),
            "ids": sorted(memcontrol._used_ids),
            "caches": [s.name for s in slab_common.slab_caches],
            "frames": frames._cache.info().active_objs,
        }}

    before = read()
    threads = [threading.Thread(target=tenant, args=(i,)) for i in range(4)]
    for thread in threads: thread.start()
    chance = dict(probability=0.02, seed={seed}, what="{what}", all_threads=True)
    with faults.inject(**chance) as injected:
        for lock in start: lock.release()
        for lock in done: lock.acquire()
    for lock in stop: lock.release()
    for thread in threads: thread.join()
    close_all()
    for s in [s for s in slab_common.slab_caches if s.name.startswith("cache-")]:
        if slab_common.is_root_cache(s):
            slab_common.kmem_cache_destroy(s)
    check_locks()
    assert not workqueue.failures, workqueue.failures
    check_same(before, read, "seed {seed}")
    while _thread._count():  # hangs if a thread stays
        time.sleep(0.001)
    with memcg.scope("after") as g:
        x = np.arange(20_000)
        assert g.stat["page_runs"] >= (x.nbytes if "{install}" else 0)
        frames.free(frames.alloc())
    print(json.dumps([injected.faults, sum(told)]))
    """)
    assert faults > 100
    assert told > 20
