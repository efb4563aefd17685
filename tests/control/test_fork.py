# SPDX-License-Identifier: Apache-2.0
"""Forks: which mutexes are held, and what the child mends where other threads were at work."""

from __future__ import annotations

import threading
from contextlib import contextmanager

import pytest


def children(scheme):
    return [s for s in scheme.slab_common.slab_caches if not scheme.slab_common.is_root_cache(s)]


def test_a_child_cache_that_its_maker_did_not_publish_is_dropped_with_its_reference(
    scheme, child_of
):
    memcg = scheme.make()
    refs = scheme.core.css_refs(memcg)
    with scheme.memcontrol.memcg_slab_mutex:
        unpublished = scheme.slab_common.kmem_cache_create_memcg(memcg, scheme.frames)
    assert not unpublished.frozen
    assert scheme.core.css_refs(memcg) == refs + 1
    scheme.memcontrol.mem_cgroup_mend_caches()
    assert unpublished.frozen
    assert scheme.core.css_refs(memcg) == refs
    assert children(scheme) == []
    assert not memcg.memcg_slab_caches
    child, address = child_of(memcg)
    scheme.frames.free(address)
    assert children(scheme) == [child]


def test_the_end_of_a_group_that_went_offline_is_finished(scheme, child_of):
    ended, alive = scheme.make("ended"), scheme.make("alive")
    for memcg in ended, alive:
        _, address = child_of(memcg)
        scheme.frames.free(address)
    scheme.memcontrol.mem_cgroup_css_offline(ended)
    scheme.memcontrol.mem_cgroup_mend_caches()
    assert not ended.memcg_slab_caches
    assert children(scheme) == [scheme.child(scheme.frames, alive)]


def test_a_root_that_was_about_to_be_destroyed_lives_on(scheme, child_of):
    memcg = scheme.make()
    scheme.memcontrol.memcg_cache_mark_dying(scheme.frames)
    scheme.memcontrol.mem_cgroup_mend_caches()
    _, address = child_of(memcg)  # a dying root makes no child
    scheme.frames.free(address)


def post_create(scheme, child_of):
    scheme.frames.free(scheme.frames.alloc(scheme.make()))


def post_empty(scheme, child_of):
    memcg = scheme.make()
    _, address = child_of(memcg)
    scheme.cgroup.cgroup_rmdir(memcg)
    scheme.frames.free(address)


def post_release(scheme, child_of):
    scheme.cgroup.cgroup_rmdir(scheme.make())


def post_high(scheme, child_of):
    memcg = scheme.make()
    _, address = child_of(memcg)
    scheme.core.mem_cgroup_set_limit(memcg, "high", 1)
    return [address, *(scheme.frames.alloc(memcg) for _ in range(20))]


@pytest.mark.parametrize("post", [post_create, post_empty, post_release, post_high])
def test_an_event_is_settled_before_its_reference_is_dropped(scheme, child_of, monkeypatch, post):
    """Otherwise a child that is forked in between drops the reference a second time."""
    drops, kinds = [], []  # for each drop of a reference, the events in hand; what was handled
    for module in scheme.memcontrol, scheme.vmscan:

        def css_put(memcg, drop=module.css_put):
            drops.append([event for _, event in scheme.workqueue._in_hand])
            drop(memcg)

        monkeypatch.setattr(module, "css_put", css_put)
    for kind, handle in scheme.workqueue._handlers.items():

        def watched(event, handle=handle):
            drops.clear()
            handle(event)
            assert drops[-1] == []  # the event's own reference is dropped last
            kinds.append(event.kind)

        monkeypatch.setitem(scheme.workqueue._handlers, kind, watched)
    objects = post(scheme, child_of)
    scheme.work()
    for address in objects or ():
        scheme.frames.free(address)
    assert post.__name__.removeprefix("post_") in kinds


@contextmanager
def forking(scheme):
    """Be at the point of a fork; yield the mutexes of the control plane."""
    mutexes = scheme.fork._MUTEXES
    scheme.fork._before_fork()
    try:
        yield mutexes
    finally:
        scheme.fork._after_fork()
    assert not any(mutex.held() for mutex in mutexes)


def test_a_worker_that_starts_before_the_mutexes_are_taken_is_waited_for_without_them(
    scheme, monkeypatch
):
    workqueue, looks, waits = scheme.workqueue, iter([False]), []

    def wait_idle(within):
        waits.append(any(mutex.held() for mutex in scheme.fork._MUTEXES))
        return True

    monkeypatch.setattr(workqueue, "wait_idle", wait_idle)
    monkeypatch.setattr(workqueue, "is_idle", lambda: next(looks, True))
    with forking(scheme) as mutexes:
        assert all(mutex.held() for mutex in mutexes)
    assert waits == [False, False]


def test_a_fork_that_does_not_get_a_mutex_in_time_holds_none(scheme, monkeypatch):
    monkeypatch.setattr(scheme.fork, "FORK_PATIENCE_S", 0.01)
    slab_mutex, taken, over = scheme.slab_common.slab_mutex, threading.Event(), threading.Event()

    def hold():
        with slab_mutex:
            taken.set()
            over.wait()

    holder = threading.Thread(target=hold)
    holder.start()
    taken.wait()
    with forking(scheme) as mutexes:
        assert not any(mutex.held() for mutex in mutexes)
    over.set()
    holder.join()


def test_an_event_that_a_gone_worker_had_in_hand_is_handled_once_in_the_child(scheme, monkeypatch):
    at_work, over, handled = threading.Event(), threading.Event(), []

    def handle(event):
        if threading.current_thread() is worker:
            at_work.set()
            over.wait()
        else:
            handled.append(event)
            scheme.frames.create_done(event.memcg)
            scheme.core.css_put(event.memcg)

    monkeypatch.setitem(scheme.workqueue._handlers, "create", handle)
    post_create(scheme, None)
    worker = threading.Thread(target=scheme.work, daemon=True)
    worker.start()
    at_work.wait()
    for _ in range(2):  # the child forks too
        scheme.workqueue.after_fork_in_child()
    scheme.work()
    over.set()
    worker.join()
    assert len(handled) == 1


def test_an_event_whose_handler_raised_is_not_handled_again(scheme, monkeypatch):
    def handle(event):
        scheme.core.css_put(event.memcg)
        raise ValueError("a defect in a handler")

    monkeypatch.setitem(scheme.workqueue._handlers, "create", handle)
    monkeypatch.setattr(scheme.workqueue, "report_exception", lambda error: None)
    post_create(scheme, None)
    scheme.work()
    assert scheme.workqueue._in_hand == []
    assert [str(error) for error in scheme.workqueue.failures] == ["a defect in a handler"]
    scheme.workqueue.failures.clear()
