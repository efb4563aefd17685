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
