# SPDX-License-Identifier: Apache-2.0
"""Statements S73 to S76, and those of the kernel's cases P2 to P14 that the model can show."""

from __future__ import annotations

import pytest

PAGE = 4096


def test_s73_pages_are_charged_to_the_caches_group_no_matter_which_thread_frees(scheme, child_of):
    a, b = scheme.make("a"), scheme.make("b")
    child, address = child_of(a)
    assert child.nr_pages * PAGE == a.current
    with_b = scheme.frames.alloc(b)
    before = b.current
    scheme.frames.free(address)
    scheme.slab_common.kmem_cache_shrink(child)
    assert (a.current, b.current) == (0, before)
    scheme.frames.free(with_b)


def test_s74_p12_a_refused_charge_changes_no_counter(scheme):
    parent, memcg = scheme.make("p"), scheme.make("p/c")
    scheme.core.mem_cgroup_set_limit(parent, "max", 10_000)
    objects = []
    with pytest.raises(scheme.errors.MemcgOOM, match=r"group 'p/c'.*set on 'p'"):
        while True:
            objects.append(scheme.frames.alloc(memcg))
    assert 0 < memcg.current == parent.current - scheme.core.GROUP_BYTES
    assert parent.current <= 10_000
    assert parent.events["max"] == parent.events["oom"] == 1
    assert memcg.events["max"] == 0
    for address in objects:
        scheme.frames.free(address)


def test_s75_slabinfo_has_a_header_and_one_line_per_cache_of_the_group(scheme, child_of):
    memcg = scheme.make()
    _, address = child_of(memcg)
    lines = scheme.memcontrol.mem_cgroup_slabinfo_read(memcg).splitlines()
    assert lines[0] == "slabinfo - version: 2.1"
    assert lines[1].startswith("# name")
    info = scheme.frames.info()
    count = str(info.objperslab)
    line = ["frames", "1", count, "1008", count, str(info.pagesperslab)]
    assert [line.split()[:6] for line in lines[2:]] == [line]
    scheme.frames.free(address)


def test_s75_slabinfo_has_a_line_for_each_cache_of_the_group_and_no_other(scheme, child_of):
    memcg, other = scheme.make(), scheme.make("b")
    roots = [scheme.slab_common.kmem_cache_create(f"r{i}", 64 * (i + 1)) for i in range(3)]
    for group, used in ((memcg, roots), (other, [scheme.frames])):
        for root in used:
            root.free(root.alloc(group))
    scheme.work()
    lines = scheme.memcontrol.mem_cgroup_slabinfo_read(memcg).splitlines()
    assert [line.split()[0] for line in lines[2:]] == ["r0", "r1", "r2"]


def test_s76_slabinfo_of_an_inactive_group_is_a_header_alone(scheme):
    inactive = scheme.memcontrol.mem_cgroup("x", scheme.root)
    assert len(scheme.memcontrol.mem_cgroup_slabinfo_read(inactive).splitlines()) == 2


def test_p2_p5_hundred_groups_used_and_closed_leave_nothing(scheme):
    for i in range(100):
        memcg = scheme.make(f"g{i}")
        objects = [scheme.frames.alloc(memcg) for _ in range(3)]
        scheme.work()
        objects += [scheme.frames.alloc(memcg) for _ in range(3)]
        scheme.cgroup.cgroup_rmdir(memcg)
        for address in objects:
            scheme.frames.free(address)
        scheme.work()
        assert scheme.core.css_refs(memcg) == 0
    del memcg
    scheme.work()
    assert scheme.frames.shrink() >= 1
    assert scheme.root.current == scheme.before
    assert not scheme.root.children


def test_shared_slabs_charge_objects_not_pages(scheme):
    scheme.core.set_promote_bytes(1 << 30)
    memcgs = [scheme.make(f"g{i}") for i in range(50)]
    objects = [scheme.frames.alloc(m) for m in memcgs]
    assert {m.current for m in memcgs} == {scheme.frames.size}
    for address in objects:
        scheme.frames.free(address)
    assert {m.current for m in memcgs} == {0}


def test_no_group_reads_another_groups_bytes(scheme, child_of):
    a, b = scheme.make("a"), scheme.make("b")
    child, address = child_of(a)
    scheme.core.view(address, 1000)[:] = b"\xaa" * 1000
    scheme.frames.free(address)
    child.shrink()
    _, other = child_of(b)
    assert bytes(scheme.core.view(other, 1000)) == bytes(1000)
    scheme.frames.free(other)


def test_high_is_counted_and_asked_for_once_per_crossing(scheme):
    memcg = scheme.make()
    scheme.core.mem_cgroup_set_limit(memcg, "high", 1500)
    objects = [scheme.frames.alloc(memcg) for _ in range(3)]
    refs = scheme.core.css_refs(memcg)
    scheme.work()
    assert memcg.events["high"] == 1
    assert scheme.core.css_refs(memcg) <= refs
    for address in objects:
        scheme.frames.free(address)
