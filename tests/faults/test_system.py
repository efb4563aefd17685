# SPDX-License-Identifier: Apache-2.0
"""The system may refuse mappings, advice and threads; memcg goes on or says why it cannot."""

from __future__ import annotations

import pytest


def test_a_worker_that_cannot_start_is_started_by_the_next_event(sweep):
    figures = sweep("""
    from memcg.control import cgroup
    cgroup.NR_SPARE = 0  # a group that is kept posts no event when it is closed
    def children():
        return [s.name for s in slab_common.slab_caches if s.memcg_params.memcg is g]

    def idle():
        core.wait_worker()
        workqueue.wait_idle()

    frames = memcg.KmemCache("frame", 3000)
    others = memcg.KmemCache("other", 3000)
    g = memcg.group("g", max="64MiB")
    with faults.inject(nth=1, times=3, what="thread") as injected, g:
        frames.free(frames.alloc())        # asks for a child, but the worker cannot start
        idle()
        assert injected.faults == 1, injected.faults
        assert children() == []
        frames.free(frames.alloc())        # works without the child
        others.free(others.alloc())        # the next events: the second and third start fail
        idle()
        gone = memcg.group("gone")
        gone.close()
        gone = None
        idle()
        assert injected.faults == 3, injected.faults
        assert children() == []
        memcg.group("gone").close()        # the event of this close starts it
        idle()
        assert len(children()) == 2, children()
        assert injected.eligible == 4, injected.eligible
        frames.free(frames.alloc())
    check_locks()
    g.close()
    frames.destroy()
    others.destroy()
    settle()
    assert not memcontrol._used_ids and not memcontrol.dying
    print(json.dumps(injected.faults))
    """)
    assert figures == 3


def test_without_a_worker_at_all_groups_work_and_flush_does_what_is_left(sweep):
    figures = sweep("""
    frames = memcg.KmemCache("frame", 3000)
    def operation():
        with memcg.scope("t"):
            b = frames.alloc_bulk(10)
            workqueue.flush()
            b += frames.alloc_bulk(10)
            frames.free_bulk(b)
    make_threads()  # a worker may start before the last one's structure is free
    operation()
    with faults.inject(probability=1, what="thread", all_threads=True) as injected:
        before = state()
        for _ in range(20):
            operation()
            check_same(before, state, "no worker could start")
        check_locks()
    operation()
    check_same(before, state, "workers can start again")
    print(json.dumps(injected.faults))
    """)
    assert figures >= 20


def test_advice_that_is_refused_changes_nothing(sweep):
    figures = sweep("""
    memcg.install()
    a, b = memcg.group("a"), memcg.group("b")
    with faults.inject(probability=1, what="madvise") as injected:
        for i in range(5):
            with a:
                x = bytearray(b"a" * (8 << 20))
                del x
            with b:
                y = bytearray(8 << 20)
                assert not any(y)
                del y
        assert core.trim() == 0
    assert core.trim() > 0
    settle()
    print(json.dumps([injected.faults, a.stat["page_runs"], b.stat["page_runs"]]))
    """)
    assert figures[0] >= 10
    assert figures[1:] == [0, 0]


def test_where_nothing_can_be_mapped_the_request_fails_and_the_next_works(sweep):
    figures = sweep("""
    memcg.install()
    g = memcg.group("g")
    told = 0
    for n in range(1, 100):
        size = core.global_stat()["committed"] + (1 << 20)  # more than is readable so far
        with faults.inject(nth=n, times=2, what="mmap") as injected, g:
            try:
                x = bytearray(size)
            except MemoryError:
                told += 1
            else:
                del x
        assert g.stat["page_runs"] == 0
        if not injected.faults:
            break
        with g:
            x = bytearray(size)
            assert g.stat["page_runs"] >= size
            del x
    print(json.dumps(told))
    """)
    assert figures >= 1


@pytest.mark.parametrize(
    ("mappings", "core"),
    [("nth=1", "native"), ("nth=2,times=7", "native"), ("nth=4", "model"), ("nth=7", "model")],
)
def test_the_native_core_starts_with_less_or_the_model_core_says_why(sweep, mappings, core):
    name, why, works = sweep(
        """
    with memcg.scope("a"), memcg.KmemCache("frame", 100) as frames:
        frames.free(frames.alloc())
    print(json.dumps([core.name, core.why_not_native, True]))
    """,
        before="import memcg\nfrom memcg import core\nimport json\n",
        MEMCG_FAIL=f"what=mmap,{mappings}",
    )
    assert name == core
    assert works
    assert ("no address space" in why) == (core == "model")


def test_without_a_thread_a_group_with_caches_is_closed_and_a_cache_destroyed(sweep):
    tried = sweep("""
    frames = memcg.KmemCache("frame", 3000)
    tried = []
    def operation():
        with memcg.scope("t"), memcg.KmemCache("new", 100) as new:
            for cache in (frames, new):
                buffer = cache.alloc()
                workqueue.flush()
                cache.free(buffer)
    def no_thread(fn, name):
        tried.append(name)
        raise RuntimeError("can't start new thread")
    make_threads()
    for _ in range(3):  # now all tables have grown
        operation()
    before = state()
    start = workqueue.spawn
    workqueue.spawn = no_thread
    operation()
    workqueue.spawn = start
    check_same(before, state, "there was no thread")
    check_locks()
    print(json.dumps(len(tried)))
    """)
    assert tried == 2
