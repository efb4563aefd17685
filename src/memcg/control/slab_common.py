# SPDX-License-Identifier: Apache-2.0
"""Creation and destruction of slab caches: roots, and children per memory control group.

A root cache is process-wide. A child cache is a root's copy that serves one group. This module
makes and destroys the structures; `memcontrol` decides when, under ``memcg_slab_mutex``.

Kernel: mm/slab_common.c (2014).
Where we differ: a root is marked dying and its children are destroyed before ``slab_mutex``
is taken. A refused destruction says how many children are busy, takes the mark away and can be
repeated. There is no ``get_online_cpus``, because the data plane's own locks are innermost.

Locks: ``slab_mutex`` protects `slab_caches` and is private to this module.

This module and memcontrol.py import each other, as the two files of the patch call each other.
``memcg_slab_mutex`` is outside ``slab_mutex``. So memcontrol.py calls this module to create and
destroy a child, and the destruction of a root calls memcontrol.py for its children.
"""

from __future__ import annotations

from .. import core
from ..core import css_put
from ..core.dataplane import OBJECT_SIZE_MAX
from ..errors import CacheBusy, MemcgError
from ..locking import Mutex, choose, shared
from . import memcontrol, workqueue

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Container

    from .memcontrol import mem_cgroup

slab_mutex = Mutex("slab_mutex")
slab_caches: dict[kmem_cache, None] = {}  # all caches, in order of creation; under slab_mutex


class memcg_cache_params:
    """What ties a cache to memory control groups. Kernel: ``struct memcg_cache_params``."""

    __slots__ = ("is_root_cache", "memcg", "root_cache")

    def __init__(self, memcg: mem_cgroup | None, root_cache: kmem_cache | None) -> None:
        self.is_root_cache = memcg is None
        self.memcg = memcg
        self.root_cache = root_cache


_root_params = memcg_cache_params(None, None)  # all roots share it


@shared(refcount="slab_mutex")
class kmem_cache(core.Cache):
    """A slab cache. Kernel: ``struct kmem_cache``."""

    def __init__(
        self,
        name: str,
        object_size: int,
        align: int,
        ctor: Callable[[memoryview], object] | None,
        memcg: mem_cgroup | None = None,
        root_cache: kmem_cache | None = None,
        kmalloc: int = -1,
    ) -> None:
        super().__init__(
            object_size, align, memcg=memcg, root=root_cache, ctor=ctor, kmalloc=kmalloc
        )
        self.name = name
        self.refcount = 0
        self.memcg_params = memcg_cache_params(memcg, root_cache) if memcg else _root_params


def is_root_cache(s: kmem_cache) -> bool:
    """Tell whether `s` is process-wide."""
    return s.memcg_params.is_root_cache


def do_kmem_cache_create(
    name: str,
    object_size: int,
    align: int,
    ctor: Callable[[memoryview], object] | None,
    memcg: mem_cgroup | None,
    root_cache: kmem_cache | None,
    kmalloc: int = -1,
) -> kmem_cache:
    """Make a cache and put it on `slab_caches`. Context: `slab_mutex` held."""
    if choose(2):
        raise MemoryError(f"cache {name!r}: no memory for its structure")
    s = kmem_cache(name, object_size, align, ctor, memcg, root_cache, kmalloc)
    if memcg is None:
        s.update_array(memcontrol.memcg_limited_groups.array_size)
    s.refcount = 1
    slab_caches[s] = None
    return s


def kmem_cache_create(
    name: str, size: int, align: int = 16, ctor: Callable[[memoryview], object] | None = None
) -> kmem_cache:
    """Create a root cache.

    Parameters
    ----------
    name : str
        The name that slabinfo shows. It is not empty and has no white space.
    size : int
        The bytes of an object, 1 to 1 GiB.
    align : int
        The alignment of objects in bytes, a power of two up to the page size.
    ctor : callable, optional
        It is called once with each object, when the object's slab is made.

    Raises
    ------
    TypeError, ValueError
        The name, size, alignment or constructor breaks these rules.
    MemoryError
        There is no memory for the cache's structure.

    Notes
    -----
    Context: takes ``slab_mutex``. Kernel: ``kmem_cache_create``; unlike there, no aliases are made.
    """
    if not isinstance(name, str):
        raise TypeError(f"cache name must be a str, not {type(name).__name__}")
    if not name or len(name.split()) != 1:
        raise ValueError(f"cache name {name!r} must be one word; slabinfo separates by blanks")
    for what, n in (("object size", size), ("align", align)):
        if isinstance(n, bool) or not isinstance(n, int):
            raise TypeError(f"cache {name!r}: {what} must be an int, not {type(n).__name__}")
    if ctor is not None and not callable(ctor):
        raise TypeError(f"cache {name!r}: ctor must be callable, not {type(ctor).__name__}")
    if not 1 <= size <= OBJECT_SIZE_MAX:
        raise ValueError(
            f"cache {name!r}: object size must be 1 to {OBJECT_SIZE_MAX} bytes, not {size}"
        )
    if align < 1 or align & (align - 1) or align > core.PAGE_SIZE:
        raise ValueError(
            f"cache {name!r}: align must be a power of two up to {core.PAGE_SIZE}, not {align}"
        )
    with slab_mutex:
        return do_kmem_cache_create(name, size, max(align, 16), ctor, None, None)


def memcg_create_cache_name(memcg: mem_cgroup, root_cache: kmem_cache) -> str:
    """Return the name of a child, ``root(id:group)``."""
    return f"{root_cache.name}({memcontrol.memcg_cache_id(memcg)}:{memcg.path})"


def kmem_cache_create_memcg(memcg: mem_cgroup, root_cache: kmem_cache) -> kmem_cache | None:
    """Create the child of `root_cache` for `memcg`, with the properties of the root.

    Returns
    -------
    kmem_cache or None
        None if there is no memory for it. That is not critical, because the root goes on serving.

    Notes
    -----
    Context: takes ``slab_mutex``; may be called with ``memcg_slab_mutex`` held.
    """
    with slab_mutex:
        try:
            name = memcg_create_cache_name(memcg, root_cache)
            return do_kmem_cache_create(
                name, root_cache.object_size, root_cache.align, root_cache.ctor, memcg, root_cache
            )
        except MemoryError:
            return None


def kmem_cache_shrink(s: kmem_cache) -> int:
    """Drop empty slabs; return how many pages were given back."""
    return s.shrink()


def kmem_cache_destroy(s: kmem_cache) -> None:
    """Destroy a cache. The children of a root are destroyed first.

    Raises
    ------
    CacheBusy
        Objects are live, in the root or in children. The cache can be used as before, and the call
        can be repeated.
    MemcgError
        The cache was destroyed before.

    Notes
    -----
    Context: for a root, the caller waits for a thread that takes ``memcg_slab_mutex``, then
    ``slab_mutex``. If the wait is interrupted, that thread still does its work. For a child, only
    `memcg_kmem_destroy_cache` calls this, and ``slab_mutex`` is taken. Kernel:
    ``kmem_cache_destroy``.
    """
    if is_root_cache(s):
        workqueue.uninterrupted(__kmem_cache_destroy_root, s)
    else:
        __kmem_cache_shutdown(s)


def __kmem_cache_destroy_root(s: kmem_cache) -> None:
    memcontrol.memcg_cache_mark_dying(s)
    try:
        workqueue.flush()
        failed = memcontrol.__kmem_cache_destroy_memcg_children(s)
        if failed:
            raise CacheBusy(
                f"cache {s.name!r}: {failed} child caches still have objects; "
                "free them and destroy it again"
            )
        __kmem_cache_shutdown(s)
    except BaseException:
        s.dying = s.frozen  # a cache that was destroyed before gets no child any more
        raise


def __kmem_cache_shutdown(s: kmem_cache) -> None:
    with slab_mutex:
        if s not in slab_caches and is_root_cache(s):  # a child may be gone: a fork cut this short
            raise MemcgError(f"cache {s.name!r} was destroyed already")
        s.shutdown()
        s.refcount = 0
        slab_caches.pop(s, None)


def root_caches() -> list[kmem_cache]:
    """Return all roots. Context: takes ``slab_mutex``."""
    with slab_mutex:
        return [s for s in slab_caches if is_root_cache(s)]


def kmem_cache_forget_unpublished(published: Container[kmem_cache]) -> None:
    """Drop children that are not in `published`: a fork has ended the threads that made them.

    Context: no other thread runs; takes ``slab_mutex``.
    """
    with slab_mutex:
        for s in list(slab_caches):
            memcg = s.memcg_params.memcg
            if memcg is not None and s not in published:
                s.shutdown()  # it has no objects, because no thread could find it
                del slab_caches[s]
                memcg.memcg_slab_caches.pop(s, None)
                css_put(memcg)


def memcg_update_all_caches(num_memcgs: int) -> None:
    """Grow every root's array for `num_memcgs` groups.

    If it fails at one root, other roots keep their bigger arrays and the recorded size stays.

    Raises
    ------
    MemoryError
        There is no memory for an array.

    Notes
    -----
    Context: ``activate_kmem_mutex`` and ``memcg_slab_mutex`` held; takes ``slab_mutex``.
    """
    with slab_mutex:
        for s in slab_caches:
            if is_root_cache(s):
                memcontrol.memcg_update_cache_size(s, num_memcgs)
        memcontrol.memcg_update_array_size(num_memcgs)


def create_kmalloc_caches() -> None:
    """Make the root caches of the size classes. Kernel: ``create_kmalloc_caches``."""
    with slab_mutex:
        for i, size in enumerate(core.KMALLOC_SIZES):
            do_kmem_cache_create(f"kmalloc-{size}", size, 16, None, None, None, kmalloc=i)


def print_slabinfo_header() -> str:
    """Return the first two lines of slabinfo, version 2.1."""
    return (
        "slabinfo - version: 2.1\n"
        "# name            <active_objs> <num_objs> <objsize> <objperslab> <pagesperslab>"
        " : tunables <limit> <batchcount> <sharedfactor>"
        " : slabdata <active_slabs> <num_slabs> <sharedavail>\n"
    )


def cache_show(s: kmem_cache) -> str:
    """Return one line of slabinfo. It has the root's name, as in the kernel."""
    info = s.info()
    name = s.memcg_params.root_cache.name if s.memcg_params.root_cache else s.name
    return (
        f"{name:<17} {info.active_objs:6} {info.num_objs:6} {info.objsize:6}"
        f" {info.objperslab:4} {info.pagesperslab:4} : tunables    0    0    0"
        f" : slabdata {info.active_slabs:6} {info.num_slabs:6}      0\n"
    )
