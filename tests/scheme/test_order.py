"""S1 to S11: the lock order."""

from __future__ import annotations

import itertools

import pytest

ORDER = ["cgroup_mutex", "activate_kmem_mutex", "memcg_slab_mutex", "slab_mutex"]


class Recorder:
    """Stands in for a mutex and records what was held when it was taken."""

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


def exercise(scheme):
    """Every flow of the control plane once."""
    memcgs = [scheme.make(f"g{i}") for i in range(6)]
    objects = [scheme.frames.alloc(m) for m in memcgs]
    scheme.work()
    objects += [scheme.frames.alloc(m) for m in memcgs]
    scheme.memcontrol.mem_cgroup_slabinfo_read(memcgs[0])
    scheme.cgroup.cgroup_rmdir(memcgs[0])
    for address in objects:
        scheme.frames.free(address)
    scheme.work()
    scheme.slab_common.kmem_cache_destroy(scheme.frames)
    for memcg in memcgs[1:]:
        scheme.cgroup.cgroup_rmdir(memcg)
    scheme.work()


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
    statements = [line for line in code.splitlines() if line.strip().startswith("with ")]
    assert statements
    assert not any(
        "with slab_mutex" in line or "slab_common.slab_mutex" in line for line in statements
    )


def test_s3_s7_creating_and_destroying_a_child_under_memcg_slab_mutex_does_not_retake_it(recorded):
    exercise(recorded)  # the recorder refuses recursion
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
    assert recorded.log == []  # nothing was taken inside it
    assert recorded.memcontrol.memcg_slab_mutex.held_names == []
