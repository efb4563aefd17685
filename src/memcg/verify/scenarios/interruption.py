"""Asynchronous exceptions and forks, at every point."""

from __future__ import annotations

from .. import seam
from .system import System, scenario


@scenario("closing is interrupted at every point; then it is closed again",
          interrupts=[("close", KeyboardInterrupt)])  # fmt: skip
def interrupted_close() -> None:
    s = System()
    s.serve_empty(s.a)

    def close() -> None:
        s.rmdir(s.a)

    seam.parallel(close)
    seam.settle()
    if "a" in s.children():  # else its last reference may be gone
        s.rmdir(s.a)
    s.finish()


@scenario(
    "closing is interrupted at every point; it is closed again meanwhile",
    interrupts=[("close", KeyboardInterrupt)],
)
def interrupted_close_close() -> None:
    s = System()
    s.serve_empty(s.a)

    def close() -> None:
        s.rmdir(s.a)

    seam.parallel(close)
    if "a" in s.children():
        s.rmdir(s.a)
    s.work()
    seam.settle()
    s.finish()


@scenario("destruction of a root is interrupted at every point; then it is destroyed again",
          interrupts=[("destroy", KeyboardInterrupt)])  # fmt: skip
def interrupted_destroy() -> None:
    s = System()
    s.serve_empty(s.a)

    def destroy() -> None:
        assert s.destroy(s.frames)

    seam.parallel(destroy)
    try:
        assert s.destroy(s.frames)
    except s.errors.MemcgError:  # the interrupted wait left the destruction at work
        assert s.frames not in s.slab_common.slab_caches
    seam.settle()
    s.finish()


@scenario("making a group is interrupted at every point; then it is made again",
          interrupts=[("make", KeyboardInterrupt)])  # fmt: skip
def interrupted_mkdir() -> None:
    s = System()

    def make() -> None:
        s.mkdir("b")

    seam.parallel(make)
    s.rmdir(s.mkdir("b"))
    s.finish(references=False)  # a group dropped half-made lets go of its parent when collected


@scenario(
    "a thread forks at every point of another's making of a group; the child makes one too",
    forks=True,
)
def fork_mkdir() -> None:
    s = System()

    def make() -> None:
        s.mkdir("b")

    def fork() -> None:
        s.cgroup._before_fork()
        seam.fork()
        s.cgroup._after_fork()
        s.core.after_fork_in_child()
        s.mkdir("c")
        seam.quietly(s.check_end)

    seam.parallel(make, fork)


@scenario("a thread forks at every point of the worker's creation; the child allocates too",
          forks=True,
          open_defect="the model core's locks are held in the child, as no at-fork handler "
          "takes them")  # fmt: skip
def fork_creation() -> None:
    s = System()
    s.start_worker()

    def use() -> None:
        s.frames.free(s.frames.alloc(s.a))

    def fork() -> None:
        s.cgroup._before_fork()
        seam.fork()
        s.cgroup._after_fork()
        s.core.after_fork_in_child()
        s.frames.free(s.frames.alloc(s.a))
        seam.settle()

    seam.parallel(use, fork)
