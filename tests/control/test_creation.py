# SPDX-License-Identifier: Apache-2.0
"""Statements S12 to S32: creation and publication."""

from __future__ import annotations

import threading

import pytest
from control.conftest import on_the_model


def children(scheme):
    return [s for s in scheme.slab_common.slab_caches if not scheme.slab_common.is_root_cache(s)]


def test_s12_the_first_allocation_is_served_by_the_root_and_the_child_is_created_later(scheme):
    memcg = scheme.make()
    address = scheme.frames.alloc(memcg)
    assert scheme.child(scheme.frames, memcg) is None
    assert scheme.frames.info().active_objs == 1
    scheme.work()
    assert scheme.child(scheme.frames, memcg) is not None
    scheme.frames.free(address)


@on_the_model  # natively a user's cache promotes at once; native/tests has the threshold
def test_s12_below_the_threshold_no_child_is_asked_for(scheme):
    scheme.core.set_promote_bytes(2 * scheme.frames.size)
    memcg = scheme.make()
    objects = [scheme.frames.alloc(memcg) for _ in range(2)]
    assert scheme.core.next_event() is None
    objects.append(scheme.frames.alloc(memcg))
    scheme.work()
    assert scheme.child(scheme.frames, memcg) is not None
    for address in objects:
        scheme.frames.free(address)


def test_s12_a_refused_allocation_asks_for_no_child(scheme):
    memcg = scheme.make()
    scheme.core.mem_cgroup_set_limit(memcg, "max", 0)
    with pytest.raises(scheme.errors.MemcgOOM):
        scheme.frames.alloc(memcg)
    assert scheme.core.next_event() is None
    scheme.core.mem_cgroup_set_limit(memcg, "max", 1 << 30)
    address = scheme.frames.alloc(memcg)
    scheme.work()
    assert scheme.child(scheme.frames, memcg) is not None
    scheme.frames.free(address)


def test_s13_a_second_item_for_a_taken_slot_builds_nothing(scheme, child_of):
    memcg = scheme.make()
    child, address = child_of(memcg)
    with scheme.memcontrol.memcg_slab_mutex:
        scheme.memcontrol.memcg_kmem_create_cache(memcg, scheme.frames)
    assert scheme.child(scheme.frames, memcg) is child
    assert children(scheme) == [child]
    scheme.frames.free(address)


def test_s14_racing_first_allocations_make_exactly_one_child(scheme):
    scheme.core.set_waker(scheme.workqueue.wake)
    memcg = scheme.make()
    start, addresses = threading.Barrier(8), []

    def body():
        start.wait()
        addresses.extend(scheme.frames.alloc(memcg) for _ in range(20))

    threads = [threading.Thread(target=body) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    scheme.workqueue.flush()
    assert len(children(scheme)) == 1
    assert len(set(addresses)) == 160
    for address in addresses:
        scheme.frames.free(address)


def test_r16_one_item_is_pending_per_root_and_group(scheme):
    memcg = scheme.make()
    objects = [scheme.frames.alloc(memcg) for _ in range(5)]
    assert scheme.core.next_event() is not None
    assert scheme.core.next_event() is None
    scheme.core.css_put(memcg)  # the reference of the item taken above
    for address in objects:
        scheme.frames.free(address)


@pytest.fixture
def no_memory(scheme, monkeypatch):
    def fail(*args):
        raise MemoryError("injected")

    monkeypatch.setattr(scheme.slab_common, "do_kmem_cache_create", fail)
    yield scheme
    monkeypatch.undo()


def test_s15_s18_s19_a_failed_creation_is_silent_and_leaks_nothing(no_memory):
    memcg = no_memory.make()
    refs = no_memory.core.css_refs(memcg)
    address = no_memory.frames.alloc(memcg)
    no_memory.work()
    assert no_memory.child(no_memory.frames, memcg) is None
    assert no_memory.core.css_refs(memcg) == refs
    assert children(no_memory) == []
    no_memory.frames.free(address)


def test_s16_after_a_failure_a_later_allocation_asks_again(no_memory, monkeypatch):
    memcg = no_memory.make()
    objects = [no_memory.frames.alloc(memcg)]
    no_memory.work()
    monkeypatch.undo()
    objects.append(no_memory.frames.alloc(memcg))
    no_memory.work()
    assert no_memory.child(no_memory.frames, memcg) is not None
    for address in objects:
        no_memory.frames.free(address)


def test_s17_a_failed_name_returns_nothing_and_releases_slab_mutex(scheme, monkeypatch):
    def fail(*args):
        raise MemoryError("injected")

    monkeypatch.setattr(scheme.slab_common, "memcg_create_cache_name", fail)
    assert scheme.slab_common.kmem_cache_create_memcg(scheme.make(), scheme.frames) is None
    assert not scheme.slab_common.slab_mutex.held()


def leave_as_it_is(view):
    pass


def test_s20_s21_s22_the_child_inherits_from_its_root_and_is_on_slab_caches(scheme, child_of):
    memcg = scheme.make("t/x")
    root = scheme.frames = scheme.slab_common.kmem_cache_create("frames", 1000, 256, leave_as_it_is)
    child, address = child_of(memcg)
    assert (root.align, root.ctor) == (256, leave_as_it_is)  # and not what is there by default
    assert address % 256 == 0
    assert (child.object_size, child.size, child.align, child.ctor) == (
        root.object_size, root.size, root.align, root.ctor,
    )  # fmt: skip
    assert child.name == f"frames({memcg._kmemcg_id}:t/x)"
    assert child.refcount == 1
    assert child in scheme.slab_common.slab_caches
    root.free(address)


def test_s23_s24_s25_a_child_is_complete_and_listed_before_it_is_published(scheme, monkeypatch):
    memcg, seen = scheme.make(), []
    publish = scheme.frames.publish

    def spy(kmemcg_id, child, listed):
        seen.append((child in scheme.slab_common.slab_caches, child.refcount))
        seen.append(scheme.child(scheme.frames, memcg))
        publish(kmemcg_id, child, listed)
        with pytest.raises(AssertionError, match="taken"):
            publish(kmemcg_id, child, listed)

    monkeypatch.setattr(scheme.frames, "publish", spy)
    address = scheme.frames.alloc(memcg)
    scheme.work()
    assert seen == [(True, 1), None]
    assert list(memcg.memcg_slab_caches) == [scheme.child(scheme.frames, memcg)]
    scheme.frames.free(address)


@on_the_model  # natively the list is written by C
def test_s23_when_a_child_is_listed_its_slot_is_still_empty(scheme):
    memcg, seen = scheme.make(), []

    class Listed(dict):
        def __setitem__(self, child, value):
            seen.append(scheme.child(scheme.frames, memcg))
            super().__setitem__(child, value)

    memcg.memcg_slab_caches = Listed()
    address = scheme.frames.alloc(memcg)
    scheme.work()
    assert seen == [None]
    assert scheme.child(scheme.frames, memcg) in memcg.memcg_slab_caches
    scheme.frames.free(address)


def test_s26_the_item_drops_its_reference_if_the_creation_raises(scheme, monkeypatch):
    def fail(*args):
        raise RuntimeError("injected")

    memcg = scheme.make()
    monkeypatch.setattr(scheme.slab_common, "kmem_cache_create_memcg", fail)
    refs = scheme.core.css_refs(memcg)
    address = scheme.frames.alloc(memcg)
    item = scheme.core.next_event()
    with pytest.raises(RuntimeError, match="injected"):
        scheme.memcontrol.memcg_create_cache_work_func(item)
    assert scheme.core.css_refs(memcg) == refs
    scheme.frames.free(address)


def test_a_group_asks_for_no_second_child_while_the_first_is_made(scheme, monkeypatch):
    memcg, seen = scheme.make(), []
    make = scheme.slab_common.kmem_cache_create_memcg

    def allocate_meanwhile(*args):
        scheme.frames.free(scheme.frames.alloc(memcg))
        seen.append(scheme.core.next_event())
        return make(*args)

    scheme.frames.free(scheme.frames.alloc(memcg))
    item = scheme.core.next_event()
    monkeypatch.setattr(scheme.slab_common, "kmem_cache_create_memcg", allocate_meanwhile)
    scheme.memcontrol.memcg_create_cache_work_func(item)
    assert seen == [None]


def test_a_root_is_listed_only_when_it_has_its_array(scheme, monkeypatch):
    def fail(self, n):
        raise MemoryError("injected")

    before = list(scheme.slab_common.slab_caches)
    monkeypatch.setattr(scheme.slab_common.kmem_cache, "update_array", fail)
    with pytest.raises(MemoryError, match="injected"):
        scheme.slab_common.kmem_cache_create("late", 64)
    assert list(scheme.slab_common.slab_caches) == before


@pytest.mark.parametrize("works", [True, False])
def test_s26_the_item_drops_its_reference_whether_or_not_creation_worked(
    scheme, monkeypatch, works
):
    memcg = scheme.make()
    if not works:
        monkeypatch.setattr(scheme.slab_common, "kmem_cache_create_memcg", lambda *a: None)
    refs = scheme.core.css_refs(memcg)
    address = scheme.frames.alloc(memcg)
    assert scheme.core.css_refs(memcg) == refs + 1
    scheme.work()
    assert scheme.core.css_refs(memcg) == refs + works  # the child's own reference
    scheme.frames.free(address)


def test_s27_nothing_is_scheduled_for_a_group_that_is_offline(scheme):
    memcg = scheme.make()
    scheme.cgroup.cgroup_rmdir(memcg)
    scheme.work()
    address = scheme.frames.alloc(memcg)
    assert scheme.core.next_event() is None
    assert scheme.root.current > scheme.before  # the root served it and is charged
    scheme.frames.free(address)


@on_the_model  # natively nothing is allocated for an item
def test_s28_without_memory_for_the_item_the_root_serves_and_a_later_allocation_asks_again(
    scheme, monkeypatch
):
    memcg = scheme.make()
    refs = scheme.core.css_refs(memcg)

    def fail(event):
        raise MemoryError("injected")

    monkeypatch.setattr(scheme.model, "_post", fail)
    scheme.frames.free(scheme.frames.alloc(memcg))
    assert scheme.core.css_refs(memcg) == refs
    monkeypatch.undo()
    assert scheme.core.next_event() is None
    scheme.frames.free(scheme.frames.alloc(memcg))
    scheme.work()
    assert scheme.child(scheme.frames, memcg) is not None


@on_the_model
def test_s28_without_a_thread_for_the_worker_an_allocation_goes_on(scheme):
    memcg = scheme.make()
    scheme.workqueue.spawn = refuse
    scheme.core.set_waker(scheme.workqueue.wake)
    scheme.frames.free(scheme.frames.alloc(memcg))
    assert scheme.child(scheme.frames, memcg) is None
    scheme.workqueue.spawn = scheme.locking.spawn
    scheme.cgroup.cgroup_rmdir(scheme.make("b"))  # its release is posted, which wakes a worker
    scheme.workqueue.flush()
    assert scheme.child(scheme.frames, memcg) is not None
    scheme.core.set_waker(None)


def refuse(fn, name):
    raise RuntimeError("can't start new thread")


def test_s29_s30_s31_unaccounted_work_is_nestable_and_asks_for_nothing(scheme):
    memcg = scheme.make()
    scheme.core.mem_cgroup_set_limit(memcg, "max", 0)
    scheme.core.stop_account()
    scheme.core.stop_account()
    scheme.core.resume_account()
    address = scheme.frames.alloc(memcg)
    scheme.core.resume_account()
    assert scheme.core.next_event() is None
    assert memcg.current == 0
    scheme.frames.free(address)
    with pytest.raises(scheme.errors.MemcgOOM):
        scheme.frames.alloc(memcg)


def test_s32_a_thread_is_charged_to_the_group_it_was_bound_to_else_to_the_root(scheme):
    memcg, charged = scheme.make(), []

    def body(bound):
        if bound:
            with memcg:
                address = scheme.frames.alloc()
        else:
            address = scheme.frames.alloc()
        charged.append((memcg.current > 0, address))

    with memcg:  # a thread inherits nothing
        for bound in (False, True):
            thread = threading.Thread(target=body, args=(bound,))
            thread.start()
            thread.join()
    assert [to_the_group for to_the_group, _ in charged] == [False, True]
    assert scheme.root.current > scheme.before
    for _, address in charged:
        scheme.frames.free(address)


def test_s27_s60_d1_an_item_pending_at_offline_makes_no_child(scheme):
    memcg = scheme.make()
    address = scheme.frames.alloc(memcg)
    scheme.cgroup.cgroup_rmdir(memcg)
    scheme.work()
    assert children(scheme) == []
    scheme.frames.free(address)
    scheme.work()
    assert scheme.core.css_refs(memcg) == 0


def test_s62_s70_d2_destroying_a_root_flushes_its_pending_item(scheme):
    memcg = scheme.make()
    scheme.frames.free(scheme.frames.alloc(memcg))
    refs = scheme.core.css_refs(memcg)
    scheme.slab_common.kmem_cache_destroy(scheme.frames)
    assert scheme.core.next_event() is None
    assert children(scheme) == []
    assert scheme.core.css_refs(memcg) == refs - 1
