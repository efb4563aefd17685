# SPDX-License-Identifier: Apache-2.0
"""Three to five operations run at the same time."""

from __future__ import annotations

from ... import seam
from .system import System, scenario


@scenario("creation x growth x root creation x lookup")
def creation_growth_root_creation_lookup() -> None:
    s = System()
    s.use()

    seam.parallel(s.work, s.grow, s.make_root, s.look_up)
    assert s.child(s.a) is not None
    s.finish()


@scenario("offline of two groups x root destruction")
def two_offlines_root_destruction() -> None:
    s = System()
    b = s.mkdir("b")
    s.serve_empty(s.a)
    s.serve_empty(b)

    def close_other() -> None:
        s.rmdir(b)

    seam.parallel(s.close, close_other, s.destroy_frames)
    s.finish()


@scenario("allocation x offline x root destruction")
def allocation_offline_root_destruction() -> None:
    s = System()
    s.serve_empty(s.a)

    def use() -> None:
        try:
            s.use()
        except s.errors.MemcgError:
            assert s.frames.dying or s.frames.frozen

    def destroy() -> None:
        s.destroy(s.frames)

    s.core.css_get(s.a)  # the user's reference
    seam.parallel(use, s.close, destroy)
    s.core.css_put(s.a)
    s.finish()


@scenario("a dead child's last free x the worker x a new group x slabinfo")
def last_free_id_reuse_slabinfo() -> None:
    s = System()
    _, address = s.serve(s.a)
    s.rmdir(s.a)

    def free() -> None:
        s.frames.free(address)

    def make() -> None:
        s.mkdir("b")

    def slabinfo() -> None:
        s.memcontrol.mem_cgroup_slabinfo_read(s.root)

    seam.parallel(free, s.work, make, slabinfo)
    s.finish()


@scenario("four threads ask for the child of one group, and four workers make it", long=True)
def four_creators() -> None:
    s = System()
    s.use()
    item = s.core.next_event()
    for _ in range(3):
        s.core.css_get(s.a)

    def create() -> None:
        s.memcontrol.memcg_create_cache_work_func(item)

    seam.parallel(create, create, create, create)
    assert s.child(s.a) is not None
    s.finish()


@scenario("creation x offline x root destruction x growth x slabinfo", long=True)
def creation_offline_root_destruction_growth_slabinfo() -> None:
    s = System()
    s.use()

    s.core.css_get(s.a)  # the reader's reference
    seam.parallel(s.work, s.close, s.destroy_frames, s.grow, s.slabinfo)
    s.core.css_put(s.a)
    s.finish()


@scenario("creation x growth x root creation x lookup x slabinfo", long=True)
def creation_growth_root_creation_lookup_slabinfo() -> None:
    s = System()
    s.use()

    seam.parallel(s.work, s.grow, s.make_root, s.look_up, s.slabinfo)
    assert s.child(s.a) is not None
    s.finish()
