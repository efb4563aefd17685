# SPDX-License-Identifier: Apache-2.0
"""Finalizers, shrinkers, constructors and generators change what is running them.

They take mutexes where docs/locking.md allows none, so lockdep does not watch.
"""

from __future__ import annotations

import pytest

UNWATCHED = {"MEMCG_LOCKDEP": ""}


@pytest.mark.parametrize("how", ["shrinker", "finalizer"])
def test_a_cache_is_destroyed_by_the_worker_itself(survives, how):
    """Once the worker waited for a thread that waited for the worker."""
    survives(
        f"""
    import gc
    cache, done = memcg.KmemCache("gone", 100), threading.Event()
    g = memcg.group("g", max="8MiB")
    worker = []
    def destroy():
        worker.append(threading.current_thread() is not threading.main_thread())
        cache.destroy()
        done.set()
    class Owner:
        def __del__(self): destroy()
    gc.disable()  # only the worker collects
    if {how == "shrinker"}:
        once = [destroy]
        g.shrinker(lambda nbytes: once and once.pop()())
    else:
        owner = Owner(); owner.me = owner; del owner
    with memcg.shield(), g:
        rows = [bytes(900) for _ in range(7600)]  # past `high`
    assert done.wait(30)
    memcg.control.workqueue.flush()
    assert worker == [True]
    del rows
    """,
        **UNWATCHED,
    )


def test_a_shrinker_closes_its_group_forks_and_reclaims(survives):
    survives(
        """
    g, said = memcg.group("g", max="8MiB"), []
    @g.shrinker
    def shrink(nbytes):
        try: g.close()
        except memcg.GroupBusy: pass
        said.append(nbytes)
        pid = os.fork()
        if pid == 0: os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        if len(said) < 5: g.reclaim(1)
    with memcg.shield(), g:
        rows = [bytes(900) for _ in range(7600)]
        while not said: time.sleep(0.001)
    memcg.control.workqueue.flush()
    del rows
    assert not memcg.control.workqueue.failures
    g.close()
    """,
        "-Wignore::DeprecationWarning",
        **UNWATCHED,
    )


def test_a_fork_in_the_middle_of_our_own_work_waits_for_no_thread_and_the_child_can_work(survives):
    """Another thread and the worker wait for what the forking thread holds, as in a finalizer."""
    survives(
        """
    from memcg.control.cgroup import cgroup_mutex
    from memcg.control.memcontrol import memcg_slab_mutex
    busy, held, inside = memcg.group("busy"), [], threading.Event()
    def make():
        with cgroup_mutex:
            inside.set()
            with memcg_slab_mutex: pass
    maker = threading.Thread(target=make)
    with memcg_slab_mutex:
        with busy:
            held.append([[i] for i in range(30_000)])  # asks the worker for child caches
        maker.start(); inside.wait(); time.sleep(0.05)
        assert not memcg.control.workqueue._idle.is_set()
        pid = os.fork()
    if pid == 0:
        signal.alarm(20)
        with memcg.scope("child") as child:
            rows = [[i] for i in range(30_000)]
            memcg.control.workqueue.flush()
            assert child.memcg_slab_caches
        memcg.group("closed").close()
        os._exit(0)
    status = os.waitpid(pid, 0)[1]
    assert status == 0, status
    maker.join()
    memcg.control.workqueue.flush()
    assert busy.memcg_slab_caches and not memcg.control.fork._nested_forks
    """,
        "-Wignore::DeprecationWarning",
        **UNWATCHED,
    )


def test_at_the_end_a_finalizer_makes_and_closes_groups_and_caches(survives):
    """Once it waited for a thread, and no other thread runs then."""
    shown = survives(
        """
    class Last:
        def __del__(self, memcg=memcg, print=print):
            with memcg.scope("last", max="1MiB") as g:
                rows = [bytes(100) for _ in range(1000)]
            cache = memcg.KmemCache("last", 100)
            with memcg.group("with-caches") as g:
                cache.free(cache.alloc())
            g.close()
            cache.destroy()
            print(g.current, g.online)
    sys.modules["kept to the end"] = Last()
    last = Last(); last.me = last; del last
    memcg.group("entered").__enter__()
    """,
        **UNWATCHED,
    )
    assert shown == "0 False\n" * 2


def test_finalizers_nest_and_run_in_threads_that_end(survives):
    survives(
        """
    import gc, weakref
    failures = []
    class Node:
        def __init__(self, depth): self.depth, self.me = depth, self
        def __del__(self):
            with memcg.group(f"nodes/{self.depth % 5}", max="1MiB"):
                rows = [bytes(100) for _ in range(20)]
                if self.depth: Node(self.depth - 1)
                if self.depth % 7 == 0: gc.collect()
    class Closer:
        def __init__(self, group): self.group = group
        def __del__(self):
            with memcg.scope("closing"): rows = [0] * 100
            self.group.close()
    local = threading.local()
    def work(name):
        g = memcg.group(name, max="8MiB")
        local.closer = Closer(g)  # finalized when the thread ends
        with g: local.rows = [str(i) for i in range(2000)]
        with memcg.group("main", max="8MiB"):
            for _ in range(5): Node(15)
            gc.collect()
    threading.excepthook = sys.unraisablehook = failures.append
    for turn in range(10):
        threads = [threading.Thread(target=work, args=(f"t{turn}-{i}",)) for i in range(6)]
        for t in threads: t.start()
        for t in threads: t.join()
    gc.collect()
    memcg.group("nodes/late").close()  # also runs the closes that were put off
    assert not failures, failures
    assert sorted(memcg.root.children) == ["main", "nodes"], memcg.root.children
    memcg.root.children["main"].close()
    memcg.root.children["nodes"].close(recursive=True)
    """,
        **UNWATCHED,
    )


def test_weak_references_close_groups(survives):
    survives(
        """
    import gc, weakref
    class Session: pass
    def closing(name):
        def close(reference):
            memcg.group(name).close()
        return close
    held = []
    for i in range(500):
        g = memcg.group(f"s{i}")
        session = Session(); session.me = session
        held.append(weakref.ref(session, closing(f"s{i}")))
        with g: session.rows = [str(n) for n in range(10)]
        del session, g
    gc.collect()
    memcg.group("last").close()
    assert not memcg.root.children, memcg.root.children
    """,
        **UNWATCHED,
    )


def test_a_group_whose_with_ended_elsewhere_can_be_closed(run):
    """The collector closes its generator in another thread; once it stayed entered for ever."""
    shown = run(
        """
    import gc
    g, h = memcg.group("g"), memcg.group("h")
    def rows():
        with g:
            yield 1
    def abandon():
        generator = rows(); next(generator)
        held = [generator]; held.append(held)
    def never_leaves():
        for _ in range(300_000):  # so many must not be freed by recursion
            g.__enter__(); h.__enter__()
    gc.disable()
    for work in (abandon, never_leaves):
        thread = threading.Thread(target=work); thread.start(); thread.join()
        del thread  # since 3.14 it keeps the context that it ran in
        gc.collect()
    with h:  # entered in this context
        try: h.close()
        except memcg.GroupBusy: pass
        else: raise SystemExit("closed while entered")
    g.close(); h.close()
    """
    )
    assert shown.returncode == 0, shown.stderr
    assert "group 'g' is left, but it is not the innermost group of this context" in shown.stderr
    assert "use group.iterate()" in shown.stderr


@pytest.mark.parametrize("keeps", ["view", "view[:1]", "np.frombuffer(view, 'u1')"])
def test_a_constructor_that_keeps_what_it_was_shown_reaches_no_others_memory(survives, keeps):
    survives(
        f"""
    import gc
    import numpy as np
    kept = []
    cache = memcg.KmemCache("kept", 3000, ctor=lambda view: kept.append({keeps}))
    with memcg.group("a"):
        buffer = cache.alloc()
    for view in kept:
        try: view[0] = 7
        except ValueError: assert {keeps == "view"}  # released
    if {keeps != "view"}:
        try: cache.free(buffer)
        except BufferError: pass
        else: raise SystemExit("freed under a view")
        try: cache.destroy()
        except memcg.CacheBusy: pass
        else: raise SystemExit("destroyed under a view")
    kept.clear(); del view
    cache.free(buffer)
    cache.destroy()
    """
    )


def test_a_constructor_that_raises_recurs_forks_or_destroys_its_cache(survives):
    survives(
        """
    def make(name, ctor):
        return memcg.KmemCache(name, 300, ctor=ctor)
    def raises(view): raise ValueError("no")
    def recurs(view): recursive.alloc()
    def forks(view):
        view[:] = b"1" * 300
        if os.getpid() == parent:
            pid = os.fork()
            if pid == 0:
                with memcg.scope("child"): forking.free(forking.alloc())
                os._exit(0)
            assert os.waitpid(pid, 0)[1] == 0
    def destroys(view):
        try: destroyed.destroy()
        except memcg.CacheBusy as error: said.append(str(error))
    parent, said = os.getpid(), []
    raising, recursive = make("raises", raises), make("recurs", recurs)
    forking, destroyed = make("forks", forks), make("destroys", destroys)
    with memcg.group("a", max="4MiB") as g:
        for cache, error in ((raising, ValueError), (recursive, RecursionError)):
            for _ in range(50):
                try: cache.alloc()
                except error: pass
                else: raise SystemExit("allocated")
        buffers = forking.alloc_bulk(20)
        assert all(bytes(b) == b"1" * 300 for b in buffers)
        forking.free_bulk(buffers)
        destroyed.free(destroyed.alloc())
    assert "1 objects" in said[0], said
    for cache in (raising, recursive, forking, destroyed):
        assert cache._cache.info().active_objs == 0
        cache.destroy()
    """,
    )


@pytest.mark.parametrize("size", [0, 1, "1B"])
def test_a_group_that_may_have_nothing_gets_the_error_and_ends_well(survives, size):
    survives(
        f"""
    g = memcg.group("g", max={size!r}, high=0)
    told = 0
    for work in (lambda: [str(i) for i in range(100)], lambda: bytearray(100_000)):
        try:
            with g: rows = work()
        except MemoryError: told += 1
    rows = None
    assert told == 2
    g.reserve = 0
    try:
        with g: rows = [str(i) for i in range(1000)]
    except MemoryError: told += 1
    assert told == 3
    g.max = None
    with g: rows = [str(i) for i in range(1000)]
    g.close()
    """
    )
