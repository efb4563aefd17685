# SPDX-License-Identifier: Apache-2.0
"""Statements S48 to S72 and D1 to D7: destruction of children, of groups and of roots."""

from __future__ import annotations

import threading

import pytest
from control.conftest import on_the_model


def test_s48_destroying_a_root_as_a_child_fails_loudly(scheme):
    with scheme.memcontrol.memcg_slab_mutex, pytest.raises(AssertionError, match="not a child"):
        scheme.memcontrol.memcg_kmem_destroy_cache(scheme.frames)


@on_the_model
def test_s49_destroying_a_child_that_is_not_in_its_slot_fails_loudly(scheme, child_of):
    memcg = scheme.make()
    child, address = child_of(memcg)
    scheme.frames.free(address)
    slots = scheme.frames._memcg_caches.load()
    slots[memcg._kmemcg_id] = None
    with scheme.memcontrol.memcg_slab_mutex, pytest.raises(AssertionError, match="not in its slot"):
        scheme.memcontrol.memcg_kmem_destroy_cache(child)
    slots[memcg._kmemcg_id] = child


def test_s50_s51_a_destroyed_child_is_in_no_slot_and_no_list_and_put_its_reference(
    scheme, child_of
):
    memcg = scheme.make()
    child, address = child_of(memcg)
    scheme.frames.free(address)
    refs = scheme.core.css_refs(memcg)
    with scheme.memcontrol.memcg_slab_mutex:
        scheme.memcontrol.memcg_kmem_destroy_cache(child)
    assert scheme.child(scheme.frames, memcg) is None
    assert child not in memcg.memcg_slab_caches
    assert child not in scheme.slab_common.slab_caches
    assert scheme.core.css_refs(memcg) == refs - 1


def test_s50_a_busy_child_is_refused_and_stays_registered(scheme, child_of):
    memcg = scheme.make()
    child, address = child_of(memcg)
    busy = pytest.raises(scheme.errors.CacheBusy, match="1 objects")
    with scheme.memcontrol.memcg_slab_mutex, busy:
        scheme.memcontrol.memcg_kmem_destroy_cache(child)
    assert scheme.child(scheme.frames, memcg) is child
    assert child in memcg.memcg_slab_caches
    scheme.frames.free(address)
    with scheme.memcontrol.memcg_slab_mutex:
        scheme.memcontrol.memcg_kmem_destroy_cache(child)
    assert scheme.child(scheme.frames, memcg) is None


@on_the_model
def test_s52_s71_d4_destruction_waits_for_a_reader_that_looked_the_child_up(scheme, child_of):
    memcg = scheme.make()
    child, address = child_of(memcg)
    scheme.frames.free(address)
    inside, leave, destroyed = threading.Event(), threading.Event(), threading.Event()

    def reader():
        with scheme.model.read_side:
            assert scheme.child(scheme.frames, memcg) is child
            inside.set()
            assert leave.wait(10)
            assert not destroyed.is_set()

    def destroyer():
        scheme.cgroup.cgroup_rmdir(memcg)
        destroyed.set()

    threads = [threading.Thread(target=reader), threading.Thread(target=destroyer)]
    threads[0].start()
    assert inside.wait(10)
    threads[1].start()
    assert not destroyed.wait(0.05)  # without the wait it would end long before this
    leave.set()
    for thread in threads:
        thread.join(10)
    assert destroyed.is_set()


def test_s53_the_offline_of_an_inactive_group_finds_nothing_to_do(scheme, child_of):
    child, address = child_of(scheme.make())
    inactive = scheme.memcontrol.mem_cgroup("x", scheme.root)
    scheme.memcontrol.mem_cgroup_css_offline(inactive)
    scheme.memcontrol.mem_cgroup_destroy_all_caches(inactive)
    assert not inactive.online
    assert child in scheme.slab_common.slab_caches
    scheme.frames.free(address)


def test_s54_s55_offline_destroys_every_empty_child_at_once(scheme):
    memcg = scheme.make()
    roots = [scheme.slab_common.kmem_cache_create(f"r{i}", 64) for i in range(5)]
    for root in roots:
        root.free(root.alloc(memcg))
    scheme.work()
    assert len(memcg.memcg_slab_caches) == 5
    scheme.cgroup.cgroup_rmdir(memcg)
    assert not memcg.memcg_slab_caches
    assert all(root.from_memcg_idx(memcg._kmemcg_id) is None for root in roots)


def test_s56_s57_a_busy_child_is_dead_charged_to_the_parent_and_gone_with_its_last_object(
    scheme, child_of
):
    parent, memcg = scheme.make("p"), scheme.make("p/c")
    child, address = child_of(memcg)
    scheme.cgroup.cgroup_rmdir(memcg)
    assert memcg.current == 0
    of_memcg = scheme.core.GROUP_BYTES  # until its last reference is dropped
    assert parent.current == child.nr_pages * scheme.core.PAGE_SIZE + of_memcg > of_memcg
    assert scheme.child(scheme.frames, memcg) is child
    scheme.frames.free(address)
    scheme.work()
    assert scheme.child(scheme.frames, memcg) is None
    assert parent.current == of_memcg
    assert scheme.core.css_refs(memcg) == 0


def test_s58_charges_of_nested_closed_groups_reach_the_nearest_group_alive(scheme, child_of):
    scheme.make("p")
    memcg = scheme.make("p/q/r")
    child, address = child_of(memcg)
    for path in ("p/q/r", "p/q", "p"):
        scheme.cgroup.cgroup_rmdir(scheme.cgroup.cgroup_find(scheme.root, path))
    of_groups = 3 * scheme.core.GROUP_BYTES  # the lowest holds references to the others
    pages = child.nr_pages * scheme.core.PAGE_SIZE
    assert scheme.root.current == scheme.before + pages + of_groups
    scheme.frames.free(address)
    scheme.work()
    assert scheme.root.current == scheme.before + of_groups


def test_s58_charges_alone_hold_no_reference_to_a_closed_group(scheme):
    parent, memcg = scheme.make("p"), scheme.make("p/c")
    address = scheme.frames.alloc(memcg)
    charged = memcg.current
    assert charged >= scheme.frames.object_size
    before = parent.current
    scheme.cgroup.cgroup_rmdir(memcg)
    scheme.work()  # the pending item makes no child and drops its reference
    assert scheme.child(scheme.frames, memcg) is None
    assert memcg not in scheme.memcontrol.dying  # its last reference was dropped
    assert (memcg.current, parent.current) == (0, before)
    scheme.frames.free(address)
    assert parent.current == before - charged


def test_s59_charges_are_the_parents_before_the_caches_go(scheme, child_of, monkeypatch):
    memcg, seen = scheme.make(), []
    child, address = child_of(memcg)
    destroy = scheme.memcontrol.mem_cgroup_destroy_all_caches

    def spy(group):
        seen.append((group.online, group.current, child in group.memcg_slab_caches))
        destroy(group)

    for module in (scheme.memcontrol, scheme.cgroup):
        monkeypatch.setattr(module, "mem_cgroup_destroy_all_caches", spy)
    scheme.cgroup.cgroup_rmdir(memcg)
    assert seen == [(False, 0, True)]
    scheme.frames.free(address)
    scheme.work()


def test_s59_a_group_takes_no_reference_once_offline(scheme):
    memcg = scheme.make()
    assert scheme.core.css_tryget(memcg)
    scheme.core.css_put(memcg)
    scheme.cgroup.cgroup_rmdir(memcg)
    assert not scheme.core.css_tryget(memcg)


def test_s6_a_root_is_dying_and_has_no_children_when_slab_mutex_is_taken_for_it(
    scheme, child_of, monkeypatch
):
    memcg = scheme.make()
    _, address = child_of(memcg)
    scheme.frames.free(address)
    seen, mutex = [], scheme.slab_common.slab_mutex

    class Spy:
        """Replaces ``slab_mutex`` and looks at the root each time that it is taken."""

        def __enter__(self):
            seen.append((scheme.frames.dying, scheme.child(scheme.frames, memcg) is None))
            mutex.__enter__()

        def __exit__(self, *exc):
            mutex.__exit__(*exc)

        def held(self):
            return mutex.held()

    monkeypatch.setattr(scheme.slab_common, "slab_mutex", Spy())
    scheme.slab_common.kmem_cache_destroy(scheme.frames)
    monkeypatch.undo()
    assert seen == [(True, False), (True, True)]  # one for the child and one for the root


def test_s61_s63_s64_s67_d3_a_root_with_a_busy_child_is_refused_with_the_count_and_stays_usable(
    scheme, child_of
):
    memcg = scheme.make()
    child, address = child_of(memcg)
    for _ in range(2):  # a refusal changes nothing
        with pytest.raises(scheme.errors.CacheBusy, match="1 child caches"):
            scheme.slab_common.kmem_cache_destroy(scheme.frames)
        assert scheme.child(scheme.frames, memcg) is child
        assert not scheme.frames.dying
    again = scheme.frames.alloc(memcg)
    scheme.frames.free(again)
    scheme.frames.free(address)
    scheme.slab_common.kmem_cache_destroy(scheme.frames)
    assert scheme.frames not in scheme.slab_common.slab_caches


def test_s61_the_children_in_every_slot_are_destroyed_or_counted(scheme, child_of):
    groups = [scheme.make(f"g{i}") for i in range(scheme.memcontrol.MEMCG_CACHES_MIN_SIZE)]
    assert [g._kmemcg_id for g in groups] == [*range(scheme.frames.array_size)]
    made = [child_of(g) for g in groups]
    busy = (0, 2)  # the last slot's child is empty, and so is one between two busy ones
    for i, (_, address) in enumerate(made):
        if i not in busy:
            scheme.frames.free(address)
    with pytest.raises(scheme.errors.CacheBusy, match="2 child caches"):
        scheme.slab_common.kmem_cache_destroy(scheme.frames)
    left = [scheme.child(scheme.frames, g) is not None for g in groups]
    assert left == [i in busy for i in range(len(groups))]
    scheme.frames.free(made[0][1])
    with pytest.raises(scheme.errors.CacheBusy, match="1 child caches"):
        scheme.slab_common.kmem_cache_destroy(scheme.frames)
    scheme.frames.free(made[2][1])
    scheme.slab_common.kmem_cache_destroy(scheme.frames)


def test_s66_a_root_with_objects_of_its_own_is_refused_and_stays(scheme):
    address = scheme.frames.alloc(scheme.root)
    with pytest.raises(scheme.errors.CacheBusy, match="1 objects"):
        scheme.slab_common.kmem_cache_destroy(scheme.frames)
    assert scheme.frames in scheme.slab_common.slab_caches
    scheme.frames.free(address)
    scheme.slab_common.kmem_cache_destroy(scheme.frames)


def test_p35_destroying_twice_is_an_error(scheme):
    scheme.slab_common.kmem_cache_destroy(scheme.frames)
    with pytest.raises(scheme.errors.MemcgError, match="destroyed already"):
        scheme.slab_common.kmem_cache_destroy(scheme.frames)
    assert scheme.frames.dying  # so that no child is made for it


def test_s68_d7_a_cache_created_while_another_of_its_shape_dies_is_a_new_one(scheme, monkeypatch):
    made = []
    flush = scheme.workqueue.flush

    def create_in_the_window():
        made.append(scheme.slab_common.kmem_cache_create("twin", 1000))
        flush()

    monkeypatch.setattr(scheme.workqueue, "flush", create_in_the_window)
    scheme.slab_common.kmem_cache_destroy(scheme.frames)
    monkeypatch.undo()
    (twin,) = made
    assert twin is not scheme.frames
    twin.free(twin.alloc(scheme.root))


def test_s69_offline_and_root_destruction_of_the_same_child_exclude_each_other(scheme, child_of):
    for i in range(20):
        root = scheme.slab_common.kmem_cache_create(f"r{i}", 64)
        memcg = scheme.make(f"g{i}")
        root.free(root.alloc(memcg))
        scheme.work()
        start, raised = threading.Barrier(2), []

        def body(fn, arg, start=start, raised=raised):
            start.wait()
            try:
                fn(arg)
            except BaseException as error:
                raised.append(error)

        threads = [
            threading.Thread(target=body, args=(scheme.cgroup.cgroup_rmdir, memcg)),
            threading.Thread(target=body, args=(scheme.slab_common.kmem_cache_destroy, root)),
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        scheme.work()
        assert raised == []
        assert root not in scheme.slab_common.slab_caches
        assert scheme.core.css_refs(memcg) == 0


def test_s65_s72_caches_are_never_merged_so_destroying_one_leaves_its_twin(scheme):
    twin = scheme.slab_common.kmem_cache_create("frames", 1000)
    assert twin is not scheme.frames
    assert (twin.refcount, scheme.frames.refcount) == (1, 1)
    scheme.slab_common.kmem_cache_destroy(twin)
    assert twin not in scheme.slab_common.slab_caches
    assert scheme.frames in scheme.slab_common.slab_caches
    scheme.frames.free(scheme.frames.alloc(scheme.root))


def test_s62_root_destruction_does_not_wait_for_activate_kmem_mutex(scheme, child_of):
    _, address = child_of(scheme.make())
    scheme.frames.free(address)
    thread = threading.Thread(target=scheme.slab_common.kmem_cache_destroy, args=(scheme.frames,))
    with scheme.memcontrol.activate_kmem_mutex:
        thread.start()
        thread.join(10)
        assert not thread.is_alive()
    assert scheme.frames not in scheme.slab_common.slab_caches


def test_r11_an_id_is_reused_only_when_nothing_refers_to_the_old_group(scheme, child_of):
    old = scheme.make("old")
    _, address = child_of(old)
    scheme.cgroup.cgroup_rmdir(old)
    assert scheme.make("new")._kmemcg_id != old._kmemcg_id
    scheme.frames.free(address)
    scheme.work()
    assert scheme.make("newer")._kmemcg_id == old._kmemcg_id


def test_ids_that_are_free_are_given_out_once_each(scheme):
    groups = [scheme.make(f"g{i}") for i in range(4)]
    for group in (groups[0], groups[2], groups[1]):
        scheme.cgroup.cgroup_rmdir(group)
        scheme.work()
    alive = [groups[3], *(scheme.make(f"new{i}") for i in range(3))]
    assert {g._kmemcg_id for g in alive} == {0, 1, 2, 3}
    assert not scheme.memcontrol._freed_ids


def test_an_id_that_is_used_and_returned_again_and_again_is_kept_once(scheme):
    for _ in range(100):
        scheme.cgroup.cgroup_rmdir(scheme.make("brief"))
        scheme.work()
    assert len(scheme.memcontrol._freed_ids) == 1


@pytest.fixture
def interrupted_wait(scheme, monkeypatch):
    """Interrupt the thread that waits for an uninterrupted call. The call itself goes on."""

    class Interrupted(scheme.workqueue.Event):
        def wait(self):
            if self.name == "uninterrupted":
                raise KeyboardInterrupt
            return super().wait()

    monkeypatch.setattr(scheme.workqueue, "Event", Interrupted)


def test_r18_a_close_whose_caller_is_interrupted_goes_on_to_its_end(
    scheme, child_of, interrupted_wait
):
    memcg = scheme.make()
    _, address = child_of(memcg)
    scheme.frames.free(address)
    with pytest.raises(KeyboardInterrupt):
        scheme.cgroup.cgroup_rmdir(memcg)
    scheme.settle()
    assert scheme.make() is not memcg
    scheme.work()
    assert scheme.core.css_refs(memcg) == 0
    assert not memcg.memcg_slab_caches


def test_d2_a_root_destruction_whose_caller_is_interrupted_goes_on_to_its_end(
    scheme, child_of, interrupted_wait
):
    memcg = scheme.make()
    _, address = child_of(memcg)
    scheme.frames.free(address)
    with pytest.raises(KeyboardInterrupt):
        scheme.slab_common.kmem_cache_destroy(scheme.frames)
    scheme.settle()
    assert scheme.frames not in scheme.slab_common.slab_caches
    assert not memcg.memcg_slab_caches
