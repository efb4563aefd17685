# SPDX-License-Identifier: Apache-2.0
"""A KeyboardInterrupt is raised at the entry of each function of the control plane in turn.

CPython raises asynchronous exceptions where a function is entered, at backward jumps, and after a
call into C. After each interrupt all invariants hold and the call can be repeated. The data plane
counts as one call, since it is C. Child caches are not covered here: they are created by the
worker, which no asynchronous exception reaches.
"""

from __future__ import annotations

import gc
import weakref

import pytest
from control.interrupt import Interrupt
from world import World


def raise_interrupt():
    raise KeyboardInterrupt


def prepare(world):
    world.core.set_waker(None)
    world.core.set_promote_bytes(0)
    world.frames = world.slab_common.kmem_cache_create("frames", 1000)


def served(world, path="a"):
    memcg = world.cgroup.cgroup_mkdir(world.root, path)
    world.frames.free(world.frames.alloc(memcg))
    world.workqueue.run_pending()
    return memcg


def close(world):
    memcg = served(world)
    yield
    world.cgroup.cgroup_rmdir(memcg)


def close_bare(world):
    memcg = world.cgroup.cgroup_mkdir(world.root, "bare")
    yield
    world.cgroup.cgroup_rmdir(memcg)


def destroy_root(world):
    served(world)
    yield
    if world.frames in world.slab_common.slab_caches:
        world.slab_common.kmem_cache_destroy(world.frames)


def make_group(world):
    for i in range(world.frames.array_size):
        served(world, f"g{i}")
    yield
    world.cgroup.cgroup_mkdir(world.root, "new/deep")


def references(world):
    """Return the css references of the root: one of its own, and one for each group."""
    return world.core.css_refs(world.root), len(world.memcontrol._used_ids)


def points(flow):
    """Run `flow` with an interrupt at entry 1, then at entry 2, until it ends without one."""
    n = 0
    while True:
        n += 1
        world = World()
        prepare(world)
        steps = flow(world)
        next(steps)
        try:
            with Interrupt(n, raise_interrupt) as interrupt:
                next(steps, None)
        except KeyboardInterrupt:
            pass
        if interrupt.left > 0:
            world.close()
            return n - 1
        world.settle()  # a call goes on although its waiter was interrupted
        world.check_invariants()
        mutexes = [world.memcontrol.memcg_slab_mutex, world.memcontrol.activate_kmem_mutex]
        mutexes += [world.slab_common.slab_mutex, world.cgroup.cgroup_mutex]
        assert not any(m.held() for m in mutexes), n
        again = flow(world)
        next(again)
        next(again, None)  # the same call, not interrupted, now succeeds
        world.check_invariants()
        for group in list(world.root.children.values()):
            group.close(recursive=True)
        gc.collect()  # a group that was dropped half-made drops its reference to the parent
        world.workqueue.run_pending()
        assert references(world) == (1, 0), n
        world.close()


@pytest.mark.parametrize("flow", [close, close_bare, destroy_root, make_group])
def test_an_interrupt_at_any_entry_leaves_the_invariants_and_a_repeatable_call(flow):
    assert points(flow) >= 3


def test_the_worker_and_a_thread_after_the_end_wait_for_no_other_thread(scheme, monkeypatch):
    workqueue, ran = scheme.workqueue, []

    def here():
        ran.append(workqueue.current_task())

    workqueue.uninterrupted(here)
    monkeypatch.setattr(workqueue, "_worker_task", workqueue.current_task())
    workqueue.uninterrupted(here)  # as in a shrinker; another thread could wait for the worker
    monkeypatch.setattr(workqueue, "_worker_task", None)
    monkeypatch.setattr(workqueue._place, "stopped", True)
    workqueue.uninterrupted(here)  # a thread that starts now may never run
    assert [task == workqueue.current_task() for task in ran] == [False, True, True]


def test_what_an_uninterrupted_call_raised_is_in_no_cycle(scheme):
    class Refused(Exception):
        pass

    def refuse():
        raise Refused

    gc.disable()  # a collection would free a cycle too
    try:
        with pytest.raises(Refused) as caught:
            scheme.workqueue.uninterrupted(refuse)
        gone = weakref.ref(caught.value)
        del caught
        assert gone() is None
    finally:
        gc.enable()


def test_the_worker_that_flushes_does_the_work_itself(scheme, monkeypatch):
    workqueue, memcg = scheme.workqueue, scheme.make()
    scheme.frames.free(scheme.frames.alloc(memcg))
    monkeypatch.setattr(workqueue, "_worker_task", workqueue.current_task())
    monkeypatch.setattr(workqueue._place, "running", True)
    monkeypatch.setattr(workqueue._idle, "wait", lambda: pytest.fail("the worker waits for itself"))
    workqueue.flush()
    assert scheme.child(scheme.frames, memcg) is not None
