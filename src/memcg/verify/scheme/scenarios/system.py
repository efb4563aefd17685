# SPDX-License-Identifier: Apache-2.0
"""What scenarios share: their registry, and the system that their tasks use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ... import seam
from ...explorer import Result, explore
from ..world import World


@dataclass(frozen=True, slots=True)
class Scenario:
    """A program, its title, and the options for `explore`."""

    title: str
    program: Callable[[], None]
    options: dict[str, Any] = field(default_factory=dict)
    long: bool = False  # it has five tasks or is as big: only ``--long`` explores it

    def explore(self, **options: Any) -> Result:
        return explore(self.program, **{**self.options, **options})


SCENARIOS: dict[str, Scenario] = {}


def scenario(
    title: str, *, long: bool = False, **options: Any
) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """Return a decorator that puts a program into `SCENARIOS` under its name."""

    def enter(program: Callable[[], None]) -> Callable[[], None]:
        SCENARIOS[program.__name__] = Scenario(title, program, {"audit": False, **options}, long)
        return program

    return enter


class System(World):
    """A world with one root cache ``frames`` and one group ``a``. A group asks for a child at once.

    The worker is off. After `start_worker`, the task that posts an event starts it.
    """

    def __init__(self) -> None:
        super().__init__(worker=False)
        self.core.set_promote_bytes(0)
        self.frames = self.slab_common.kmem_cache_create("frames", 1000)
        self.a = self.mkdir("a")

    def mkdir(self, path: str) -> Any:
        return self.cgroup.cgroup_mkdir(self.root, path)

    def start_worker(self) -> None:
        self.core.set_waker(self.workqueue.wake, self.workqueue.work)

    def rmdir(self, group: Any) -> None:
        self.cgroup.cgroup_rmdir(group)

    def destroy(self, cache: Any) -> bool:
        """Destroy a root, and return false if it is busy."""
        try:
            self.slab_common.kmem_cache_destroy(cache)
        except self.errors.CacheBusy:
            return False
        return True

    def child(self, group: Any, cache: Any = None) -> Any:
        return self.memcontrol.cache_from_memcg_idx(cache or self.frames, group._kmemcg_id)

    def serve(self, group: Any, cache: Any = None) -> Any:
        """Give `group` its child of a root, with one live object; return (child, address)."""
        cache = cache or self.frames
        cache.free(cache.alloc(group))
        self.work()
        child = self.child(group, cache)
        assert child is not None
        return child, cache.alloc(group)

    def serve_empty(self, group: Any, cache: Any = None) -> Any:
        """Give `group` its child of a root, with nothing allocated in it, and return the child."""
        cache = cache or self.frames
        cache.free(cache.alloc(group))
        self.work()
        child = self.child(group, cache)
        assert child is not None
        return child

    def children(self) -> list[str]:
        """Return the names of the groups below the root."""
        with self.cgroup.cgroup_mutex:
            return list(self.root.children)

    def has(self, cache: Any) -> bool:
        """Tell whether a cache is registered."""
        with self.slab_common.slab_mutex:
            return cache in self.slab_common.slab_caches

    def array_size(self) -> int:
        """Return how many slots every root's array has at least."""
        with self.slab_common.slab_mutex:
            return int(self.memcontrol.memcg_limited_groups.array_size)

    def is_idle(self) -> bool:
        with self.workqueue.wq_lock:
            return bool(self.workqueue.is_idle())

    def work(self) -> None:
        self.workqueue.run_pending()

    # -- what tasks do; a task is named after its method

    def use(self) -> None:
        """Allocate in ``a`` and free. If the group has no child of the root, this asks for one."""
        self.frames.free(self.frames.alloc(self.a))

    def close(self) -> None:
        self.rmdir(self.a)

    def close_if_idle(self) -> None:
        try:
            self.rmdir(self.a)
        except self.errors.GroupBusy:
            assert self.a.online

    def destroy_frames(self) -> None:
        assert self.destroy(self.frames), "no object is live, but the root is busy"

    def grow(self) -> None:
        with self.memcontrol.activate_kmem_mutex, self.memcontrol.memcg_slab_mutex:
            self.slab_common.memcg_update_all_caches(9)

    def make_root(self) -> None:
        self.slab_common.kmem_cache_create("late", 64)

    def look_up(self) -> None:
        child = self.child(self.a)
        assert child is None or child.memcg is self.a

    def slabinfo(self) -> None:
        self.memcontrol.mem_cgroup_slabinfo_read(self.a)

    # -- the end

    def finish(self, *, references: bool = True) -> None:
        """Do the work that is left, then check everything that must hold."""
        self.work()
        seam.quietly(self.check_end)
        if references:
            seam.quietly(self.check_references)
