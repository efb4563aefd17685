# SPDX-License-Identifier: Apache-2.0
"""Children, groups and roots are destroyed, busy or not, while other tasks use them."""

from __future__ import annotations

from typing import Any

from ... import seam
from .system import System, scenario


@scenario("a child's destruction by its group's offline x by its root's destruction")
def offline_root_destruction() -> None:
    s = System()
    s.serve_empty(s.a)

    seam.parallel(s.close, s.destroy_frames)
    s.finish()


@scenario("root destruction with a busy child x slabinfo")
def busy_root_slabinfo() -> None:
    s = System()
    _, address = s.serve(s.a)

    def destroy() -> None:
        assert not s.destroy(s.frames)

    def slabinfo() -> None:
        text = s.memcontrol.mem_cgroup_slabinfo_read(s.a)
        assert len(text.splitlines()) == 3

    seam.parallel(destroy, slabinfo)
    s.serve_empty(s.mkdir("b"))  # the root, whose destruction was refused, still gets children
    s.frames.free(address)
    s.finish()


@scenario("allocation and free in a child that was looked up x offline")
def allocation_offline() -> None:
    s = System()
    s.serve_empty(s.a)

    seam.parallel(s.use, s.close)
    s.finish()


@scenario("allocation and free in a child that was looked up x root destruction")
def allocation_root_destruction() -> None:
    s = System()
    s.serve_empty(s.a)

    def use() -> None:
        try:
            s.use()
        except s.errors.MemcgError:
            assert s.frames.frozen

    def destroy() -> None:
        s.destroy(s.frames)

    seam.parallel(use, destroy)
    s.finish()


@scenario("allocation in a child x offline x shrink")
def allocation_offline_shrink() -> None:
    s = System()
    child = s.serve_empty(s.a)

    def shrink() -> None:
        with s.memcontrol.memcg_slab_mutex:
            if s.child(s.a) is child:
                s.slab_common.kmem_cache_shrink(child)

    s.core.css_get(s.a)  # the shrinker's reference
    seam.parallel(s.use, s.close, shrink)
    s.core.css_put(s.a)
    s.finish()


@scenario("shrink x allocation and free in a child")
def shrink_allocation() -> None:
    s = System()
    child = s.serve_empty(s.a)

    def shrink() -> None:
        s.slab_common.kmem_cache_shrink(child)

    seam.parallel(s.use, shrink)
    s.finish()


@scenario("free of the last object of a dead child x root destruction")
def last_free_root_destruction() -> None:
    s = System()
    _, address = s.serve(s.a)
    s.rmdir(s.a)

    def free() -> None:
        s.frames.free(address)
        s.work()

    def destroy() -> None:
        s.destroy(s.frames)

    seam.parallel(free, destroy)
    s.finish()


@scenario("free of a dead child's last object, which starts a worker x root destruction")
def last_free_worker_root_destruction() -> None:
    s = System()
    _, address = s.serve(s.a)
    s.rmdir(s.a)
    s.start_worker()

    def free() -> None:
        s.frames.free(address)

    def destroy() -> None:
        s.destroy(s.frames)

    seam.parallel(free, destroy)
    s.workqueue.flush()
    s.finish()


@scenario("drop of a group's last reference x a new group: only a free id is used again")
def id_reuse() -> None:
    s = System()
    _, address = s.serve(s.a)
    s.rmdir(s.a)

    def free() -> None:
        s.frames.free(address)
        s.work()

    def make() -> None:
        new = s.mkdir("b")
        assert s.child(new) is None

    seam.parallel(free, make)
    s.finish()


@scenario("two threads close one group")
def close_close() -> None:
    s = System()
    s.serve_empty(s.a)

    seam.parallel(s.close, s.close)
    s.finish()


@scenario("a group is closed x a group is made below it")
def close_mkdir() -> None:
    s = System()

    def make() -> None:
        s.mkdir("a/b")

    seam.parallel(s.close_if_idle, make)
    s.finish()


@scenario("two threads destroy one root")
def destroy_destroy() -> None:
    s = System()
    s.serve_empty(s.a)
    gone: list[bool] = []

    def destroy() -> None:
        try:
            gone.append(s.destroy(s.frames))
        except s.errors.MemcgError:
            gone.append(False)

    seam.parallel(destroy, destroy)
    assert sorted(gone) == [False, True]
    s.finish()


@scenario("a root is destroyed x another of the same name is made: there is no alias")
def root_destruction_root_creation() -> None:
    s = System()
    s.serve_empty(s.a)
    made: list[Any] = []

    def create() -> None:
        made.append(s.slab_common.kmem_cache_create("frames", 1000))
        made[0].free(made[0].alloc(s.a))

    seam.parallel(s.destroy_frames, create)
    assert s.has(made[0])
    assert not s.has(s.frames)
    s.finish()


@scenario("a thread enters a group and allocates x the group is closed")
def entry_close() -> None:
    s = System()
    s.serve_empty(s.a)

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
    s.finish()
