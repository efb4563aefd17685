# SPDX-License-Identifier: Apache-2.0
"""A closed group that holds nothing is kept, and is the next one under its parent."""

from __future__ import annotations

from typing import Any

from ... import seam
from .system import System, scenario


class Keeping(System):
    """A system that keeps closed groups. `a` has a child cache without an object."""

    def __init__(self, spare: int = 2) -> None:
        super().__init__()
        self.cgroup.NR_SPARE = spare
        self.child_of_a = self.serve_empty(self.a)

    def next(self, path: str = "b") -> Any:
        """Make a group. The program has forgotten ``a``."""
        seam.forget(self.a)
        return self.mkdir(path)

    def renew(self) -> None:
        """Close ``a``, and make the next group."""
        self.rmdir(self.a)
        self.check_new(self.next(), "b")

    def check_new(self, group: Any, path: str) -> None:
        """Check that nothing of another life shows in a group. Context: no thread closes it."""
        assert (group.path, group.name, group.online) == (path, path, True)
        with self.cgroup.cgroup_mutex:
            assert group.children == {}
        assert group.shrinkers == []
        assert set(group.events.values()) == {0}
        assert group._limits["max"] == self.core.PAGE_COUNTER_MAX
        seam.quietly(lambda: self.check_unused(group))

    def check_unused(self, group: Any) -> None:
        """Check that no object of another life is charged to a group that has allocated nothing."""
        slabs = [slab for cache in self.slab_common.slab_caches for slab in cache._slabs]
        for slab in slabs:
            assert slab.objcg is not group.objcg or not slab.live, "an object of the old life"
            assert group.objcg not in slab.live.values(), "an object of the old life"


@scenario("a free of an object of the old life x close x the next group")
def spare_late_free() -> None:
    s = Keeping()
    late = s.frames.alloc(s.a)

    def free() -> None:
        s.frames.free(late)

    def renew() -> None:
        s.rmdir(s.a)
        new = s.next()
        s.check_new(new, "b")
        assert new is not s.a or s.child(new) is s.child_of_a

    seam.parallel(free, renew)
    s.finish()


@scenario("a free of an object in a shared slab x close x the next group")
def spare_late_shared_free() -> None:
    s = Keeping()
    other = s.slab_common.kmem_cache_create("others", 500)
    s.core.set_promote_bytes(1 << 20)
    late = other.alloc(s.a)

    def free() -> None:
        other.free(late)

    def renew() -> None:
        s.rmdir(s.a)
        new = s.next()
        s.check_new(new, "b")
        assert new is not s.a or new.usage.get() == 0 or s.child(new) is s.child_of_a

    seam.parallel(free, renew)
    s.finish()


@scenario("a lookup and an allocation in the old life x close x the next group")
def spare_lookup() -> None:
    s = Keeping()

    def look_up() -> None:
        with s.model.read_side:
            s.look_up()

    seam.parallel(s.use, s.renew, look_up)
    s.finish()


@scenario("the creation of a child that the old life has asked for x close x the next group")
def spare_creation() -> None:
    s = Keeping()
    other = s.slab_common.kmem_cache_create("others", 500)
    other.free(other.alloc(s.a))  # asks for a child

    seam.parallel(s.work, s.renew)
    s.finish()


@scenario("two threads make the next group: one gets the spare one")
def spare_mkdir_mkdir() -> None:
    s = Keeping()
    s.rmdir(s.a)
    made: list[Any] = []

    def make(path: str) -> None:
        made.append(s.next(path))

    seam.parallel(lambda: make("b"), lambda: make("c"))
    assert made[0] is not made[1]
    for group in made:
        s.check_new(group, group.path)
    s.finish()


@scenario("close x a thread enters the group")
def spare_enter() -> None:
    s = Keeping()

    def enter() -> None:
        try:
            with s.a:
                assert s.a.online
        except s.errors.OfflineError:
            pass

    seam.parallel(enter, s.close_if_idle)
    s.finish()


@scenario("the root of a kept group's child is destroyed x the next group")
def spare_root_destruction() -> None:
    s = Keeping()

    seam.parallel(s.destroy_frames, s.renew)
    s.finish()


@scenario("spare groups are let go of x the next group")
def spare_dropped() -> None:
    s = Keeping()
    s.rmdir(s.a)

    def drop() -> None:
        s.cgroup.cgroup_drop_spare(s.root, 0)

    def renew() -> None:
        s.check_new(s.next(), "b")

    seam.parallel(drop, renew)
    s.finish()
    assert s.root._spare == []


@scenario("a parent with a spare group is closed x a group is made below it")
def spare_parent_close() -> None:
    s = System()
    s.cgroup.NR_SPARE = 2
    below = s.mkdir("a/b")
    s.rmdir(below)
    assert s.a._spare == [below]

    def make() -> None:
        seam.forget(below)
        s.mkdir("a/c")

    seam.parallel(s.close_if_idle, make)
    s.finish()
