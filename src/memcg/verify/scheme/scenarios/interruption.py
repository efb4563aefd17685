# SPDX-License-Identifier: Apache-2.0
"""An asynchronous exception is raised at every point of a task."""

from __future__ import annotations

import contextlib

from memcg.errors import MemcgOOM

from ... import seam
from .system import System, scenario


@scenario("a closing is interrupted at every point; then the group is closed again",
          interrupts=[("close", KeyboardInterrupt)])  # fmt: skip
def interrupted_close() -> None:
    s = System()
    s.serve_empty(s.a)

    seam.parallel(s.close)
    seam.settle()
    if "a" in s.children():  # if it is not there, its last reference may have been dropped
        s.rmdir(s.a)
    s.finish()


@scenario(
    "a closing is interrupted at every point; meanwhile the group is closed again",
    interrupts=[("close", KeyboardInterrupt)],
)
def interrupted_close_close() -> None:
    s = System()
    s.serve_empty(s.a)

    seam.parallel(s.close)
    if "a" in s.children():
        s.rmdir(s.a)
    s.work()
    seam.settle()
    s.finish()


@scenario("a closing without caches is interrupted at every point; then the path is made again",
          interrupts=[("close", KeyboardInterrupt)])  # fmt: skip
def interrupted_close_mkdir() -> None:
    s = System()

    seam.parallel(s.close)
    seam.settle()
    assert s.mkdir("a").online, "a path leads to a closed group"
    s.rmdir(s.mkdir("a"))
    s.finish()


@scenario("a root's destruction is interrupted at every point; then the root is destroyed again",
          interrupts=[("destroy_frames", KeyboardInterrupt)])  # fmt: skip
def interrupted_destroy() -> None:
    s = System()
    s.serve_empty(s.a)

    seam.parallel(s.destroy_frames)
    try:
        assert s.destroy(s.frames)
    except s.errors.MemcgError:  # the wait was interrupted, but the destruction went on
        assert not s.has(s.frames)
    seam.settle()
    s.finish()


@scenario("the making of a group is interrupted at every point; then the group is made again",
          interrupts=[("make", KeyboardInterrupt)])  # fmt: skip
def interrupted_mkdir() -> None:
    s = System()

    def make() -> None:
        s.mkdir("b")

    seam.parallel(make)
    s.rmdir(s.mkdir("b"))
    s.finish(references=False)  # a half-made group drops its parent only when it is collected


@scenario("a closing with an alarm at every point x allocation and free",
          interrupts=[("close", MemcgOOM)])  # fmt: skip
def alarmed_close_allocation() -> None:
    s = System()
    s.serve_empty(s.a)
    s.core.css_get(s.a)  # the test's reference, to look at the group afterwards

    seam.parallel(s.use, s.close)
    seam.settle()
    if "a" in s.children():
        s.rmdir(s.a)
    s.core.css_put(s.a)
    s.finish()


@scenario("an alarm is raised at every point of an allocation and a free that wake the worker",
          interrupts=[("use", MemcgOOM)])  # fmt: skip
def alarmed_allocation() -> None:
    s = System()
    s.start_worker()
    kept: list[int] = []

    def use() -> None:
        kept.append(s.frames.alloc(s.a))
        s.frames.free(kept[0])
        kept.pop()

    seam.parallel(use)
    s.workqueue.flush()
    seam.settle()
    for address in kept:
        with contextlib.suppress(ValueError):  # the alarm was raised after the free
            s.frames.free(address)
    s.finish()


@scenario("the making of a group is interrupted at every point x another group is made",
          interrupts=[("make", KeyboardInterrupt)])  # fmt: skip
def interrupted_mkdir_mkdir() -> None:
    s = System()

    def make() -> None:
        s.mkdir("b")

    def other() -> None:
        s.mkdir("b/c")

    seam.parallel(make, other)
    assert s.children() == ["a", "b"]
    s.finish(references=False)


@scenario("the reading of slabinfo is interrupted at every point x offline",
          interrupts=[("slabinfo", KeyboardInterrupt)])  # fmt: skip
def interrupted_slabinfo_offline() -> None:
    s = System()
    s.serve_empty(s.a)
    s.core.css_get(s.a)

    seam.parallel(s.slabinfo, s.close)
    s.core.css_put(s.a)
    s.finish()


@scenario("the destruction of a root with a busy child gets an alarm at every point x slabinfo",
          interrupts=[("destroy", MemcgOOM)])  # fmt: skip
def alarmed_busy_destroy() -> None:
    s = System()
    _, address = s.serve(s.a)

    def destroy() -> None:
        assert not s.destroy(s.frames)

    def slabinfo() -> None:
        assert len(s.memcontrol.mem_cgroup_slabinfo_read(s.a).splitlines()) == 3

    seam.parallel(destroy, slabinfo)
    seam.settle()
    s.serve_empty(s.mkdir("b"))  # the refused root serves on
    s.frames.free(address)
    s.finish()


@scenario("an entry into a group is interrupted at every point x the group is closed",
          interrupts=[("enter", KeyboardInterrupt)])  # fmt: skip
def interrupted_entry_close() -> None:
    s = System()

    def enter() -> None:
        try:
            with s.a:
                assert s.a.online, "inside a group that is offline"
                s.frames.free(s.frames.alloc())
        except s.errors.OfflineError:
            assert not s.a.online

    def close() -> None:
        try:
            s.rmdir(s.a)
        except s.errors.GroupBusy:
            assert s.a.online

    seam.parallel(enter, close)
    seam.settle()
    s.finish()
