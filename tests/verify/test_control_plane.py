# SPDX-License-Identifier: Apache-2.0
"""Checks in one thread kill mutants of the control plane that no schedule shows."""

from __future__ import annotations

import contextlib
import gc
import signal

import pytest

from memcg.verify import errors, explore, seam
from memcg.verify.scheme import world
from memcg.verify.scheme.scenarios import System


@pytest.fixture
def system():
    return System()


def test_arrays_do_not_grow_without_memcg_slab_mutex(system):
    with pytest.raises(AssertionError, match="memcg_slab_mutex is not held"):
        system.memcontrol.memcg_update_cache_size(system.frames, 9)


def test_an_id_that_was_reused_is_not_given_out_again(system):
    signal.setitimer(signal.ITIMER_PROF, 10)  # processor time; kills an endless loop
    system.mkdir("b")
    system.rmdir(system.a)
    system.work()
    assert [system.mkdir(name)._kmemcg_id for name in "cde"] == [0, 2, 3]
    signal.setitimer(signal.ITIMER_PROF, 0)


def test_when_all_ids_are_in_use_a_group_is_refused_and_nothing_is_lost(system):
    system.memcontrol.MEMCG_CACHES_MAX_SIZE = 2
    b = system.mkdir("b")
    with pytest.raises(MemoryError, match="all 2 kmemcg_ids are in use"):
        system.mkdir("c")
    system.rmdir(b)
    system.work()
    assert system.mkdir("c")._kmemcg_id == 1


def test_nothing_is_made_below_a_closed_group(system):
    system.rmdir(system.a)
    with pytest.raises(system.errors.OfflineError):
        system.cgroup.cgroup_mkdir(system.a, "b")


@pytest.mark.parametrize(
    ("path", "error", "text"),
    [(7, TypeError, "must be a str, not int"), ("", ValueError, "must have 1 to 4096"),
     ("x" * 4097, ValueError, "must have 1 to 4096"), ("a//b", ValueError, "no part may be")],
)  # fmt: skip
def test_a_bad_path_is_refused_with_the_rule(system, path, error, text):
    with pytest.raises(error, match=text):
        system.mkdir(path)


def test_a_group_whose_making_is_interrupted_after_activation_gives_its_id_back(system):
    activate = system.cgroup.memcg_activate_kmem

    def interrupted(group):
        activate(group)
        raise KeyboardInterrupt

    system.cgroup.memcg_activate_kmem = interrupted
    with pytest.raises(KeyboardInterrupt):
        system.mkdir("b")
    system.cgroup.memcg_activate_kmem = activate
    gc.collect()
    system.finish()
    assert system.mkdir("c")._kmemcg_id == 1


def test_the_size_classes_become_root_caches(system):
    system.slab_common.create_kmalloc_caches()
    made = [s.name for s in system.slab_common.slab_caches]
    assert made == ["frames", *(f"kmalloc-{n}" for n in system.core.KMALLOC_SIZES)]


def touching_a_destroyed_child():
    s = System()
    child = s.serve_empty(s.a)
    s.rmdir(s.a)
    assert child.memcg_params


def touching_a_released_group():
    s = System()
    s.rmdir(s.a)
    s.work()
    assert s.a.path


@pytest.mark.parametrize("program", [touching_a_destroyed_child, touching_a_released_group])
def test_touching_what_is_gone_is_a_use_after_free(program):
    failure = explore(program).failure
    assert failure is not None
    assert isinstance(failure.exception, errors.UseAfterFree)


# -- reclaim


def test_reclaim_asks_each_shrinker_collects_garbage_and_drops_empty_slabs(system):
    child, address = system.serve(system.a)
    asked = []

    class Cycle:
        def __init__(self):
            self.me = self

        def __del__(self):
            system.frames.free(address)

    Cycle()

    def broken(nbytes):
        raise ValueError("a shrinker's own")

    system.a.shrinkers += [broken, asked.append]
    with pytest.raises(ValueError, match="a shrinker's own"):
        system.vmscan.try_to_free(system.a, 7)
    assert asked == [7]
    assert child.nr_pages == 0
    assert system.a.current == 0


@pytest.fixture
def over_high(system):
    """Return a group whose charge crossed ``high``. The event about that waits."""
    system.core.set_promote_bytes(1 << 30)
    system.core.mem_cgroup_set_limit(system.a, "high", 100)
    address = system.frames.alloc(system.a)
    yield system
    system.frames.free(address)
    system.finish()


def test_work_at_high_reclaims_the_excess_notifies_the_group_and_drops_its_reference(over_high):
    asked, told = [], []
    over_high.a.shrinkers.append(asked.append)
    refs = over_high.core.css_refs
    over_high.vmscan.mem_cgroup_high_done = lambda memcg: told.append(refs(memcg))
    over_high.work()
    assert asked == [over_high.frames.size - 100 + 100 // 8 + 1]  # an eighth below ``high``
    assert told == [2]  # the item's reference is still held
    assert over_high.core.css_refs(over_high.a) == 1


def test_what_a_shrinker_raises_at_high_is_shown_and_the_reference_dropped(over_high, monkeypatch):
    def broken(nbytes):
        raise ValueError("a shrinker's own")

    shown, told = [], []
    monkeypatch.setattr(over_high.vmscan, "report_exception", shown.append)
    over_high.a.shrinkers.append(broken)
    over_high.vmscan.mem_cgroup_high_done = lambda memcg: told.append(1)
    over_high.work()
    assert [str(error) for error in shown] == ["a shrinker's own"]
    assert (told, over_high.core.css_refs(over_high.a)) == ([1], 1)


# -- registered and counted


def test_a_closed_group_counts_as_dying_until_nothing_refers_to_it(system):
    _, address = system.serve(system.a)
    system.rmdir(system.a)
    assert list(system.memcontrol.dying) == [system.a]
    system.frames.free(address)
    system.finish()
    assert not system.memcontrol.dying


def test_the_fork_handlers_are_registered(monkeypatch):
    registered = []
    monkeypatch.setattr(world._SEAM, "at_fork", lambda *handlers: registered.append(handlers))
    system = System()
    fork = system.fork
    assert registered == [(fork._before_fork, fork._after_fork, fork._after_fork_in_child)]


@pytest.mark.parametrize("after", range(4), ids=lambda n: f"after {n} mutexes")
def test_an_interrupt_in_the_handlers_of_a_fork_leaves_the_parent_no_mutex(system, after):
    fork, interrupts = system.fork, [KeyboardInterrupt]

    class Interrupted(seam.Mutex):
        def acquire_within(self, seconds):
            if interrupts:
                raise interrupts.pop()
            return super().acquire_within(seconds)

    mutexes = list(fork._MUTEXES)
    mutexes[after:after] = [Interrupted("interrupted")]
    fork._MUTEXES = mutexes
    with pytest.raises(KeyboardInterrupt):
        fork._before_fork()
    assert all(mutex.held() for mutex in mutexes)
    fork._after_fork()
    assert not any(mutex.held() for mutex in mutexes)


def test_no_worker_starts_from_before_a_fork_takes_mutexes_until_it_has_let_go_of_them(
    system, monkeypatch
):
    mutexes, seen = system.fork._MUTEXES, []

    def note(what):
        seen.append((what, sum(mutex.held() for mutex in mutexes)))

    monkeypatch.setattr(system.core, "hold_workers", lambda: note("held"))
    monkeypatch.setattr(system.core, "release_workers", lambda: note("released"))
    system.fork._before_fork()
    note("forks")
    system.fork._after_fork()
    assert seen == [("held", 0), ("forks", len(mutexes)), ("released", 0)]


def test_the_worker_is_stopped_when_the_interpreter_ends(monkeypatch):
    registered = []
    monkeypatch.setattr(world._SEAM, "at_exit", registered.append)
    system = System()
    assert registered == [system.workqueue.stop]


# -- the worker


@pytest.mark.parametrize("error", [RuntimeError, MemoryError, KeyboardInterrupt])
def test_a_start_of_the_worker_that_fails_is_made_good_by_the_next_and_only_an_interrupt_shows(
    system, error
):
    spawn = system.workqueue.spawn

    def fail(fn, name):
        raise error

    system.workqueue.spawn = fail
    shows = pytest.raises(error) if error is KeyboardInterrupt else contextlib.nullcontext()
    with shows:
        system.workqueue.wake()
    assert system.is_idle()
    system.workqueue.flush()
    system.workqueue.spawn = spawn
    system.frames.free(system.frames.alloc(system.a))
    system.workqueue.wake()
    assert system.child(system.a) is not None


def test_a_handlers_exception_is_kept_and_shown_and_the_work_goes_on(system, monkeypatch):
    shown, seen = [], []

    def handler(event):
        seen.append(system.model._skip_account.copy())
        raise ValueError("a handler's")

    monkeypatch.setattr(system.workqueue, "report_exception", shown.append)
    system.workqueue.register("probe", handler)
    for _ in range(2):
        system.model._post(system.core.Event("probe", system.a, None))
    system.work()
    assert len(seen) == 2
    assert all(skipped for skipped in seen), "work is not accounted"
    assert not system.model._skip_account
    assert [str(e) for e in system.workqueue.failures] == ["a handler's"] * 2
    assert shown == system.workqueue.failures


def test_what_runs_uninterrupted_is_not_accounted_and_raises_here(system):
    seen = []

    def fn(n):
        seen.append((n, system.model._skip_account.copy()))
        raise ValueError("its own")

    with pytest.raises(ValueError, match="its own"):
        system.workqueue.uninterrupted(fn, 3)
    ((n, skipped),) = seen
    assert n == 3
    assert skipped
    assert not system.model._skip_account


def test_an_event_posted_after_the_worker_ended_is_done_by_a_flush(system):
    system.frames.free(system.frames.alloc(system.a))
    system.workqueue.flush()
    assert system.child(system.a) is not None


def test_posting_an_event_starts_the_worker():
    w = world.World()
    w.core.set_promote_bytes(0)
    frames = w.slab_common.kmem_cache_create("frames", 1000)
    a = w.cgroup.cgroup_mkdir(w.root, "a")
    frames.free(frames.alloc(a))
    assert w.memcontrol.cache_from_memcg_idx(frames, a._kmemcg_id) is not None


def test_a_start_of_the_worker_that_fails_and_is_interrupted_is_made_good_by_the_next(system):
    """The interrupt is raised after a call, when the worker is not at work yet."""
    queue = system.workqueue
    spawn, set_idle = queue.spawn, queue._idle.set

    def fail(fn, name):
        raise RuntimeError("can't start new thread")

    def interrupted():
        set_idle()
        raise KeyboardInterrupt

    queue.spawn, queue._idle.set = fail, interrupted
    with pytest.raises(KeyboardInterrupt):
        queue.wake()
    queue.spawn, queue._idle.set = spawn, set_idle
    system.frames.free(system.frames.alloc(system.a))
    queue.wake()
    assert system.child(system.a) is not None


def test_without_wq_lock_no_thread_can_set_or_read_that_no_worker_is_at_work(system):
    def handler(event):
        with pytest.raises(AssertionError, match="wq_lock is not held"):
            system.workqueue.__rest()
        assert system.workqueue._place.running  # nothing was done before it was noticed
        with pytest.raises(AssertionError, match="wq_lock is not held"):
            system.workqueue.is_idle()

    system.workqueue.register("probe", handler)
    system.model._post(system.core.Event("probe", system.a, None))
    system.workqueue.flush()
    assert not system.workqueue.failures


@pytest.mark.parametrize("start", ["wake", "work", "flush"])
def test_an_interrupt_before_the_worker_is_at_work_is_made_good_by_the_next(system, start):
    queue = system.workqueue
    clear = queue._idle.clear

    def interrupted():
        raise KeyboardInterrupt

    queue._idle.clear = interrupted
    with pytest.raises(KeyboardInterrupt):
        getattr(queue, start)()
    queue._idle.clear = clear
    system.frames.free(system.frames.alloc(system.a))
    getattr(queue, start)()
    assert system.child(system.a) is not None


@pytest.mark.parametrize("start", ["work", "flush"])
def test_an_interrupt_as_the_place_is_taken_gives_it_back(system, start):
    queue, interrupts = system.workqueue, [KeyboardInterrupt]

    class Place:
        stopped = False
        taken = False

        @property
        def running(self):
            return self.taken

        @running.setter
        def running(self, taken):
            self.taken = taken
            if interrupts:
                raise interrupts.pop()

    queue._place = Place()
    with pytest.raises(KeyboardInterrupt):
        getattr(queue, start)()
    assert not queue._place.running
    system.frames.free(system.frames.alloc(system.a))
    getattr(queue, start)()
    assert system.child(system.a) is not None


def test_a_finalizer_that_forks_while_the_worker_says_that_it_is_idle_does_not_wait(system):
    set_idle = system.workqueue._idle.set
    waited = []

    def collected_meanwhile():
        system.workqueue.wait_idle()
        waited.append(system.workqueue.is_idle())
        set_idle()

    system.workqueue._idle.set = collected_meanwhile
    system.workqueue.wake()
    assert waited == [True]


def test_without_a_thread_uninterrupted_work_runs_in_the_caller(system):
    def fail(fn, name):
        raise RuntimeError("can't start new thread")

    system.workqueue.spawn = fail
    ran = []
    system.workqueue.uninterrupted(ran.append, 3)
    assert ran == [3]


def test_nothing_is_accounted_until_the_end_of_uninterrupted_work_was_signalled(system):
    told = []

    class Told(seam.Event):
        def set(self):
            told.append(system.model._skip_account.copy())
            super().set()

    system.workqueue.Event = Told
    system.workqueue.uninterrupted(lambda: None)
    (skipped,) = told
    assert skipped
    assert not system.model._skip_account


def test_waiting_for_the_worker_includes_its_native_thread_except_in_the_worker(system):
    queue, idle = system.workqueue, []
    queue.core.wait_worker = lambda within: idle.append(queue._idle.is_set())
    queue.wait_idle()
    assert idle == [True]
    queue.register("probe", lambda event: queue.wait_idle())
    for be_the_worker in (queue.wake, queue.work, queue.flush):
        system.model._post(system.core.Event("probe", system.a, None))
        be_the_worker()
    assert idle == [True]


def test_after_the_interpreters_end_began_no_worker_starts_but_a_flush_does_the_work(system):
    done = []
    system.workqueue.register("probe", done.append)
    system.workqueue.stop()
    system.model._post(system.core.Event("probe", system.a, None))
    system.workqueue.wake()
    system.workqueue.work()
    assert not done
    system.workqueue.flush()
    assert len(done) == 1
