# SPDX-License-Identifier: Apache-2.0
"""A closed group that holds nothing is kept, and is the next one under its parent."""

from __future__ import annotations

import contextvars
import weakref

import pytest
from control.interrupt import Interrupt

import memcg
from memcg import core
from memcg.control import cgroup, memcontrol, workqueue


@pytest.fixture
def tenant(native):
    """Yield a group without spare groups below it. It is closed at the end."""
    group = memcg.group("tenant")
    yield group
    group.close(recursive=True)


def closed_id(path, **limits):
    """Make a group, close it, forget it, and return its id."""
    group = memcg.group(path, **limits)
    group.close()
    return group._kmemcg_id


def test_the_next_group_below_the_same_parent_gets_the_structure_of_a_closed_one(tenant):
    first = closed_id("tenant/a")
    assert tenant._nr_spare == 1
    assert memcg.group("tenant/b")._kmemcg_id == first
    assert tenant._nr_spare == 0


def test_a_group_below_another_parent_does_not(tenant):
    first = closed_id("tenant/a")
    other = memcg.group("other/a")
    assert other._kmemcg_id != first
    other.parent.close(recursive=True)


def test_a_closed_group_that_the_program_still_has_stays_closed(tenant):
    old = memcg.group("tenant/a", max="3MiB")
    old.close()
    assert memcg.group("tenant/a") is not old
    assert (old.online, old.path, old.max) == (False, "tenant/a", 3 << 20)
    with pytest.raises(memcg.OfflineError):
        old.__enter__()


def test_a_closed_group_to_which_a_weak_reference_points_does_not_begin_anew(tenant):
    old = memcg.group("tenant/a")
    reference = weakref.ref(old)
    old.close()
    del old
    memcg.group("tenant/b")
    assert not reference().online


def test_a_closed_group_that_a_context_names_does_not_begin_anew(tenant):
    old = memcg.group("tenant/a")
    with old:
        context = contextvars.copy_context()
    assert old.nr_inside == 0
    old.close()
    number = old._kmemcg_id
    del old
    new = memcg.group("tenant/b")
    assert new._kmemcg_id != number
    assert context.run(memcg.current).path != "tenant/b"


def test_a_closed_group_in_which_another_was_entered_begins_anew(tenant):
    """A web server is entered like this, in the middle of a request's group."""
    outer = memcg.group("outer")
    old = memcg.group("tenant/a")
    with old, outer:
        pass
    old.close()
    number = old._kmemcg_id
    del old
    assert memcg.group("tenant/b")._kmemcg_id == number
    outer.close()


def test_closing_the_parent_lets_go_of_the_spare_groups(native):
    parent = memcg.group("parent")
    numbers = {closed_id(f"parent/{i}") for i in range(3)}
    assert parent._nr_spare == 1
    assert len(numbers) == 1
    parent.close()
    workqueue.flush()
    assert not numbers & set(memcontrol._used_ids)
    assert core.css_refs(parent) == 0


def test_spare_groups_are_let_go_of_under_the_mutex_only(tenant):
    closed_id("tenant/a")
    with pytest.raises(AssertionError, match="cgroup_mutex"):
        cgroup.__drop_spare(tenant, 0)
    assert tenant._nr_spare == 1


def test_reclaim_lets_go_of_the_spare_groups(tenant):
    number = closed_id("tenant/a")
    tenant.reclaim()
    assert tenant._nr_spare == 0
    workqueue.flush()
    assert number not in memcontrol._used_ids


def test_a_bounded_number_is_kept(tenant):
    held = [memcg.group(f"tenant/{i}") for i in range(100)]
    numbers = {group._kmemcg_id for group in held}
    kept = []
    for group in held:
        group.close()
        kept.append(tenant._nr_spare)
    most = cgroup.NR_SPARE
    assert kept == [
        n + 1 if n < most else most // 2 + (n - most) % (most // 2 + 1) for n in range(100)
    ]
    workqueue.flush()
    assert len(numbers & set(memcontrol._used_ids)) == tenant._nr_spare


def test_a_limit_above_that_has_no_room_for_a_group_refuses_the_spare_one_too(tenant):
    number = closed_id("tenant/a")
    tenant.max = 0
    with pytest.raises(memcg.MemcgOOM):
        memcg.group("tenant/b")
    assert "b" not in tenant.children
    tenant.max = None
    assert memcg.group("tenant/b")._kmemcg_id == number


def test_an_interrupt_anywhere_in_making_or_closing_leaves_the_tree_whole(tenant):
    def interrupt():
        raise KeyboardInterrupt

    n = 0
    while True:
        n += 1
        try:
            with Interrupt(n, interrupt):
                memcg.group("tenant/a")
                memcg.group("tenant/a").close()
            break
        except KeyboardInterrupt:
            pass
        for name, group in tenant.children.items():
            assert (group.name, group.parent) == (name, tenant)
        memcg.group("tenant/a").close()
        assert "a" not in tenant.children
        workqueue.flush()
        spare = tenant._nr_spare
        assert core.css_refs(tenant) == 1 + spare
    assert n > 10
