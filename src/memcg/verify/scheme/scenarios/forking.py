# SPDX-License-Identifier: Apache-2.0
"""Forks, and the end of the interpreter: other threads vanish, and what they hold stays held."""

from __future__ import annotations

from collections.abc import Callable

from ... import seam
from .system import System, scenario


def _fork(s: System, child: Callable[[], object]) -> None:
    """Do as ``os.fork`` with the handlers that are registered, then run `child` in the child."""
    s.fork._before_fork()
    seam.fork()
    s.fork._after_fork_in_child()
    s.fork._after_fork()
    child()


@scenario(
    "a thread forks at every point at which another makes a group; the child makes a group",
    forks=True,
)
def fork_mkdir() -> None:
    s = System()

    def make() -> None:
        s.mkdir("b")

    def fork() -> None:
        _fork(s, lambda: s.mkdir("c"))
        seam.quietly(s.check_end)

    seam.parallel(make, fork)


@scenario("a thread forks at every point at which the worker creates; the child allocates",
          forks=True)  # fmt: skip
def fork_creation() -> None:
    s = System()
    s.start_worker()

    def fork() -> None:
        _fork(s, s.use)
        seam.settle()

    seam.parallel(s.use, fork)


@scenario("a thread forks at every point of a closing; the child closes the group",
          forks=True)  # fmt: skip
def fork_close() -> None:
    s = System()
    s.serve_empty(s.a)

    def in_child() -> None:
        if "a" in s.children():
            s.rmdir(s.a)
        s.finish()

    def fork() -> None:
        _fork(s, in_child)

    seam.parallel(s.close, fork)


@scenario("a thread forks at every point of a root's destruction; the child destroys it",
          forks=True)  # fmt: skip
def fork_destroy() -> None:
    s = System()
    s.serve_empty(s.a)

    def destroy() -> None:
        s.destroy(s.frames)

    def in_child() -> None:
        if s.has(s.frames):
            assert s.destroy(s.frames)
        s.finish()

    def fork() -> None:
        _fork(s, in_child)

    seam.parallel(destroy, fork)


@scenario("a thread forks at every point of another's entry and exit; the child closes the group",
          forks=True)  # fmt: skip
def fork_inside() -> None:
    s = System()

    def be_inside() -> None:
        s.core.enter(s.a)
        s.core.leave(s.a)

    def in_child() -> None:
        s.rmdir(s.a)  # no thread of the child is inside
        s.finish()

    seam.parallel(be_inside, lambda: _fork(s, in_child))


@scenario("a fork that does not wait x an entry and an exit: the child, which is inside, stays so",
          forks=True)  # fmt: skip
def fork_impatient_inside() -> None:
    s = System()

    def be_inside() -> None:
        s.core.enter(s.a)
        s.core.leave(s.a)

    def in_child() -> None:
        assert s.a.nr_inside == 1
        s.core.leave(s.a)
        s.rmdir(s.a)

    def fork() -> None:
        s.core.enter(s.a)
        _fork_at_once(s, in_child)

    seam.parallel(be_inside, fork)


@scenario("a thread forks while the arrays grow; the child makes a group", forks=True)
def fork_growth() -> None:
    s = System()

    def fork() -> None:
        _fork(s, lambda: s.mkdir("c"))
        seam.quietly(s.check_end)

    seam.parallel(s.grow, fork)


@scenario("the fork handlers in the parent x a closing x the worker: no thread blocks for ever")
def fork_parent() -> None:
    s = System()
    s.start_worker()
    s.use()

    def fork() -> None:
        s.fork._before_fork()
        s.fork._after_fork()

    seam.parallel(s.close, fork)
    s.workqueue.flush()
    s.finish()


@scenario(
    "the worker creates a child x the interpreter ends: a finalizer frees and nothing hangs",
    forks=True,
)
def worker_exit_free() -> None:
    s = System()
    address = s.frames.alloc(s.a)
    s.start_worker()

    def end() -> None:
        s.workqueue.stop()
        seam.fork()  # at the end of the interpreter, too, all other threads stop where they are
        s.frames.free(address)

    s.workqueue.wake()
    seam.parallel(end)


@scenario(
    "the worker creates a child x the interpreter ends: a group's last reference is dropped",
    forks=True,
)
def worker_exit_release() -> None:
    s = System()
    b = s.mkdir("b")
    s.core.css_get(b)
    s.rmdir(b)
    s.use()
    s.start_worker()

    def end() -> None:
        s.workqueue.stop()
        seam.fork()
        s.core.css_put(b)

    s.workqueue.wake()
    seam.parallel(end)


@scenario("the worker destroys a dead child x the interpreter's end waits for it and then frees",
          forks=True)  # fmt: skip
def worker_exit_waiting() -> None:
    s = System()
    _, address = s.serve(s.a)
    s.rmdir(s.a)
    b = s.mkdir("b")
    other = s.frames.alloc(b)
    s.start_worker()
    s.frames.free(address)

    def end() -> None:
        s.workqueue.wait_idle()
        seam.fork()
        s.frames.free(other)

    seam.parallel(end)


class _Own(seam.Mutex):
    """A lock of the program's own. memcg cannot know its order, so lockdep does not see it."""

    acquire, release = seam.Mutex.acquire, seam.Mutex.release


def _fork_under(s: System, lock: _Own, child: Callable[[], object]) -> None:
    """Fork in a program with a lock of its own, whose fork handler takes it after our mutexes."""
    s.fork._before_fork()
    lock.acquire()
    seam.fork()
    lock.release()
    s.fork._after_fork_in_child()
    s.fork._after_fork()
    child()


@scenario("a fork takes a program's own lock after our mutexes x a thread makes a group under it",
          forks=True)  # fmt: skip
def fork_foreign_lock() -> None:
    s = System()
    lock = _Own("the program's own")

    def make() -> None:
        with lock:
            s.mkdir("b")

    def fork() -> None:
        _fork_under(s, lock, lambda: s.mkdir("c"))
        seam.quietly(s.check_end)

    seam.parallel(make, fork)


@scenario("such a fork x a creation in whose middle a finalizer releases the lock: the child mends",
          forks=True)  # fmt: skip
def fork_foreign_lock_creation() -> None:
    s = System()
    lock = _Own("the program's own")
    name_of = s.slab_common.memcg_create_cache_name

    def interrupted(*args: object) -> str:
        lock.release()
        return str(name_of(*args))

    def create() -> None:
        lock.acquire()
        with s.memcontrol.memcg_slab_mutex:
            s.memcontrol.memcg_kmem_create_cache(s.a, s.frames)

    s.slab_common.memcg_create_cache_name = interrupted
    seam.parallel(create, lambda: _fork_under(s, lock, s.finish))


@scenario("the parent of such a fork: its handlers and the thread under the lock both end")
def fork_foreign_lock_parent() -> None:
    s = System()
    lock = _Own("the program's own")

    def close() -> None:
        with lock:
            s.close()

    def fork() -> None:
        s.fork._before_fork()
        lock.acquire()
        lock.release()
        s.fork._after_fork()

    seam.parallel(close, fork)
    s.finish()


@scenario("a fork takes a program's own lock before our mutexes x a finalizer that has interrupted "
          "our own work takes the lock", forks=True)  # fmt: skip
def fork_foreign_lock_finalizer() -> None:
    s = System()
    lock = _Own("the program's own")

    def make() -> None:
        with s.cgroup.cgroup_mutex, lock:
            pass
        s.mkdir("b")

    def fork() -> None:
        lock.acquire()
        s.fork._before_fork()
        seam.fork()
        s.fork._after_fork_in_child()
        s.fork._after_fork()
        lock.release()
        s.mkdir("c")
        seam.quietly(s.check_end)

    seam.parallel(make, fork)


def _fork_at_once(s: System, child: Callable[[], object]) -> None:
    """Fork after the patience is over: other tasks may be anywhere in our own work."""
    s.core.hold_workers()
    seam.fork()
    s.fork._after_fork_in_child()
    s.fork._after_fork()
    child()
    s.workqueue.flush()


@scenario("a fork that does not wait x a closing: the child closes the group", forks=True)
def fork_impatient_close() -> None:
    s = System()
    s.serve_empty(s.a)

    def in_child() -> None:
        if "a" in s.children():
            s.rmdir(s.a)
        s.mkdir("a")
        assert s.destroy(s.frames)

    seam.parallel(s.close, lambda: _fork_at_once(s, in_child))


@scenario("a fork that does not wait x the making of a group: the child makes it", forks=True)
def fork_impatient_mkdir() -> None:
    s = System()

    def make() -> None:
        s.mkdir("b")

    seam.parallel(make, lambda: _fork_at_once(s, lambda: s.rmdir(s.mkdir("b"))))


@scenario("a fork that does not wait x the worker's creation: the child's worker finishes it",
          forks=True)  # fmt: skip
def fork_impatient_worker() -> None:
    s = System()
    s.start_worker()

    def in_child() -> None:
        s.use()
        s.workqueue.flush()
        s.rmdir(s.a)

    seam.parallel(s.use, lambda: _fork_at_once(s, in_child))


@scenario("a fork that does not wait x a root's destruction: the child destroys it", forks=True)
def fork_impatient_destroy() -> None:
    s = System()
    s.serve_empty(s.a)

    def in_child() -> None:
        if s.has(s.frames) and not s.frames.frozen:
            s.use()
            s.work()
            assert s.child(s.a) is not None  # the root is not dying: its destroyer is gone
        if s.has(s.frames):
            assert s.destroy(s.frames)
        s.rmdir(s.a)

    seam.parallel(s.destroy_frames, lambda: _fork_at_once(s, in_child))
