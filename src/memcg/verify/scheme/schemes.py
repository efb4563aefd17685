# SPDX-License-Identifier: Apache-2.0
"""The old scheme and the patch's scheme as models, small enough to read beside the patch.

The *old* scheme has ``activate_kmem_mutex``, ``slab_mutex`` and then a mutex per group. A work item
destroys each child. The *patch* has ``memcg_slab_mutex`` over ``slab_mutex``, and holds it
whenever a child is created or destroyed. `FLAWS` has a program for each flaw that
docs/statements.md names (F1, F2; D1 to D7), with the finding and its minimal schedule.

Where the models differ from the kernel: there is one group and one root; a slab is a page count;
`freed` stands for kfree; the CPU hotplug lock prefers writers, as that of later kernels (D5).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .. import errors, seam
from ..explorer import Result, explore


@seam.shared(nr_pages="atomic", refcount=None, name=None, root=None, slot=None)
class Cache:
    """A root cache (`root` is None) with one slot, or a child."""

    def __init__(self, name: str, root: Cache | None = None) -> None:
        self.name = name
        self.root = root
        self.slot: seam.Published[Cache | None] = seam.Published(None)
        self.nr_pages = 0
        self.refcount = 1


class Busy(Exception):
    """The cache cannot be shut down, because objects are live."""


class Base:
    """What both schemes have: one group, one root and the list of all caches."""

    def __init__(self) -> None:
        self.slab_mutex = seam.Mutex("slab_mutex")
        self.root = Cache("frames")
        self.slab_caches = {self.root: None}
        self.online = seam.Published(True)
        self.memcg_slab_caches: dict[Cache, None] = {}

    def shut_down(self, s: Cache) -> None:
        """Take a cache off the registry and free it. Context: `slab_mutex` held."""
        if s.nr_pages:
            raise Busy(s.name)
        del self.slab_caches[s]
        seam.freed(s)

    def lookup(self) -> Cache:
        """Return the child, or the root if there is none, without a lock."""
        return self.root.slot.load() or self.root

    def check(self) -> None:
        """Check what must hold when no task runs."""
        for s in self.slab_caches:
            if s.root is not None:
                assert s.root in self.slab_caches, f"{s.name} is a child of a dead root"
                assert self.online.load() or s.nr_pages, f"{s.name}: empty, its group is dead"

    def finish(self) -> None:
        seam.quietly(self.check)


class Old(Base):
    """The scheme before the patch."""

    def __init__(self) -> None:
        super().__init__()
        self.group_mutex = seam.Mutex("memcg->slab_caches_mutex")

    def create_child(self) -> None:
        """``kmem_cache_create_memcg``: a callback registers the child inside ``slab_mutex``."""
        with self.slab_mutex:
            if self.root.slot.load() is not None:
                return
            child = Cache("frames(0:a)", self.root)
            self.slab_caches[child] = None
            with self.group_mutex:
                self.memcg_slab_caches[child] = None
            self.root.slot.store(child)

    def destroy(self, s: Cache) -> None:
        """Destroy a child. A callback unregisters it, too. Kernel: ``kmem_cache_destroy``."""
        with self.slab_mutex:
            with self.group_mutex:
                self.memcg_slab_caches.pop(s, None)
            self.root.slot.store(None)
            self.shut_down(s)

    def offline(self) -> list[Cache]:
        """Ask for the destruction of each cache by a work item, which is done later."""
        self.online.store(False)
        with self.group_mutex:
            return list(self.memcg_slab_caches)

    def destroy_work(self, s: Cache) -> None:
        if s.nr_pages == 0:
            self.destroy(s)

    def offline_walking(self) -> None:
        """Destroy children while walking the group's list, which the lock order forbids."""
        self.online.store(False)
        with self.group_mutex:
            for s in list(self.memcg_slab_caches):
                with self.slab_mutex:
                    self.shut_down(s)

    def destroy_children(self) -> None:
        """Destroy the child in the root's slot, under no lock that offline takes."""
        child = self.root.slot.load()
        if child is not None:
            self.destroy(child)


class HotplugLock:
    """``get_online_cpus``: a read-write lock on which a waiting writer holds new readers back."""

    def __init__(self) -> None:
        self._entry = seam.Mutex("cpu_hotplug")
        self._readers = seam.Atomic(0)
        self._none = seam.Event("no reader of cpu_hotplug")
        self._none.set()

    def __enter__(self) -> None:
        with self._entry:
            if self._readers.add(1) == 1:
                self._none.clear()

    def __exit__(self, *exc: object) -> None:
        if self._readers.add(-1) == 0:
            self._none.set()

    def write(self) -> None:
        """Wait for the readers, and let no new ones in meanwhile."""
        with self._entry:
            self._none.wait()


class Patch(Base):
    """The patch as written."""

    def __init__(self) -> None:
        super().__init__()
        self.memcg_slab_mutex = seam.Mutex("memcg_slab_mutex")
        self.cpu_hotplug = HotplugLock()

    def create_work(self) -> None:
        """Create the child. Kernel: ``memcg_create_cache_work_func``."""
        with self.memcg_slab_mutex:
            if self.root.slot.load() is not None:
                return
            name = f"{self.root.name}(0:a)"
            with self.cpu_hotplug, self.slab_mutex:
                child = Cache(name, self.root)
                self.slab_caches[child] = None
            self.memcg_slab_caches[child] = None
            self.root.slot.store(child)

    def memcg_kmem_destroy_cache(self, s: Cache) -> None:
        """Clear slot and list first, then destroy the cache: a busy one is forgotten (D3)."""
        seam.assert_held(self.memcg_slab_mutex)
        self.root.slot.store(None)
        del self.memcg_slab_caches[s]
        try:
            with self.slab_mutex:
                self.shut_down(s)
        except Busy:
            return  # it goes back on slab_caches with a message, which no code counts

    def offline(self) -> None:
        self.online.store(False)
        with self.memcg_slab_mutex:
            for s in list(self.memcg_slab_caches):
                if s.nr_pages == 0:
                    self.memcg_kmem_destroy_cache(s)

    def destroy_root(self) -> None:
        """Destroy the root. Kernel: ``kmem_cache_destroy``."""
        with self.cpu_hotplug:
            with self.slab_mutex:
                self.root.refcount -= 1
                if self.root.refcount:
                    return
            with self.memcg_slab_mutex:
                child = self.root.slot.load()
                if child is not None:
                    self.memcg_kmem_destroy_cache(child)
                failed = self.root.slot.load() is not None
            if failed:
                return
            with self.slab_mutex, contextlib.suppress(Busy):  # it only prints a message (S66, S67)
                self.shut_down(self.root)

    def create_alias(self) -> Cache:
        """Create a like cache: the root gets one more reference. Kernel: ``kmem_cache_create``."""
        with self.slab_mutex:
            for s in self.slab_caches:
                if s.root is None:
                    s.refcount += 1
                    return s
            s = Cache("frames")
            self.slab_caches[s] = None
            return s


@dataclass(frozen=True, slots=True)
class Flaw:
    """A flaw, the program that shows it, and the finding.

    `shipped` names the scenario that puts the control plane that ships into the same situation.
    """

    scheme: str
    shipped: str
    title: str
    program: Callable[[], None]
    finding: type[BaseException]
    replay: str  # the minimal schedule
    options: dict[str, Any] = field(default_factory=dict)

    def explore(self, **options: Any) -> Result:
        return explore(self.program, **{"audit": False, **self.options, **options})


def _f1() -> None:
    m = Old()
    m.create_child()
    m.root.slot.store(None)  # so that the next creation does its work
    seam.parallel(m.create_child, m.offline_walking)


def _f2() -> None:
    m = Old()
    m.create_child()
    work = m.offline()

    def destroy_work() -> None:
        for s in work:
            m.destroy_work(s)

    seam.parallel(destroy_work, m.destroy_children)


def _d1() -> None:
    m = Patch()
    seam.parallel(m.create_work, m.offline)
    m.finish()


def _d2() -> None:
    m = Patch()
    seam.parallel(m.create_work, m.destroy_root)
    m.finish()


def _d3() -> None:
    m = Patch()
    m.create_work()
    m.lookup().nr_pages = 1
    m.destroy_root()
    m.finish()


def _d4() -> None:
    m = Patch()
    m.create_work()

    def allocate() -> None:
        m.lookup().nr_pages += 1

    seam.parallel(allocate, m.offline)


def _d5() -> None:
    m = Patch()
    seam.parallel(m.create_work, m.destroy_root, m.cpu_hotplug.write)


def _d6() -> None:
    m = Patch()

    def fork() -> None:
        seam.fork()
        m.create_work()

    seam.parallel(m.offline, fork)


def _d7() -> None:
    m = Patch()

    def create_alias() -> None:
        m.create_alias().nr_pages += 1

    seam.parallel(m.destroy_root, create_alias)


FLAWS = {
    "F1": Flaw("old", "creation_offline",
               "creation x destruction while a group's list is walked", _f1,
               errors.Deadlock, "0.1*3.2*3"),
    "F2": Flaw("old", "offline_root_destruction",
               "a child's destruction by its group's offline x by its root's destruction", _f2,
               errors.UseAfterFree, "0.2*6.1"),
    "D1": Flaw("patch", "creation_offline",
               "creation x offline: a child of a dead group", _d1, AssertionError,
               "0.2*3.1*10.0"),
    "D2": Flaw("patch", "creation_root_destruction",
               "creation x root destruction: work on a freed root", _d2,
               errors.UseAfterFree, "0.2*12.1*2"),
    "D3": Flaw("patch", "busy_root_slabinfo",
               "root destruction with a busy child: freed under it", _d3,
               AssertionError, "0"),
    "D4": Flaw("patch", "allocation_offline",
               "lookup and then use x offline", _d4, errors.UseAfterFree, "0.1*3.2*7"),
    "D5": Flaw("patch", "creation_root_destruction",
               "a lock of the slab layer that is taken outside and inside", _d5,
               errors.Deadlock, "0.1*3.2*5.3*2"),
    "D6": Flaw("patch", "fork_mkdir",
               "fork while a mutex is held", _d6, errors.Deadlock, "0.1*3.2*2",
               {"forks": True}),
    "D7": Flaw("patch", "root_destruction_root_creation",
               "an alias of the doomed root", _d7, errors.UseAfterFree, "0.1*8.2*3.1*2"),
}  # fmt: skip
