# SPDX-License-Identifier: Apache-2.0
"""What a forked child mends, where the threads that are gone were in the middle of our own work."""

from __future__ import annotations

import pytest


def children(scheme):
    return [s for s in scheme.slab_common.slab_caches if not scheme.slab_common.is_root_cache(s)]


def test_a_child_cache_that_its_maker_did_not_publish_is_dropped_with_its_reference(
    scheme, child_of
):
    memcg = scheme.make()
    refs = scheme.core.css_refs(memcg)
    with scheme.memcontrol.memcg_slab_mutex:
        assert scheme.slab_common.kmem_cache_create_memcg(memcg, scheme.frames) is not None
    assert scheme.core.css_refs(memcg) == refs + 1
    scheme.memcontrol.mem_cgroup_mend_caches()
    assert scheme.core.css_refs(memcg) == refs
    assert children(scheme) == []
    assert not memcg.memcg_slab_caches
    child, address = child_of(memcg)
    scheme.frames.free(address)
    assert children(scheme) == [child]


def test_the_end_of_a_group_that_went_offline_is_finished(scheme, child_of):
    ended, alive = scheme.make("ended"), scheme.make("alive")
    for memcg in ended, alive:
        _, address = child_of(memcg)
        scheme.frames.free(address)
    scheme.memcontrol.mem_cgroup_css_offline(ended)
    scheme.memcontrol.mem_cgroup_mend_caches()
    assert not ended.memcg_slab_caches
    assert children(scheme) == [scheme.child(scheme.frames, alive)]


def test_a_root_that_was_about_to_be_destroyed_lives_on(scheme, child_of):
    memcg = scheme.make()
    scheme.memcontrol.memcg_cache_mark_dying(scheme.frames)
    scheme.memcontrol.mem_cgroup_mend_caches()
    _, address = child_of(memcg)  # a dying root makes no child
    scheme.frames.free(address)


def post_create(scheme, child_of):
    scheme.frames.free(scheme.frames.alloc(scheme.make()))


def post_empty(scheme, child_of):
    memcg = scheme.make()
    _, address = child_of(memcg)
    scheme.cgroup.cgroup_rmdir(memcg)
    scheme.frames.free(address)


def post_release(scheme, child_of):
    scheme.cgroup.cgroup_rmdir(scheme.make())


def post_high(scheme, child_of):
    memcg = scheme.make()
    _, address = child_of(memcg)
    scheme.core.mem_cgroup_set_limit(memcg, "high", 1)
    return [address, *(scheme.frames.alloc(memcg) for _ in range(20))]


@pytest.mark.parametrize("post", [post_create, post_empty, post_release, post_high])
def test_an_event_is_settled_before_its_reference_is_dropped(scheme, child_of, monkeypatch, post):
    """Otherwise a child that is forked in between drops the reference a second time."""
    drops, kinds = [], []  # for each drop of a reference, the events in hand; what was handled
    for module in scheme.memcontrol, scheme.vmscan:

        def css_put(memcg, drop=module.css_put):
            drops.append([event for _, event in scheme.workqueue._in_hand])
            drop(memcg)

        monkeypatch.setattr(module, "css_put", css_put)
    for kind, handle in scheme.workqueue._handlers.items():

        def watched(event, handle=handle):
            drops.clear()
            handle(event)
            assert drops[-1] == []  # the event's own reference is dropped last
            kinds.append(event.kind)

        monkeypatch.setitem(scheme.workqueue._handlers, kind, watched)
    objects = post(scheme, child_of)
    scheme.work()
    for address in objects or ():
        scheme.frames.free(address)
    assert post.__name__.removeprefix("post_") in kinds
