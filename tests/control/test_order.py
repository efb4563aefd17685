# SPDX-License-Identifier: Apache-2.0
"""Statements S1 to S11: the lock order."""

from __future__ import annotations

import ast
import itertools

import pytest
from control.conftest import on_the_model

from memcg.locking import lockdep

ORDER = ["cgroup_mutex", "activate_kmem_mutex", "memcg_slab_mutex", "slab_mutex"]


class Recorder:
    """Replaces a mutex and records what was held when it was taken."""

    def __init__(self, name, log, held):
        self.name, self.log, self.held_names = name, log, held

    def __enter__(self):
        assert self.name not in self.held_names, f"{self.name} taken recursively"
        self.log.extend((outer, self.name) for outer in self.held_names)
        self.held_names.append(self.name)

    def __exit__(self, *exc):
        self.held_names.remove(self.name)

    def held(self):
        return self.name in self.held_names


@pytest.fixture
def recorded(scheme, monkeypatch):
    log, held = [], []
    for module in (scheme.cgroup, scheme.memcontrol, scheme.slab_common):
        for name in ORDER:
            if hasattr(module, name):
                monkeypatch.setattr(module, name, Recorder(name, log, held))
    scheme.log = log
    return scheme


def violations(log):
    return [(a, b) for a, b in log if ORDER.index(a) >= ORDER.index(b)]


def exercise(scheme, after_each=lambda: None):
    """Run every flow of the control plane once, and look at the end of each."""
    memcgs = [scheme.make(f"g{i}") for i in range(6)]
    objects = [scheme.frames.alloc(m) for m in memcgs]
    after_each()
    scheme.work()
    after_each()
    objects += [scheme.frames.alloc(m) for m in memcgs]
    scheme.memcontrol.mem_cgroup_slabinfo_read(memcgs[0])
    scheme.cgroup.cgroup_rmdir(memcgs[0])
    after_each()
    for address in objects:
        scheme.frames.free(address)
    scheme.work()
    after_each()
    scheme.slab_common.kmem_cache_destroy(scheme.frames)
    after_each()
    for memcg in memcgs[1:]:
        scheme.cgroup.cgroup_rmdir(memcg)
    scheme.work()
    after_each()


def test_s1_s6_s10_every_flow_takes_the_mutexes_in_the_documented_order(recorded):
    exercise(recorded)
    assert violations(recorded.log) == []
    taken = set(recorded.log)
    assert ("activate_kmem_mutex", "memcg_slab_mutex") in taken
    assert ("memcg_slab_mutex", "slab_mutex") in taken
    assert ("cgroup_mutex", "memcg_slab_mutex") in taken


def test_s1_a_wrong_order_is_found():
    wrong = list(itertools.permutations(ORDER, 2))
    assert len(violations(wrong)) == len(wrong) / 2


def test_s2_the_memcg_side_never_names_slab_mutex(scheme):
    code = scheme.memcontrol.__loader__.get_source(scheme.memcontrol.__name__)
    nodes = [*ast.walk(ast.parse(code))]
    named = {node.id for node in nodes if isinstance(node, ast.Name)}
    named |= {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    assert "memcg_slab_mutex" in named
    assert "slab_mutex" not in named


def test_s10_a_group_goes_offline_under_cgroup_mutex(recorded, monkeypatch):
    held = []
    for name in ("mem_cgroup_offline_bare", "mem_cgroup_css_offline"):
        offline = getattr(recorded.cgroup, name)

        def spy(group, offline=offline):
            held.append([*recorded.cgroup.cgroup_mutex.held_names])
            return offline(group)

        monkeypatch.setattr(recorded.cgroup, name, spy)
    memcg = recorded.make()
    recorded.frames.free(recorded.frames.alloc(memcg))
    recorded.work()
    recorded.cgroup.cgroup_rmdir(memcg)  # it has a cache, so both are called
    assert held == [["cgroup_mutex"], ["cgroup_mutex"]]


def test_s3_s7_creating_and_destroying_a_child_under_memcg_slab_mutex_does_not_retake_it(recorded):
    exercise(recorded)  # the recorder fails on recursion
    assert recorded.log.count(("memcg_slab_mutex", "slab_mutex")) >= 12


@pytest.mark.parametrize("name", ["memcg_kmem_create_cache", "memcg_kmem_destroy_cache"])
def test_s4_without_memcg_slab_mutex_it_fails_loudly(scheme, child_of, name):
    memcg = scheme.make()
    child, address = child_of(memcg)
    args = (memcg, scheme.frames) if "create" in name else (child,)
    with pytest.raises(AssertionError, match="memcg_slab_mutex is not held"):
        getattr(scheme.memcontrol, name)(*args)
    scheme.frames.free(address)


def test_s8_relocation_runs_under_all_three_mutexes(recorded, monkeypatch):
    seen = []
    update = recorded.memcontrol.memcg_update_cache_size

    def spy(s, n):
        seen.append(tuple(recorded.memcontrol.memcg_slab_mutex.held_names))
        update(s, n)

    monkeypatch.setattr(recorded.memcontrol, "memcg_update_cache_size", spy)
    recorded.make()
    assert set(seen) == {tuple(ORDER)}


def test_s9_slabinfo_needs_memcg_slab_mutex_only(recorded):
    memcg = recorded.make()
    recorded.log.clear()
    recorded.memcontrol.mem_cgroup_slabinfo_read(memcg)
    assert recorded.log == []  # no other mutex was taken inside it
    assert recorded.memcontrol.memcg_slab_mutex.held_names == []


@on_the_model  # the native data plane never calls Python, so it cannot take a mutex
def test_s5_s11_no_mutex_is_taken_under_a_lock_of_the_data_plane(scheme):
    private = {"entry_lock", "read_side", "cache_lock", "page_lock"}
    with lockdep.watching(scheme.locking) as dep:
        exercise(scheme)
    assert private & dep.seen == private
    assert {("memcg_slab_mutex", "cache_lock"), ("slab_mutex", "cache_lock")} & set(dep.edges)
    assert not [edge for edge in dep.edges if edge[0] in private and edge[1] in ORDER]


def test_s37_after_every_operation_a_child_is_on_the_list_if_and_only_if_it_is_in_the_slot(scheme):
    seen = []

    def look():
        groups = [*scheme.cgroup.subtree(scheme.root), *scheme.memcontrol.dying]
        with scheme.memcontrol.memcg_slab_mutex:
            caches = [s for s in scheme.slab_common.slab_caches
                      if scheme.slab_common.is_root_cache(s)]  # fmt: skip
            in_slots = {root.from_memcg_idx(i) for root in caches for i in range(root.array_size)}
            listed = [child for group in groups for child in group.memcg_slab_caches]
        assert in_slots - {None} == set(listed)
        assert len(listed) == len(set(listed))
        seen.append(len(listed))

    exercise(scheme, look)
    assert seen == [0, 6, 6, 5, 0, 0]
