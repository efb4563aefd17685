# SPDX-License-Identifier: Apache-2.0
"""Groups and caches are used while each of the core's own requests fails in turn.

The workers' requests fail too. Each operation is swept with one fault and with two in a row,
because a request that fails is tried again after a reclaim.
"""

from __future__ import annotations

import pytest

CLOSE_ALL = """
def close_all():
    for g in list(memcg.root.children.values()):
        g.close(recursive=True)
"""
FRAMES = """
frames = memcg.KmemCache("frame", 3000)
frames.free(frames.alloc())  # the root serves if there is no memory for the group's child
"""


def check(figures):
    """Check that each sweep had faults, and that some of them made the operation fail."""
    for name, figure in figures.items():
        assert 0 < figure["told"] <= figure["faults"], name


def test_groups_are_made_whole_or_not_at_all(sweep):
    figures = sweep(
        CLOSE_ALL
        + """
    def nested_groups():
        try:
            memcg.group("a/b/c", max="1MiB")
            memcg.group("a/d", max="1MiB")
        finally:
            close_all()

    def many_groups():
        try:
            for i in range(20):
                memcg.group(f"t{i}")
        finally:
            close_all()

    exhaust_all([nested_groups, many_groups], what=CORE, all_threads=True)
    """.replace("\n    ", "\n")
    )
    check(figures)


def test_the_first_groups_grow_every_array(sweep):
    """Arrays grow once in a process, so there is a process for each request."""
    code = (
        CLOSE_ALL
        + """
settle()  # now the core knows this thread
with faults.inject(nth={n}, what=CORE, all_threads=True) as injected:
    try:
        for i in range(9):
            memcg.group(f"t{{i}}")
        told = False
    except MemoryError:
        told = True
check_locks()
assert told == bool(injected.faults)
settle()
ids = {{g._kmemcg_id for g in memcg.root.children.values()}}
assert len(ids) == len(memcg.root.children) and set(memcontrol._used_ids) == ids, ids
for i in range(9):
    memcg.group(f"t{{i}}")
sizes = {{s.array_size for s in slab_common.slab_caches}}
assert min(sizes) > 8, sizes
close_all()
settle()
assert not memcontrol._used_ids and not memcontrol.dying, memcontrol._used_ids
print(json.dumps(injected.faults))
"""
    )
    for n in (1, 2, 3, 4, 20, 42, 43, 44, 52, 60, 90):
        assert sweep(code.format(n=n)) == 1, n
    assert sweep(code.format(n=100_000)) == 0


def test_child_caches_are_made_and_destroyed(sweep):
    figures = sweep(
        FRAMES
        + """
def with_child():
    buffers = []
    with memcg.scope("t"):
        try:
            buffers += frames.alloc_bulk(10)
            workqueue.flush()
            buffers += frames.alloc_bulk(10)
        finally:
            frames.free_bulk(buffers)

def outlives_its_group():
    buffers = []
    try:
        with memcg.scope("t"):
            buffers += frames.alloc_bulk(10)
            workqueue.flush()
            buffers += frames.alloc_bulk(10)
    finally:
        frames.free_bulk(buffers)

exhaust_all([with_child, outlives_its_group], what=CORE, all_threads=True)
"""
    )
    check(figures)


def test_caches_are_made_used_and_destroyed(sweep):
    figures = sweep("""
    def new_cache():
        with memcg.KmemCache("new", 500) as cache:
            cache.free_bulk(cache.alloc_bulk(100))
            one = cache.alloc()
            try:
                cache.destroy()
            except memcg.CacheBusy:
                cache.free(one)
            else:
                raise AssertionError("a busy cache was destroyed")

    def with_constructor():
        def construct(view):
            view[0] = 7
        with memcg.KmemCache("new", 500, ctor=construct) as cache:
            buffers = cache.alloc_bulk(100)
            assert all(memoryview(b)[0] == 7 for b in buffers)
            cache.free_bulk(buffers)

    def in_a_group():
        buffers = []
        with memcg.KmemCache("new", 500) as cache, memcg.scope("t"):
            try:
                buffers += cache.alloc_bulk(10)
                workqueue.flush()
                buffers += cache.alloc_bulk(100)
                try:
                    cache.destroy()
                except memcg.CacheBusy:
                    pass
                else:
                    raise AssertionError("a busy cache was destroyed")
            finally:
                cache.free_bulk(buffers)

    exhaust_all([new_cache, with_constructor, in_a_group], what=CORE, all_threads=True)
    """)
    check(figures)


@pytest.mark.parametrize("size", [100, 3000, 300_000])
def test_a_bulk_is_allocated_whole_or_not_at_all(sweep, size):
    figures = sweep(f"""
    cache = memcg.KmemCache("bulk", {size})
    g = memcg.group("g", max="64MiB")

    def bulk():
        with g:
            cache.free_bulk(cache.alloc_bulk(30))

    print(json.dumps(exhaust(bulk, cache="bulk")))
    """)
    assert figures == {"faults": 30, "told": 30}
