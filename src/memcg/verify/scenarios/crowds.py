"""Three to five at once."""

from __future__ import annotations

from .. import seam
from .system import System, scenario


@scenario("creation x growth x root creation x lookup")
def creation_growth_root_creation_lookup() -> None:
    s = System()
    s.frames.free(s.frames.alloc(s.a))

    def worker() -> None:
        s.work()

    def grow() -> None:
        with s.memcontrol.activate_kmem_mutex, s.memcontrol.memcg_slab_mutex:
            s.slab_common.memcg_update_all_caches(9)

    def create() -> None:
        s.slab_common.kmem_cache_create("late", 64)

    def lookup() -> None:
        child = s.child(s.a)
        assert child is None or child.memcg is s.a

    seam.parallel(worker, grow, create, lookup)
    assert s.child(s.a) is not None
    s.finish()


@scenario("offline of two groups x root destruction")
def two_offlines_root_destruction() -> None:
    s = System()
    b = s.mkdir("b")
    s.serve_empty(s.a)
    s.serve_empty(b)

    def close() -> None:
        s.rmdir(s.a)

    def close_other() -> None:
        s.rmdir(b)

    def destroy() -> None:
        assert s.destroy(s.frames)

    seam.parallel(close, close_other, destroy)
    s.finish()


@scenario("allocation x offline x root destruction")
def allocation_offline_root_destruction() -> None:
    s = System()
    s.serve_empty(s.a)

    def use() -> None:
        try:
            s.frames.free(s.frames.alloc(s.a))
        except s.errors.MemcgError:
            assert s.frames.dying or s.frames.frozen

    def close() -> None:
        s.rmdir(s.a)

    def destroy() -> None:
        s.destroy(s.frames)

    s.a.css_get()  # the user's
    seam.parallel(use, close, destroy)
    s.a.css_put()
    s.finish()


@scenario("a dead child's last free x a new group x slabinfo x its worker")
def last_free_id_reuse_slabinfo() -> None:
    s = System()
    _, address = s.serve(s.a)
    s.rmdir(s.a)

    def free() -> None:
        s.frames.free(address)

    def worker() -> None:
        s.work()

    def make() -> None:
        s.mkdir("b")

    def slabinfo() -> None:
        s.memcontrol.mem_cgroup_slabinfo_read(s.root)

    seam.parallel(free, worker, make, slabinfo)
    s.finish()


@scenario("four threads ask for the child of one group; four workers make it", long=True)
def four_creators() -> None:
    s = System()
    s.frames.free(s.frames.alloc(s.a))
    item = s.core.next_event()
    for _ in range(3):
        s.a.css_get()

    def create() -> None:
        s.memcontrol.memcg_create_cache_work_func(item)

    seam.parallel(create, create, create, create)
    assert s.child(s.a) is not None
    s.finish()


@scenario("creation x offline x root destruction x growth x slabinfo", long=True)
def creation_offline_root_destruction_growth_slabinfo() -> None:
    s = System()
    s.frames.free(s.frames.alloc(s.a))

    def worker() -> None:
        s.work()

    def close() -> None:
        s.rmdir(s.a)

    def destroy() -> None:
        assert s.destroy(s.frames)

    def grow() -> None:
        with s.memcontrol.activate_kmem_mutex, s.memcontrol.memcg_slab_mutex:
            s.slab_common.memcg_update_all_caches(9)

    def slabinfo() -> None:
        s.memcontrol.mem_cgroup_slabinfo_read(s.a)

    s.a.css_get()  # the reader's
    seam.parallel(worker, close, destroy, grow, slabinfo)
    s.a.css_put()
    s.finish()


@scenario("creation x growth x root creation x lookup x slabinfo", long=True)
def creation_growth_root_creation_lookup_slabinfo() -> None:
    s = System()
    s.frames.free(s.frames.alloc(s.a))

    def worker() -> None:
        s.work()

    def grow() -> None:
        with s.memcontrol.activate_kmem_mutex, s.memcontrol.memcg_slab_mutex:
            s.slab_common.memcg_update_all_caches(9)

    def create() -> None:
        s.slab_common.kmem_cache_create("late", 64)

    def lookup() -> None:
        child = s.child(s.a)
        assert child is None or child.memcg is s.a

    def slabinfo() -> None:
        s.memcontrol.mem_cgroup_slabinfo_read(s.a)

    seam.parallel(worker, grow, create, lookup, slabinfo)
    assert s.child(s.a) is not None
    s.finish()
