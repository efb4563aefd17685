# SPDX-License-Identifier: Apache-2.0
"""Statements S33 to S47: lookup, activation and relocation."""

from __future__ import annotations

import threading

import pytest
from control.conftest import on_the_model


def test_s33_lookup_and_allocation_take_none_of_the_three_mutexes(scheme, child_of):
    memcg = scheme.make()
    child_of(memcg)
    done = []

    def body():
        done.append(scheme.frames.alloc(memcg))

    control = scheme.memcontrol
    with control.activate_kmem_mutex, control.memcg_slab_mutex, scheme.slab_common.slab_mutex:
        thread = threading.Thread(target=body)
        thread.start()
        thread.join(10)
    assert len(done) == 1


def test_s34_the_root_serves_the_root_group_and_a_group_without_a_child(scheme):
    a = scheme.frames.alloc(scheme.root)
    inactive = scheme.memcontrol.mem_cgroup("inactive", scheme.root)
    b = scheme.frames.alloc(inactive)
    assert scheme.frames.info().active_objs == 2
    assert scheme.core.next_event() is None
    scheme.frames.free(a)
    scheme.frames.free(b)


def test_s35_lookup_on_a_child_cache_fails_loudly(scheme, child_of):
    memcg = scheme.make()
    child, address = child_of(memcg)
    with pytest.raises(AssertionError, match="not a root"):
        child.alloc(memcg)
    scheme.frames.free(address)


@on_the_model
def test_s36_a_reader_of_a_grown_array_still_reads_the_old_one(scheme, child_of):
    memcg = scheme.make()
    child, address = child_of(memcg)
    old = scheme.frames._memcg_caches.load()
    for i in range(2 * len(old)):
        scheme.make(f"g{i}")
    assert scheme.frames.array_size > len(old)
    assert old[memcg._kmemcg_id] is child
    scheme.frames.free(address)


def test_s38_s39_s40_a_group_is_activated_any_time_and_once(scheme):
    memcg = scheme.make("a/b")
    first = memcg._kmemcg_id
    scheme.memcontrol.memcg_activate_kmem(memcg)
    assert memcg._kmemcg_id == first >= 0
    assert memcg.parent._kmemcg_id >= 0


def test_s38_a_group_that_is_entered_and_has_children_can_be_activated(scheme):
    memcg = scheme.memcontrol.mem_cgroup("x", scheme.root)
    child = scheme.memcontrol.mem_cgroup("x/y", memcg)
    with memcg:
        scheme.memcontrol.memcg_activate_kmem(memcg)
    assert scheme.memcontrol.memcg_kmem_is_active(memcg)
    assert not scheme.memcontrol.memcg_kmem_is_active(child)


def test_s39_a_group_below_an_inactive_one_is_activated(scheme):
    inactive = scheme.memcontrol.mem_cgroup("x", scheme.root)
    memcg = scheme.memcontrol.mem_cgroup("x/y", inactive)
    scheme.memcontrol.memcg_activate_kmem(memcg)
    assert not scheme.memcontrol.memcg_kmem_is_active(inactive)
    scheme.frames.free(scheme.frames.alloc(memcg))
    scheme.work()
    assert scheme.child(scheme.frames, memcg) is not None


def test_s41_s43_a_failed_relocation_leaves_the_group_inactive_and_the_rest_working(
    scheme, monkeypatch
):
    scheme.slab_common.kmem_cache_create("second", 64)
    update, calls = scheme.memcontrol.memcg_update_cache_size, []

    def fail_on_the_second_root(s, n):
        calls.append(s)
        if len(calls) == 2:
            raise MemoryError("injected")
        update(s, n)

    size = scheme.memcontrol.memcg_limited_groups.array_size
    ids = dict(scheme.memcontrol._used_ids)
    monkeypatch.setattr(scheme.memcontrol, "memcg_update_cache_size", fail_on_the_second_root)
    with pytest.raises(MemoryError):
        scheme.make("fails")
    assert scheme.memcontrol.memcg_limited_groups.array_size == size
    assert scheme.memcontrol._used_ids == ids
    assert "fails" not in scheme.root.children
    monkeypatch.undo()
    memcg = scheme.make("works")
    scheme.frames.free(scheme.frames.alloc(memcg))


def test_s42_arrays_double_within_their_bounds(scheme):
    size = scheme.memcontrol.memcg_caches_array_size
    low, high = scheme.memcontrol.MEMCG_CACHES_MIN_SIZE, scheme.memcontrol.MEMCG_CACHES_MAX_SIZE
    assert [size(1), size(low), size(100), size(high)] == [low, 2 * low, 200, high]
    before = scheme.frames.array_size
    for i in range(before):
        scheme.make(f"g{i}")
    assert scheme.frames.array_size == before


def test_s44_s45_the_id_is_set_only_after_relocation(scheme, monkeypatch):
    seen = []
    update = scheme.slab_common.memcg_update_all_caches
    memcg = scheme.memcontrol.mem_cgroup("x", scheme.root)

    def spy(n):
        seen.append(memcg._kmemcg_id)
        update(n)

    monkeypatch.setattr(scheme.slab_common, "memcg_update_all_caches", spy)
    scheme.memcontrol.memcg_activate_kmem(memcg)
    assert seen == [-1]
    assert memcg._kmemcg_id >= 0


def test_s46_creators_racing_with_relocation_lose_no_slot(scheme):
    scheme.core.set_waker(scheme.workqueue.wake)
    memcgs = [scheme.make(f"m{i}") for i in range(8)]
    start, objects = threading.Barrier(3), []

    def create():
        start.wait()
        objects.extend(scheme.frames.alloc(m) for m in memcgs)

    def relocate():
        start.wait()
        for i in range(60):
            scheme.make(f"grow{i}")

    threads = [threading.Thread(target=f) for f in (create, relocate)]
    for thread in threads:
        thread.start()
    start.wait()
    for thread in threads:
        thread.join()
    scheme.workqueue.flush()
    assert all(scheme.child(scheme.frames, m) is not None for m in memcgs)
    for address in objects:
        scheme.frames.free(address)


def test_s47_a_root_made_after_relocation_has_an_array_of_the_current_size(scheme):
    for i in range(9):
        scheme.make(f"g{i}")
    late = scheme.slab_common.kmem_cache_create("late", 64)
    assert late.array_size == scheme.frames.array_size >= 9
