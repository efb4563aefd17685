# SPDX-License-Identifier: Apache-2.0
"""Children are made by several tasks at once, while groups and roots end and arrays grow."""

from __future__ import annotations

from ... import seam
from .system import System, scenario


@scenario("two threads ask for the child of one group, and two workers make it")
def concurrent_creators() -> None:
    s = System()
    s.use()
    item = s.core.next_event()
    s.core.css_get(s.a)

    def create() -> None:
        s.memcontrol.memcg_create_cache_work_func(item)

    seam.parallel(create, create)
    assert s.child(s.a) is not None
    s.finish()


@scenario("three threads ask for the child of one group, and three workers make it")
def three_creators() -> None:
    s = System()
    s.use()
    item = s.core.next_event()
    s.core.css_get(s.a)
    s.core.css_get(s.a)

    def create() -> None:
        s.memcontrol.memcg_create_cache_work_func(item)

    seam.parallel(create, create, create)
    assert s.child(s.a) is not None
    s.finish()


@scenario("two threads of one group allocate, and one worker makes the child")
def concurrent_allocations() -> None:
    s = System()

    seam.parallel(s.use, s.use)
    s.finish()
    assert s.child(s.a) is not None


@scenario("creation x the group's offline")
def creation_offline() -> None:
    s = System()
    s.use()

    seam.parallel(s.work, s.close)
    s.finish()


@scenario("creation of a group's second child x its offline")
def second_creation_offline() -> None:
    """The group has a child of one root, and a creation for another root is pending."""
    s = System()
    s.serve_empty(s.a)
    other = s.slab_common.kmem_cache_create("other", 1000)
    other.free(other.alloc(s.a))

    seam.parallel(s.work, s.close)
    s.finish()


@scenario("creation x offline x another worker, which may find the group closed")
def creation_offline_worker() -> None:
    s = System()
    s.use()

    seam.parallel(s.work, s.work, s.close)
    s.finish()


@scenario("creation x the root cache's destruction")
def creation_root_destruction() -> None:
    s = System()
    s.use()

    seam.parallel(s.work, s.destroy_frames)
    s.finish()


@scenario("a root is made x the roots are listed, as metrics do")
def root_creation_list() -> None:
    s = System()

    def list_roots() -> None:
        assert s.frames in s.slab_common.root_caches()

    seam.parallel(s.make_root, list_roots)
    s.finish()


@scenario("creation x offline x root destruction")
def creation_offline_root_destruction() -> None:
    s = System()
    s.use()

    seam.parallel(s.work, s.close, s.destroy_frames)
    s.finish()


@scenario("creation x offline x root destruction x slabinfo")
def creation_offline_root_destruction_slabinfo() -> None:
    s = System()
    s.use()

    s.core.css_get(s.a)  # the reader's reference
    seam.parallel(s.work, s.close, s.destroy_frames, s.slabinfo)
    s.core.css_put(s.a)
    s.finish()


@scenario("an allocation that starts a worker x the group's offline")
def worker_offline() -> None:
    s = System()
    s.start_worker()
    s.core.css_get(s.a)  # the user's reference, so that the group outlives its allocation

    def use() -> None:
        s.use()
        s.core.css_put(s.a)

    seam.parallel(use, s.close)
    s.workqueue.flush()
    s.finish()


@scenario("array growth x lock-free lookup")
def growth_lookup() -> None:
    s = System()
    child = s.serve_empty(s.a)

    def lookup() -> None:
        assert s.child(s.a) is child

    seam.parallel(s.grow, lookup)
    s.finish()


@scenario("array growth x creation: no slot is lost")
def growth_creation() -> None:
    s = System()
    s.use()

    seam.parallel(s.grow, s.work)
    assert s.child(s.a) is not None
    s.finish()


@scenario("array growth x creation x lock-free lookup")
def growth_creation_lookup() -> None:
    s = System()
    s.use()

    seam.parallel(s.grow, s.work, s.look_up)
    assert s.child(s.a) is not None
    s.finish()


@scenario("root creation x array growth")
def root_creation_growth() -> None:
    s = System()

    seam.parallel(s.grow, s.make_root)
    size = s.array_size()
    for root in s.slab_common.slab_caches:
        assert root.array_size >= size
    s.finish()


@scenario("two groups are activated at the same time")
def concurrent_activations() -> None:
    s = System()

    def one() -> None:
        s.mkdir("one")

    def two() -> None:
        s.mkdir("two")

    seam.parallel(one, two)
    assert set(s.memcontrol._used_ids) == {0, 1, 2}
    s.finish()


@scenario("two threads activate one group at the same time: it gets one id")
def concurrent_reactivation() -> None:
    s = System()
    group = s.cgroup.cgroup("b", s.root)

    def activate() -> None:
        s.memcontrol.memcg_activate_kmem(group)

    seam.parallel(activate, activate)
    assert set(s.memcontrol._used_ids) == {0, 1}
    assert group._kmemcg_id == 1


@scenario("two threads activate one group x creation of another group's child x lookup")
def reactivation_creation() -> None:
    s = System()
    for name in "bcd":
        s.mkdir(name)  # the arrays of four are full
    s.use()
    group = s.cgroup.cgroup("e", s.root)

    def activate() -> None:
        s.memcontrol.memcg_activate_kmem(group)

    seam.parallel(activate, activate, s.work, s.look_up)
    assert group._kmemcg_id == 4
    assert s.child(s.a) is not None
    assert s.frames.array_size > 4
    seam.quietly(s.check_registry)
