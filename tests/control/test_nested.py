# SPDX-License-Identifier: Apache-2.0
"""A finalizer or signal handler uses memcg, at each line of what it interrupts.

The mutexes let the interrupted thread in, so a handler could find a half-done change. Therefore
making and destroying are refused there, and closing is put off.
"""

from __future__ import annotations

import functools
import itertools
import threading

import pytest
from control.interrupt import Interrupt
from world import World

MODULES = ("memcontrol", "slab_common", "cgroup", "vmscan", "groups", "cache")


def make(world):
    world.group.group("made/deep")


def scope(world):
    with world.group.scope("made") as g:
        world.frames.free(world.frames.alloc())
        assert g.online


def close(world):
    world.group.group("full").close()


def new_cache(world):
    world.cache.KmemCache("new", 100).destroy()


def read(world):
    world.group.group("full")["memory.kmem.slabinfo"]
    world.group.slabinfo()


OUTER = (make, scope, close, new_cache, read)


def handler(world, told):
    def attempt(fn):
        try:
            fn()
        except world.errors.MemcgError as error:
            told.append(str(error))

    attempt(lambda: world.group.group("nested/made"))
    attempt(lambda: scope(world))
    attempt(lambda: new_cache(world))
    attempt(lambda: read(world))
    assert world.group.group("tenant") is world.tenant  # it exists, so nothing changes
    world.tenant.close()  # done now, or when what it interrupts has ended; never refused


@pytest.mark.parametrize("outer", OUTER)
def test_at_any_line_the_handler_is_done_or_refused_and_nothing_is_half_done(outer):
    refused, done = 0, 0
    world = World()
    world.core.set_waker(None)
    world.core.set_promote_bytes(0)
    world.frames = world.cache.KmemCache("frames", 1000)
    for n in itertools.count(1):
        full = world.group.group("full")
        with full:
            world.frames.free(world.frames.alloc())
        world.workqueue.run_pending()
        assert full.memcg_slab_caches
        world.tenant = world.group.group("tenant")
        told = []
        act = functools.partial(handler, world, told)
        with Interrupt(n, act, event="line", modules=MODULES) as interrupting:
            outer(world)
        if interrupting.left > 0:
            break
        assert all("has interrupted memcg's own work" in text for text in told), told
        refused += bool(told)
        done += not told
        world.workqueue.run_pending()
        world.check_invariants()
        world.group.group("after").close()
        assert not world.tenant.online, n
        for group in list(world.root.children.values()):
            group.close(recursive=True)
        world.workqueue.run_pending()
        assert (world.core.css_refs(world.root), len(world.memcontrol._used_ids)) == (1, 0), n
        assert not world.memcontrol.dying
    world.close()
    assert refused > 0
    assert done > 0


def test_inside_our_own_work_a_group_is_returned_only_if_nothing_must_change(scheme):
    there, gone = scheme.make("there"), scheme.make("gone")
    root, cgroup = scheme.root, scheme.cgroup
    with scheme.memcontrol.memcg_slab_mutex:
        scheme.memcontrol.mem_cgroup_css_offline(gone)  # as if its close had been interrupted here
        assert cgroup.cgroup_mkdir(root, "there") is there
        for refused in (
            lambda: cgroup.cgroup_mkdir(root, "there", exclusive=True),
            lambda: cgroup.cgroup_mkdir(root, "gone"),
            lambda: cgroup.cgroup_mkdir(root, "there/not"),
            lambda: cgroup.cgroup_find(root, "there"),
            lambda: cgroup.subtree(there),
        ):
            with pytest.raises(scheme.errors.MemcgError, match="has interrupted memcg's own work"):
                refused()
    cgroup.cgroup_rmdir(gone)


def be_the_worker(queue):
    queue._worker_task = queue.current_task()
    queue._place.running = True
    queue._idle.clear()


def fork_nested(fork, mutex):
    """Run the handlers of both sides of a fork in turn, while the caller holds the mutex."""
    with mutex:
        fork._before_fork()
        assert [held for held in fork._MUTEXES if held.held()] == [mutex]
        fork._after_fork_in_child()
        fork._after_fork()
        assert mutex.held()
    assert not mutex.held()


def fork_and_return(fork):
    fork._before_fork()
    assert all(mutex.held() for mutex in fork._MUTEXES)
    fork._after_fork()
    assert not any(mutex.held() for mutex in fork._MUTEXES)


def test_a_nested_fork_takes_no_mutex_and_its_child_forgets_threads_that_are_gone():
    world = World()
    cgroup, queue = world.cgroup, world.workqueue

    def other():
        cgroup.cgroup_mutex.acquire()
        be_the_worker(queue)

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert not cgroup.cgroup_mutex.acquire(blocking=False)
    fork_nested(world.fork, world.slab_common.slab_mutex)
    assert queue._idle.is_set()
    assert not queue._place.running
    fork_and_return(world.fork)
    assert world.group.group("made").online
    world.close()


def test_a_nested_fork_of_the_worker_leaves_the_child_its_place():
    world = World()
    queue = world.workqueue
    be_the_worker(queue)
    fork_nested(world.fork, world.memcontrol.memcg_slab_mutex)
    assert queue._place.running
    queue._drain()
    fork_and_return(world.fork)
    world.close()


def test_the_child_of_an_ordinary_fork_keeps_its_mutexes_until_the_handlers_end(monkeypatch):
    world = World()
    fork = world.fork
    told = []
    monkeypatch.setattr(world.core, "after_fork_in_child", lambda: told.append("data plane"))
    fork._nested_forks.add("another")  # the child does not have its thread
    fork._before_fork()
    fork._after_fork_in_child()
    assert not fork._nested_forks
    assert told == ["data plane"]
    assert all(mutex.held() for mutex in fork._MUTEXES)
    fork._after_fork()
    assert not any(mutex.held() for mutex in fork._MUTEXES)
    world.close()
