"""The shipped control plane under every schedule, and mutants of it that must not survive."""

# ruff: noqa: E501
from __future__ import annotations

import pytest

from memcg.verify import errors, explore, replay, world
from memcg.verify.scenarios import SCENARIOS

SOUND = [name for name, s in SCENARIOS.items() if not s.open_defect]
OPEN = [name for name, s in SCENARIOS.items() if s.open_defect]


@pytest.mark.parametrize("name", SOUND)
def test_the_control_plane_holds_under_every_schedule(name):
    result = SCENARIOS[name].explore().check()
    assert result.schedules > 1, "the tasks never met: the scenario shows nothing"


@pytest.mark.parametrize("name", OPEN)
def test_an_open_defect_is_found_and_replays(name):
    """When this fails the defect is mended: remove `open_defect` from the scenario."""
    scenario = SCENARIOS[name]
    failure = scenario.explore().failure
    assert failure is not None
    assert type(replay(scenario.program, failure.replay, **scenario.options).exception) is type(
        failure.exception
    )


HOLD = "        with memcg_slab_mutex:\n            memcg_kmem_create"
MUTANTS = [  # scenario, module, text, what it becomes
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
    ("creation_offline", "memcontrol", "        root_cache.create_done(memcg)\n        memcg.css_put()",
     "        root_cache.create_done(memcg)"),
    ("creation_offline", "memcontrol", HOLD,
     "        if True:\n            memcg_kmem_create"),
    ("busy_root_slabinfo", "memcontrol", "            except CacheBusy:\n                failed += 1",
     "            except CacheBusy:\n                pass"),
    ("busy_root_slabinfo", "slab_common", "        s.dying = False\n        raise", "        raise"),
    ("growth_creation", "memcontrol", HOLD,
     "        if True:\n            memcg_kmem_create"),
    ("growth_lookup", "model", "new = old + [None]", "new = [None] * len(old) + [None]"),
    ("id_reuse", "memcontrol", "            del _used_ids[memcg.kmemcg_id]\n", ""),
    ("charge_offline", "model", "        self.usage.set(0)\n", ""),
    ("charge_offline", "model", "            objcg.memcg.store(self.parent)\n", "            pass\n"),
    ("charges_at_the_limit", "model", "                    undo.usage.add(-n)\n",
     "                    pass\n"),
    ("close_mkdir", "cgroup", "        if group.children:\n", "        if False:\n"),
    ("concurrent_activations", "memcontrol", "        _used_ids[memcg_id] = None\n", ""),
    ("shrink_allocation", "model", "        with read_side, self.cache_lock:\n            empty",
     "        with read_side:\n            empty"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "noun", "text", "becomes"), MUTANTS)
def test_a_mutant_of_the_control_plane_is_killed(name, noun, text, becomes, monkeypatch):
    source = world.source(noun)
    assert source.count(text) == 1, "the mutant does not apply any more"
    code = compile(source.replace(text, becomes), f"{noun}.py", "exec")
    monkeypatch.setitem(world._code, noun, code)
    failure = SCENARIOS[name].explore(minimise=0).failure
    assert failure is not None


def test_a_check_that_fails_at_a_release_of_the_mutex_is_a_failure():
    def program():
        s = world.World(worker=False)

        def broken():
            raise AssertionError("seen at a release")

        from memcg.verify import runtime

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
