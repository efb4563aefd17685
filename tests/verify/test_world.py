# SPDX-License-Identifier: Apache-2.0
"""In the explored world the modules' dictionaries have guards, and allocations can fail."""

from __future__ import annotations

from memcg.verify import errors, explore, seam
from memcg.verify.scheme.world import World


def test_a_guarded_dictionary_is_used_under_its_mutex_or_the_use_is_reported():
    def program(locked):
        def main():
            mutex = seam.Mutex("mutex")
            table = seam.GuardedDict("table", mutex, {1: 2})

            def use():
                if locked:
                    with mutex:
                        table[3] = table.pop(1, None)
                else:
                    table[3] = 4

            seam.parallel(use, use)

        return main

    assert explore(program(True)).check().schedules == 2
    problem = explore(program(False)).failure.exception
    assert isinstance(problem, errors.GuardViolation)
    assert "table is used by use" in str(problem)


def test_an_injected_fault_of_an_allocation_is_explored():
    def program():
        s = World(worker=False)
        s.faults = True
        s.slab_common.kmem_cache_create("frames", 64).alloc(s.root)

    assert isinstance(explore(program).failure.exception, MemoryError)


def test_an_execution_finds_nothing_of_the_one_before():
    found = []

    def program():
        one, two = World(worker=False), World(worker=False)
        memcontrol, model = one.memcontrol, one.model
        assert memcontrol is not two.memcontrol
        assert model.Cache is not two.model.Cache
        found.append((
            memcontrol.memcg_slab_mutex, memcontrol.memcg_kmem_is_active.__name__,
            list(memcontrol._used_ids), model.Memcg._serials, hasattr(model.Cache, "alloc"),
            hasattr(model.Cache, "mine"), hasattr(memcontrol, "mine"),
        ))  # fmt: skip
        memcontrol._used_ids[99] = None
        memcontrol.mine = model.Cache.mine = model.Memcg._serials = 99
        memcontrol.memcg_kmem_is_active = len
        del model.Cache.alloc
        two.memcontrol.memcg_kmem_is_active(two.root)  # the other system is whole
        assert two.model.Memcg._serials == 1
        seam.choose(2)

    assert explore(program, strategy="naive").check().schedules == 2
    first, second = found[-2:]  # since 3.12 one primes the tracing
    assert first[0] is not second[0]
    assert first[1:] == second[1:] == ("memcg_kmem_is_active", [], 1, True, False, False)
