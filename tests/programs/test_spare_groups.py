# SPDX-License-Identifier: Apache-2.0
"""A closed group is kept for the next one below its parent, and nothing of it shows there."""

from __future__ import annotations

TENANT = """
tenant = memcg.group("tenant")
core = memcg.core
def end(group):
    # Close a group, and return its number. The caller forgets it.
    group.close()
    return group._kmemcg_id
"""


def test_nothing_of_the_closed_group_shows_in_the_next_one(run_program):
    run_program(
        TENANT
        + """
old = memcg.group("tenant/old", max="1MiB", high="512KiB", reserve="17MiB", overdraft="18MiB")
old.oom_group = True
old["cgroup.max.depth"] = 0
old["cgroup.max.descendants"] = 0
old.shrinker(lambda nbytes: None)
with old:
    try:
        bytearray(64 * MIB)
    except MemoryError:
        pass
    else:
        raise SystemExit("no refusal")
memcg.control.workqueue.flush()
core.wait_worker()
assert old.peak > 0 and old.last_oom and old.events["fail"] == 1
number = end(old)
core.last_failure()
del old
new = memcg.group("tenant/new")
if new._kmemcg_id != number:  # the thread's last refusal named it
    number = end(new); del new
    new = memcg.group("tenant/new")
assert new._kmemcg_id == number
assert (new.path, new.name, new.online) == ("tenant/new", "new", True)
assert set(new.events.values()) == {0}
assert set(core.mem_cgroup_events_local(new).values()) == {0}
assert (new.current, new.peak, new.nr_inside, new.last_oom) == (0, 0, 0, None)
assert (new.max, new.high, new.reserve, new.overdraft) == (2**63 - 1, 2**63 - 1, 0, 0)
assert (new.oom_group, new.children, new.shrinkers) == (False, {}, [])
assert new._max_depth is new._max_descendants is None
new.max = "1MiB"
assert new.high == (1 << 20) * 7 // 8
"""
    )


def test_the_last_refusal_of_a_group_does_not_show_in_its_next_life(run_program):
    run_program(
        TENANT
        + """
def refused(path):
    with memcg.scope(path, max="1MiB", reserve=0, overdraft=0) as g:
        try:
            bytearray(8 * MIB)
        except MemoryError:
            pass
        return g._kmemcg_id
number = refused("tenant/old")
assert tenant.last_oom.group == "tenant/old"
for _ in range(3):
    new = memcg.group("tenant/new")
    assert new.last_oom is None and set(new.events.values()) == {0}
    with new: [[i] for i in range(100)]
    new.close()
    del new
assert tenant.last_oom.group == tenant.last_oom.owner == "tenant/old"
"""
    )


def test_what_outlives_a_group_is_credited_to_the_parent_and_not_to_the_next_group(run_program):
    run_program(
        TENANT
        + """
with memcg.group("tenant/a") as old:
    late = [bytes(100) for _ in range(50)]
    more = bytes(100_000)
number = end(old)
del old
held = tenant.current
assert held > 105_000, held
new = memcg.group("tenant/b")
assert new._kmemcg_id == number
assert new.current == 0
assert tenant.current - held == core.GROUP_BYTES
with new:
    kept = bytes(5000)
mine = new.current
assert mine > 5000
del late, more
assert new.current == mine
assert tenant.current < held - 100_000
number = end(new)
del new
assert memcg.group("tenant/c").current == 0
del kept
assert tenant.current < 10_000
"""
    )


PROMOTED = """
def use(n):
    held = [bytes(100) for _ in range(n)]
    core.wait_worker()
    return held + [bytes(100) for _ in range(n)]
"""


def test_a_group_whose_own_slabs_have_live_objects_is_not_kept(run_program):
    run_program(
        TENANT
        + PROMOTED
        + """
old = memcg.group("tenant/a")
with old:
    held = use(20_000)
assert old.memcg_slab_caches
end(old)
assert tenant._nr_spare == 0
assert tenant.current > 2_000_000
del held
core.wait_worker()
assert tenant.current < 1_000_000, tenant.current
"""
    )


def test_the_next_group_has_the_caches_and_warm_slabs_of_the_last(run_program):
    run_program(
        TENANT
        + PROMOTED
        + """
buffers = memcg.KmemCache("buffers", 2000)
core.set_promote_bytes(1000)
import ctypes
malloc, free = ctypes.pythonapi.PyMem_Malloc, ctypes.pythonapi.PyMem_Free
malloc.restype, free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
def work(group):
    with group:
        for _ in range(3):
            held = [malloc(200) for _ in range(50)]
            for p in held: free(p)
            core.wait_worker()
before = {c.name for c in tenant.memcg_slab_caches}
old = memcg.group("tenant/a")
for _ in range(10):
    work(old)
    caches = list(old.memcg_slab_caches)
    number = end(old)
    kept = tenant._nr_spare
    del old
    old = memcg.group("tenant/a")
    if kept and caches:
        break
else:
    raise SystemExit("objects survive in each life")
assert old._kmemcg_id == number
assert list(old.memcg_slab_caches) == caches
assert all(cache.memcg is old and cache.memcg_params.memcg is old for cache in caches)
assert old.current == 0  # the slabs are empty, and a reader takes them
"""
    )


def test_a_thread_that_was_in_the_old_life_charges_the_new_one_only_if_it_enters_it(run_program):
    run_program(
        TENANT
        + """
gate, go = threading.Event(), threading.Event()
held = []
def stay():
    with memcg.group("tenant/a"):
        held.append(bytes(1000))
    gate.set(); go.wait()
    held.append(bytes(50_000))
thread = threading.Thread(target=stay); thread.start(); gate.wait()
number = end(memcg.group("tenant/a"))
new = memcg.group("tenant/b")
before = new.current
go.set(); thread.join()
assert new.current == before, new.current
"""
    )


def test_10_000_scopes_leave_no_more_than_one_does(run_program):
    run_program(
        TENANT
        + """
def serve(n):
    for i in range(n):
        with memcg.scope(f"tenant/request", max="64MiB"):
            json.loads('[{"a": 1}, {"b": [1, 2, 3]}]' * 1)
serve(100)
gc.collect(); core.wait_worker()
before, metadata = tenant.current, core.global_stat()["metadata"]
serve(10_000)
gc.collect(); core.wait_worker()
assert tenant.current - before < 20_000, tenant.current - before
assert core.global_stat()["metadata"] - metadata < 100_000
assert len(memcg.control.memcontrol._used_ids) < 50
"""
    )
