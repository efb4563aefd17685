"""Forks, and the end of the interpreter: all other threads vanish with what they hold."""

from __future__ import annotations

from collections.abc import Callable

from .. import seam
from .system import System, scenario


def _fork(s: System, child: Callable[[], object]) -> None:
    """``os.fork`` with the handlers that are registered, and then the child."""
    s.cgroup._before_fork()
    seam.fork()
    s.cgroup._after_fork_in_child()
    s.cgroup._after_fork()
    child()


@scenario(
    "a thread forks at every point of another's making of a group; the child makes one too",
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


@scenario("a thread forks at every point of the worker's creation; the child allocates too",
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


@scenario("a thread forks while the arrays grow; the child makes a group", forks=True)
def fork_growth() -> None:
    s = System()

    def fork() -> None:
        _fork(s, lambda: s.mkdir("c"))
        seam.quietly(s.check_end)

    seam.parallel(s.grow, fork)


@scenario("the parent of a fork x a closing x the worker: its handlers block nobody for ever")
def fork_parent() -> None:
    s = System()
    s.start_worker()
    s.use()

    def fork() -> None:
        s.cgroup._before_fork()
        s.cgroup._after_fork()

    seam.parallel(s.close, fork)
    s.workqueue.flush()
    s.finish()


@scenario(
    "the worker creates a child x the interpreter ends: a finalizer frees, nobody hangs",
    forks=True,
)
def worker_exit_free() -> None:
    s = System()
    address = s.frames.alloc(s.a)
    s.start_worker()

    def end() -> None:
        s.workqueue.stop()
        seam.fork()  # at exit too all other threads stop where they are
        s.frames.free(address)

    s.workqueue.wake()
    seam.parallel(end)


@scenario(
    "the worker creates a child x the interpreter ends: the last reference to a group goes",
    forks=True,
)
def worker_exit_release() -> None:
    s = System()
    b = s.mkdir("b")
    b.css_get()
    s.rmdir(b)
    s.use()
    s.start_worker()

    def end() -> None:
        s.workqueue.stop()
        seam.fork()
        b.css_put()

    s.workqueue.wake()
    seam.parallel(end)


@scenario("the worker destroys a dead child x the interpreter's end waits for it, then frees",
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
