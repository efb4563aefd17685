# SPDX-License-Identifier: Apache-2.0
"""Memory control groups and the life of their child caches.

One global mutex, ``memcg_slab_mutex``, is held whenever a child cache is created or destroyed,
so a thread can walk a group's caches and create, shrink or destroy them on the way. Readers of
``memcg_caches`` take no lock: a child is complete before it is published. It serves nothing when it
is unpublished, and its structure is freed only after a grace period.

Kernel: mm/memcontrol.c (2014), with the later answers to what that scheme left open.
Where we differ:

- creation checks under the mutex that the group is online and the root is not dying;
- destruction clears the slot only once the child is known to be empty, so a busy child stays
  registered and a refused root destruction can be repeated;
- a child that is busy when its group goes offline is *dead*: its charges are the parent's,
  it keeps no empty slab, and the free of its last object asks for its destruction;
- a group is activated when it is made, and not when it first gets a limit;
- an id is reused only after the last reference to its group is dropped, or by the next life of a
  closed group that was kept (cgroup.py).

Locks, outermost first: ``cgroup_mutex`` (cgroup.py), ``activate_kmem_mutex`` (ids),
``memcg_slab_mutex`` (every memcg_caches array, every memcg_slab_caches list),
``slab_mutex`` (slab_common.py; never taken here).

This module and slab_common.py import each other, as the two files of the patch call each other.
Functions here create and destroy a child under ``memcg_slab_mutex``; they call functions there
that take ``slab_mutex``. The destruction of a root starts there, and first has this module destroy
the root's children.
"""

from __future__ import annotations

from .. import core
from ..core import css_put, mem_cgroup_offline
from ..errors import CacheBusy, GroupBusy
from ..locking import Mutex, assert_held, ended_threads, freed, name_of, shared
from . import slab_common, workqueue

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .slab_common import kmem_cache

activate_kmem_mutex = Mutex("activate_kmem_mutex")
memcg_slab_mutex = Mutex("memcg_slab_mutex")

MEMCG_CACHES_MIN_SIZE = 4
MEMCG_CACHES_MAX_SIZE = 1 << 20


@shared(array_size="activate_kmem_mutex | memcg_slab_mutex | slab_mutex")
class _LimitedGroups:
    """The arrays of all roots.

    Attributes
    ----------
    array_size : int
        How many slots every array has at least. A writer holds all three mutexes, and a reader one
        of them. Kernel: ``memcg_limited_groups_array_size``.
    """

    def __init__(self) -> None:
        self.array_size = 0


memcg_limited_groups = _LimitedGroups()
# activate_kmem_mutex protects these three.
_used_ids: dict[int, None] = {}  # the kernel's IDA
_freed_ids: list[int] = []  # ids that were used and are free again
dying: dict[mem_cgroup, None] = {}  # groups that are offline and still referenced


@shared(memcg_slab_caches="memcg_slab_mutex")
class mem_cgroup(core.Memcg):
    """A memory control group. Kernel: ``struct mem_cgroup``.

    Attributes
    ----------
    memcg_slab_caches : dict
        This group's child caches, an ordered set; ``memcg_slab_mutex`` protects it.
    _kmemcg_id : int
        Index into memcg_caches; -1 before activation.
    """

    __slots__ = ()

    def __init__(self, path: str, parent: mem_cgroup | None) -> None:
        super().__init__(parent)
        self.path = path
        self.memcg_slab_caches = {}


def memcg_cache_id(memcg: mem_cgroup) -> int:
    """Return the group's index into memcg_caches, or -1. Kernel: ``memcg_cache_id``."""
    return memcg._kmemcg_id


def memcg_kmem_is_active(memcg: mem_cgroup) -> bool:
    """Tell whether the group can have child caches."""
    return memcg._kmemcg_id >= 0


def cache_from_memcg_idx(root_cache: kmem_cache, idx: int) -> kmem_cache | None:
    """Load the child of a group by one acquire load, without a lock."""
    return root_cache.from_memcg_idx(idx)  # type: ignore[return-value]


# -- activation and the arrays


def memcg_caches_array_size(num_groups: int) -> int:
    """Return how many slots an array for `num_groups` has: twice as many, within the bounds."""
    return min(max(2 * num_groups, MEMCG_CACHES_MIN_SIZE), MEMCG_CACHES_MAX_SIZE)


def memcg_update_array_size(num: int) -> None:
    """Record the size once every root has it. Context: ``slab_mutex`` held."""
    if num > memcg_limited_groups.array_size:
        memcg_limited_groups.array_size = memcg_caches_array_size(num)


def memcg_update_cache_size(s: kmem_cache, num_groups: int) -> None:
    """Grow one root's array and retire the old one. Context: ``memcg_slab_mutex`` held."""
    assert_held(memcg_slab_mutex)
    if num_groups > memcg_limited_groups.array_size:
        s.update_array(memcg_caches_array_size(num_groups))


def memcg_activate_kmem(memcg: mem_cgroup) -> None:
    """Give the group an id, and every root's array a slot for it. A second call does nothing.

    Kernel: ``memcg_activate_kmem``.

    Raises
    ------
    MemoryError
        No id is free, or there is no memory for an array; the group stays inactive.

    Notes
    -----
    Context: takes ``activate_kmem_mutex``, then, if the arrays must grow, ``memcg_slab_mutex``,
    then ``slab_mutex``.
    """
    with activate_kmem_mutex:
        if memcg_kmem_is_active(memcg):
            return
        memcg_id = _freed_ids[-1] if _freed_ids else len(_used_ids)  # ida_simple_get
        if memcg_id == MEMCG_CACHES_MAX_SIZE:
            raise MemoryError(
                f"group {memcg.path!r}: all {MEMCG_CACHES_MAX_SIZE} kmemcg_ids are in use; "
                "close groups"
            )
        if memcg_id >= memcg_limited_groups.array_size:  # no root need have a slot for it yet
            with memcg_slab_mutex:
                slab_common.memcg_update_all_caches(memcg_id + 1)
        # There is no call between these stores, so no asynchronous exception can part them.
        del _freed_ids[-1:]
        _used_ids[memcg_id] = None
        memcg._kmemcg_id = memcg_id  # last: from here on the group is accounted


# -- one child cache


def memcg_kmem_create_cache(memcg: mem_cgroup, root_cache: kmem_cache) -> None:
    """Create and publish the child of `root_cache` for `memcg`, if it is still wanted.

    Context: ``memcg_slab_mutex`` held; takes ``slab_mutex``.
    """
    assert_held(memcg_slab_mutex)
    if not memcg.online or root_cache.dying:
        return  # no thread would destroy it (D1), or its root is about to be freed (D2)
    memcg_id = memcg_cache_id(memcg)
    if cache_from_memcg_idx(root_cache, memcg_id) is not None:
        return  # several threads asked for it, and another has created it
    cachep = slab_common.kmem_cache_create_memcg(memcg, root_cache)
    if cachep is None:
        return  # this is not critical: the root serves, and a later allocation asks again
    root_cache.publish(memcg_id, cachep, memcg.memcg_slab_caches)


def memcg_kmem_destroy_cache(cachep: kmem_cache) -> None:
    """Destroy a child cache and clear its slot.

    Raises
    ------
    CacheBusy
        Objects are live; the child stays registered.

    Notes
    -----
    Context: ``memcg_slab_mutex`` held; takes ``slab_mutex``; waits for a grace period.
    """
    assert_held(memcg_slab_mutex)
    if slab_common.is_root_cache(cachep):
        raise AssertionError(f"{cachep.name} is not a child cache")
    root_cache, memcg = cachep.memcg_params.root_cache, cachep.memcg_params.memcg
    assert root_cache is not None
    assert memcg is not None
    memcg_id = memcg_cache_id(memcg)
    if cache_from_memcg_idx(root_cache, memcg_id) is not cachep:
        raise AssertionError(f"{cachep.name} is not in its slot")
    slab_common.kmem_cache_destroy(cachep)  # raises if it is busy; from here on it serves nothing
    root_cache.unpublish(memcg_id, cachep, memcg.memcg_slab_caches)
    core.synchronize()
    freed(cachep)
    css_put(memcg)


# -- offline and root destruction


def mem_cgroup_offline_bare(memcg: mem_cgroup) -> bool:
    """Take a group offline if it has no caches; return false if it has some.

    Raises
    ------
    GroupBusy
        Something is inside the group; nothing is changed.

    Notes
    -----
    Context: takes ``memcg_slab_mutex``, so that no child is created in between.
    """
    with memcg_slab_mutex:
        if memcg.memcg_slab_caches:
            return False
        mem_cgroup_css_offline(memcg)
        return True


def mem_cgroup_css_offline(memcg: mem_cgroup) -> None:
    """Take a group offline unless something is inside. A thread enters it before that, or fails.

    Raises
    ------
    GroupBusy
        Something is inside the group; nothing is changed.
    """
    if not mem_cgroup_offline(memcg):
        raise GroupBusy(__who_is_inside(memcg))


def __who_is_inside(memcg: mem_cgroup) -> str:
    """Return the text of the error for a group that something is inside."""
    threads = [name_of(task) for task in core.threads_inside(memcg)]
    ended = []
    if core.name == "native":  # the model lists them too
        ended = [name for name, context in ended_threads() if core.is_entered_in(memcg, context)]
    text = f"group {memcg.path!r} is entered {memcg.nr_inside} times"
    for what, names in ("thread", threads), ("ended thread", ended):
        if names:
            text += f", by {what}{'s' * (len(names) > 1)} {', '.join(names[:5])}"
    cures = [] if ended and not threads else ["leave it first or close(wait=seconds)"]
    if ended:
        cures.append("drop the Thread object of a thread that has ended")
    return f"{text}; {', and '.join(cures)}"


def mem_cgroup_destroy_all_caches(memcg: mem_cgroup) -> None:
    """Shrink and destroy the caches of a group that is offline. The busy ones stay as dead ones.

    Context: takes ``memcg_slab_mutex``, then ``slab_mutex``.
    """
    with memcg_slab_mutex:
        for cachep in list(memcg.memcg_slab_caches):
            cachep.set_dead()  # before the shrink, so that a free in between drops an empty slab
            slab_common.kmem_cache_shrink(cachep)
            __destroy_if_empty(cachep)


def __destroy_if_empty(cachep: kmem_cache) -> None:
    """Destroy a child that has no pages. Context: ``memcg_slab_mutex`` held."""
    if cachep.nr_pages == 0:
        try:
            memcg_kmem_destroy_cache(cachep)
        except CacheBusy:
            return  # an allocation was faster; the free of its object asks again


def memcg_cache_mark_dying(s: kmem_cache) -> None:
    """Let no child of `s` be made from now on. Context: takes ``memcg_slab_mutex``."""
    with memcg_slab_mutex:
        s.dying = True


def __kmem_cache_destroy_memcg_children(s: kmem_cache) -> int:
    """Destroy the children of a dying root; return how many are busy.

    Context: takes ``memcg_slab_mutex``, then ``slab_mutex``.
    """
    failed = 0
    with memcg_slab_mutex:
        for i in range(s.array_size):
            c = cache_from_memcg_idx(s, i)
            if c is None:
                continue
            try:
                memcg_kmem_destroy_cache(c)
            except CacheBusy:
                failed += 1
    return failed


def mem_cgroup_mend_caches() -> None:
    """Finish destructions that were begun by threads that a fork has ended.

    Context: no other thread runs; takes ``memcg_slab_mutex``, then ``slab_mutex``.
    """
    offline: dict[mem_cgroup, None] = {}
    with memcg_slab_mutex:
        slots: dict[kmem_cache, mem_cgroup] = {}
        for s in slab_common.root_caches():
            s.dying = s.frozen  # the thread that was about to destroy it is gone
            for i in range(s.array_size):
                if (c := cache_from_memcg_idx(s, i)) and c.memcg_params.memcg:
                    slots[c] = c.memcg_params.memcg
        slab_common.kmem_cache_forget_unpublished(slots)
        for c, memcg in slots.items():
            if c.frozen:
                memcg_kmem_destroy_cache(c)
            elif not memcg.online:
                offline[memcg] = None
    for memcg in offline:
        mem_cgroup_destroy_all_caches(memcg)


def mem_cgroup_slabinfo_read(memcg: mem_cgroup) -> str:
    """Return the group's slabinfo. All lines are read under one hold of ``memcg_slab_mutex``.

    Kernel: ``mem_cgroup_slabinfo_read``.
    """
    with memcg_slab_mutex:
        lines = [slab_common.cache_show(s) for s in memcg.memcg_slab_caches]
    return slab_common.print_slabinfo_header() + "".join(lines)


# -- work


def memcg_create_cache_work_func(event: core.Event) -> None:
    """Create a child that an allocation asked for, then drop the event's css reference."""
    memcg, root_cache = event.memcg, event.cache
    try:
        with memcg_slab_mutex:
            memcg_kmem_create_cache(memcg, root_cache)
    finally:
        workqueue.settled(event)
        root_cache.create_done(memcg)
        css_put(memcg)


def memcg_cache_empty_work_func(event: core.Event) -> None:
    """Destroy a dead cache whose last object was freed, then drop the event's css reference."""
    memcg, cachep = event.memcg, event.cache
    try:
        with memcg_slab_mutex:
            if cachep in memcg.memcg_slab_caches:  # a root's destruction may have been faster
                __destroy_if_empty(cachep)
    finally:
        workqueue.settled(event)
        css_put(memcg)


def mem_cgroup_release_work_func(event: core.Event) -> None:
    """Free the id of a group that nothing refers to any more, then let go of its parent."""
    memcg = event.memcg
    parent = memcg.parent
    with activate_kmem_mutex:
        if memcg._kmemcg_id in _used_ids:
            del _used_ids[memcg._kmemcg_id]
            _freed_ids.append(memcg._kmemcg_id)
        dying.pop(memcg, None)
        freed(memcg)
    workqueue.settled(event)
    if parent is not None:
        css_put(parent)


workqueue.register("create", memcg_create_cache_work_func)
workqueue.register("empty", memcg_cache_empty_work_func)
workqueue.register("release", mem_cgroup_release_work_func)
