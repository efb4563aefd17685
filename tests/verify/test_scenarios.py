# SPDX-License-Identifier: Apache-2.0
"""The shipped control plane holds under every schedule, and its mutants do not survive."""

# ruff: noqa: E501
from __future__ import annotations

import pytest

from memcg.locking import lockdep
from memcg.verify import errors, explore, runtime, seam
from memcg.verify.scheme import world
from memcg.verify.scheme.scenarios import SCENARIOS

# These take three quarters of the time of all scenarios. `make test` bounds their preemptions.
MOST_SCHEDULES = ("worker_offline", "two_posters_without_threads", "fork_impatient_worker")
SOUND = [
    pytest.param(name, marks=pytest.mark.long) if name in MOST_SCHEDULES else name
    for name, s in SCENARIOS.items()
    if not s.long
]
MANY_SCHEDULES = {  # too slow under lockdep; other scenarios take the same locks
    "allocation_offline_root_destruction", "creation_offline_root_destruction_slabinfo",
    "two_offlines_root_destruction", "worker_offline",
}  # fmt: skip


@pytest.mark.parametrize("name", SOUND)
def test_the_control_plane_holds_under_every_schedule_in_the_documented_order_of_locks(
    name, request
):
    if name not in MANY_SCHEDULES:
        request.getfixturevalue("order")
    result = SCENARIOS[name].explore().check()
    assert result.schedules > 1, "the tasks never met: the scenario shows nothing"


@pytest.mark.parametrize("name", MOST_SCHEDULES)
def test_the_scenarios_of_most_schedules_hold_under_those_with_one_preemption(name):
    result = SCENARIOS[name].explore(strategy="bounded", preemption_bound=1)
    assert result.failure is None, result.failure
    assert result.schedules > 100


HOLD = "        with memcg_slab_mutex:\n            memcg_kmem_create"
MUTANTS = [  # scenario, module, text, what the text becomes
    ("creation_offline", "memcontrol", "if not memcg.online or root_cache.dying:",
     "if root_cache.dying:"),
    ("concurrent_creators", "memcontrol",
     "    if cache_from_memcg_idx(root_cache, memcg_id) is not None:\n        return", ""),
    ("allocation_offline", "memcontrol", "    core.synchronize()\n", ""),
    ("offline_root_destruction", "memcontrol",
     "    with memcg_slab_mutex:\n        for cachep in list(", "    if True:\n        for cachep in list("),
    ("offline_root_destruction", "memcontrol",
     "failed = 0\n    with memcg_slab_mutex:", "failed = 0\n    if True:"),
    ("allocation_offline", "memcontrol", "            cachep.set_dead()", "            pass"),
    ("creation_offline", "memcontrol", "        root_cache.create_done(memcg)\n        css_put(memcg)",
     "        root_cache.create_done(memcg)"),
    ("creation_offline", "memcontrol", HOLD,
     "        if True:\n            memcg_kmem_create"),
    ("busy_root_slabinfo", "memcontrol", "            except CacheBusy:\n                failed += 1",
     "            except CacheBusy:\n                pass"),
    ("busy_root_slabinfo", "slab_common", "        s.dying = s.frozen  # a cache that was destroyed before gets no child any more\n        raise", "        raise"),
    ("growth_creation", "memcontrol", HOLD,
     "        if True:\n            memcg_kmem_create"),
    ("growth_lookup", "model", "store(old + [None]", "store([None] * len(old) + [None]"),
    ("id_reuse", "memcontrol", "            del _used_ids[memcg._kmemcg_id]\n", ""),
    ("charge_offline", "model", "    memcg.usage.set(0)\n", ""),
    ("charge_offline", "model", "        objcg.memcg.store(memcg.parent)\n", "        pass\n"),
    ("charges_at_the_limit", "model", "                undo.usage.add(-n)\n",
     "                pass\n"),
    ("close_mkdir", "cgroup", "        if group.children:\n", "        if False:\n"),
    ("concurrent_activations", "memcontrol", "        _used_ids[memcg_id] = None\n", ""),
    ("allocation_root_destruction", "memcontrol", "    core.synchronize()\n", ""),
    ("creation_offline_worker", "memcontrol",
     "        root_cache.create_done(memcg)\n        css_put(memcg)",
     "        css_put(memcg)\n        root_cache.create_done(memcg)"),
    ("concurrent_reactivation", "memcontrol", "        if memcg_kmem_is_active(memcg):\n            return\n", ""),
    ("reactivation_creation", "memcontrol", "    with activate_kmem_mutex:\n        if memcg_kmem_is_active", "    if True:\n        if memcg_kmem_is_active"),
    ("id_reuse", "memcontrol", "    with activate_kmem_mutex:\n        if memcg._kmemcg_id in", "    if True:\n        if memcg._kmemcg_id in"),
    ("id_reuse", "memcontrol", "        dying.pop(memcg, None)\n", ""),
    ("spare_late_free", "model", " or any(slab.live for slab in slabs):", ":"),
    ("spare_late_shared_free", "model",
     "        stub.memcg.store(memcg.parent)\n", "        pass\n"),
    ("spare_late_shared_free", "model", "    synchronize()  # an allocation or a free has used the stub before, or finds the parent\n", ""),
    ("spare_enter", "model", "        if memcg.nr_inside:\n            return False\n        memcg._online.store(False)\n    with _cache_lock:\n        slabs", "        memcg._online.store(False)\n    with _cache_lock:\n        slabs"),
    ("spare_creation", "cgroup", "    with memcg_slab_mutex:\n        return mem_cgroup_keep", "    if True:\n        return mem_cgroup_keep"),
    ("spare_mkdir_mkdir", "model", "    parent._spare.remove(memcg)\n    memcg.objcg", "    memcg.objcg"),
    ("spare_dropped", "cgroup", "        mem_cgroup_destroy_all_caches(group)\n        mem_cgroup_give_up", "        mem_cgroup_give_up"),
    ("spare_dropped", "cgroup", "    with cgroup_mutex:\n        __drop_spare", "    if True:\n        __drop_spare"),
    ("spare_parent_close", "cgroup", "    __drop_spare(group, 0)\n    mem", "    mem"),
    ("failing_creation_offline", "slab_common", "except MemoryError:", "except KeyError:"),
    ("failing_creation_again", "slab_common", "except MemoryError:", "except KeyError:"),
    ("failing_growth_creation", "slab_common",
     "        for s in slab_caches:\n",
     "        memcontrol.memcg_update_array_size(num_memcgs)\n        for s in slab_caches:\n"),
    ("failing_pages_offline", "model", "                memcg_uncharge(memcg, nbytes)\n            raise MemoryError",
     "                pass\n            raise MemoryError"),
    ("fork_close", "fork", "if not all(mutex.acquire_within(FORK_PATIENCE_S) for mutex in _MUTEXES):",
     "if False:"),
    ("fork_foreign_lock", "fork", "                mutex.lend()\n", "                pass\n"),
    ("fork_foreign_lock_parent", "fork", "                mutex.lend()\n", "                pass\n"),
    ("fork_foreign_lock_finalizer", "fork", "all(mutex.acquire_within(FORK_PATIENCE_S) for",
     "all(mutex.acquire() for"),
    ("fork_impatient_close", "fork", "        mem_cgroup_mend_caches()\n", "        pass\n"),
    ("fork_impatient_worker", "memcontrol",
     "        slab_common.kmem_cache_forget_unpublished(slots)\n", ""),
    ("fork_impatient_mkdir", "fork", "            mutex.forget_holder()\n", "            pass\n"),
    ("fork_impatient_destroy", "memcontrol",
     "            s.dying = s.frozen  # the thread that was about to destroy it is gone\n", ""),
    ("fork_growth", "fork", "activate_kmem_mutex, memcg_slab_mutex, slab_mutex, *core", "*core"),
    ("fork_parent", "fork", "in reversed(_MUTEXES):", "in _MUTEXES[1:]:"),
    ("worker_exit_waiting", "workqueue", "_idle.wait(within) and core.wait_worker(within)",
     "core.wait_worker(within)"),
    ("interrupted_close_mkdir", "cgroup", "if child is not None and not child.online:", "if False:"),
    ("root_destruction_root_creation", "slab_common", "    with slab_mutex:\n        if s not in",
     "    if True:\n        if s not in"),
    ("two_offlines_root_destruction", "memcontrol", "failed = 0\n    with memcg_slab_mutex:", "failed = 0\n    if True:"),
    ("two_posters_without_threads", "workqueue",
     "    while not _be_worker(stopped_too=True):\n        _idle.wait()",
     "    if not _be_worker(stopped_too=True):\n        _idle.wait()"),
    ("two_posters", "workqueue", "        with wq_lock:\n            event = __next_event()\n",
     "        event = __next_event()\n        with wq_lock:\n"),
    ("root_creation_growth", "slab_common",  # the array size is read outside slab_mutex
     "    with slab_mutex:\n        return do_kmem_cache_create(name, size, max(align, 16), ctor, None, None)",
     "    n = memcontrol.memcg_limited_groups.array_size\n    with slab_mutex:\n"
     "        s = do_kmem_cache_create(name, size, max(align, 16), ctor, None, None)\n"
     "        s.update_array(n)\n        return s"),
    ("concurrent_activations", "memcontrol",  # the free id is read outside activate_kmem_mutex
     "    with activate_kmem_mutex:\n        if memcg_kmem_is_active(memcg):\n            return\n"
     "        memcg_id = _freed_ids[-1] if _freed_ids else len(_used_ids)",
     "    memcg_id = _freed_ids[-1] if _freed_ids else 0\n    with activate_kmem_mutex:\n"
     "        if memcg_kmem_is_active(memcg):\n            return\n"
     "        memcg_id = memcg_id or len(_used_ids)"),
    ("second_creation_offline", "cgroup",  # its caches are destroyed before the group is offline
     "    mem_cgroup_css_offline(group)\n    mem_cgroup_destroy_all_caches(group)\n",
     "    mem_cgroup_destroy_all_caches(group)\n    mem_cgroup_css_offline(group)\n"),
    ("shrink_allocation", "model", "        with read_side, self.cache_lock:\n            empty",
     "        with read_side:\n            empty"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "noun", "text", "becomes"), MUTANTS)
def test_a_mutant_of_the_control_plane_is_killed(name, noun, text, becomes):
    source = world.source(noun)
    assert source.count(text) == 1, "the mutant does not apply any more"
    with world.other_source(noun, source.replace(text, becomes)):
        failure = SCENARIOS[name].explore(minimise=0).failure
    assert failure is not None


def test_the_scenarios_take_every_documented_lock_and_wait(order):
    for name in ("interrupted_close", "last_free_worker_root_destruction", "entry_close",
                 "concurrent_activations", "fork_parent"):  # fmt: skip
        SCENARIOS[name].explore(minimise=0)
    of_shares = {"shares_mutex", "share_answered", "loop"}  # explored by the same worker before
    assert order.seen - of_shares == set(order.rank)
    assert not [pair for pair in order.edges if len(of_shares.intersection(pair)) == 1]
    assert {
        pair
        for pair in order.edges
        if not of_shares.intersection(pair) and order.rank[pair[0]] > order.rank[pair[1]]
    } == set()


def test_an_order_that_is_not_the_documented_one_is_reported_though_nothing_deadlocks():
    def program():
        s = world.World(worker=False)
        with s.slab_common.slab_mutex, s.memcontrol.memcg_slab_mutex:
            pass

    with (
        pytest.raises(AssertionError, match="documented is memcg_slab_mutex -> slab_mutex"),
        lockdep.watching(seam, runtime.running),
    ):
        explore(program).check()


def test_a_check_that_fails_at_a_release_of_the_mutex_is_a_failure():
    def program():
        s = world.World(worker=False)

        def broken():
            raise AssertionError("seen at a release")

        assert runtime.active is not None
        runtime.active.hooks["memcg_slab_mutex"] = broken
        s.cgroup.cgroup_mkdir(s.root, "a")

    failure = explore(program).failure
    assert failure is not None
    assert str(failure.exception) == "seen at a release"


def test_touching_a_group_list_without_the_mutex_is_reported():
    def program():
        s = world.World(worker=False)
        s.cgroup.cgroup_mkdir(s.root, "a").memcg_slab_caches.clear()

    failure = explore(program).failure
    assert failure is not None
    assert isinstance(failure.exception, errors.GuardViolation)
