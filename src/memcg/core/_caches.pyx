# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, binding=False, auto_pickle=False
"""Caches of objects of one size, and their objects; the blocks of a group."""

import gc

cimport cython
from binding cimport *
from cpython.buffer cimport PyBUF_WRITE, PyBuffer_FillInfo
from cpython.memoryview cimport PyMemoryView_FromMemory
from cpython.object cimport PyTypeObject, destructor
from cpython.ref cimport PyObject
from cpython.unicode cimport PyUnicode_AsUTF8
from libc.stdint cimport uintptr_t
from libc.stdlib cimport free as libc_free
from memcg.core._errors cimport raise_oom
from memcg.core._groups cimport Memcg
from native cimport *

from .dataplane import CacheInfo
from ..errors import CacheBusy, MemcgError


KMALLOC_SIZES = tuple([kmem_cache_object_size(kmalloc_cache(i))
                       for i in range(kmalloc_nr_caches())])


cdef extern from *:
    void PyObject_GC_UnTrack(void *object)


cdef class Cache:
    """The data-plane half of a kmem_cache: its slabs, and for a root its memcg_caches."""

    cdef kmem_cache *c
    cdef readonly Memcg memcg
    cdef readonly Cache root_cache
    cdef readonly size_t object_size, size, align
    cdef readonly bint frozen
    cdef public bint dying  # a root that is being destroyed; written under memcg_slab_mutex
    cdef bint boot
    cdef str _name
    cdef readonly object ctor
    cdef public object refcount, memcg_params  # of the control plane; a cache thus needs no dict
    cdef size_t pad  # bytes before the object, for constructor.h; 0: there is no constructor

    def __cinit__(self, *args, **kwargs):
        self._name = ""
        self.frozen = True  # until it is initialized

    def __init__(self, size_t object_size, size_t align=16, *, Memcg memcg=None, Cache root=None,
                 ctor=None, int kmalloc=-1):
        cdef size_t pad = 0 if ctor is None else max(align, <size_t>16)
        if self.c is not NULL:
            raise MemcgError("a cache is made once")
        self.ctor = ctor
        self.pad = pad
        self.boot = kmalloc >= 0
        if self.boot:
            self.c = kmalloc_cache(kmalloc)
            PyObject_GC_UnTrack(<void *>self)  # it never ends, so the collector need not see it
        elif root is None:
            self.c = kmem_cache_create_root(object_size + pad, align, KMEM_CACHE_ZERO if pad else 0)
        elif memcg is None:
            raise TypeError("a child cache needs its group")
        else:
            self.c = kmem_cache_create_child(memcg.get(), root.get())
        if self.c is NULL:
            raise MemoryError(f"no memory for a cache of {object_size}-byte objects")
        self.object_size = object_size
        self.align = align
        self.size = kmem_cache_size(self.c)
        self.memcg = memcg
        self.root_cache = root
        self.frozen = False
        kmem_cache_set_owner(self.c, <void *>self)

    def __dealloc__(self):
        if self.c is not NULL and not self.boot and kmem_cache_nr_pages(self.c) == 0:
            kmem_cache_free_struct(self.c)

    cdef kmem_cache *get(self) except NULL:
        if self.c is NULL:
            raise MemcgError("a cache that was not initialized has no objects; memcg.KmemCache() makes one")
        return self.c

    @property
    def name(self):
        """The name in error texts and for faults. It is written once."""
        return self._name

    @name.setter
    def name(self, str name):
        kmem_cache_set_name(self.get(), PyUnicode_AsUTF8(name))
        self._name = name

    @property
    def nr_pages(self):
        return kmem_cache_nr_pages(self.get())

    # -- memcg_caches

    @property
    def array_size(self):
        return memcg_cache_array_size(self.get())

    def update_array(self, int nr_slots):
        """Grow the array to `nr_slots`, keeping every slot."""
        if nr_slots and memcg_update_cache_size(self.get(), nr_slots):
            raise MemoryError(f"no memory for {nr_slots} slots")

    def publish(self, int kmemcg_id, Cache child not None, dict listed):
        """Put a complete child on its group's list and in its slot."""
        if cache_from_memcg_idx(self.get(), kmemcg_id) is not NULL:
            raise AssertionError("the slot of a child to be published is taken")
        listed[child] = None
        memcg_cache_publish(self.get(), kmemcg_id, child.get())

    def unpublish(self, int kmemcg_id, Cache child not None, dict listed):
        """Take a child out of its slot and off its group's list."""
        if cache_from_memcg_idx(self.get(), kmemcg_id) is not child.get():
            raise AssertionError("the child to be unpublished is not in its slot")
        memcg_cache_publish(self.get(), kmemcg_id, NULL)
        del listed[child]

    def from_memcg_idx(self, int kmemcg_id):
        """Return the child of a group, or None."""
        cdef kmem_cache *c = cache_from_memcg_idx(self.get(), kmemcg_id)
        return None if c is NULL else <Cache>kmem_cache_owner(c)

    def create_done(self, Memcg memcg not None):
        """Let the pair (root, group) ask for a child again."""
        memcg_create_done(self.get(), memcg.get())

    # -- objects

    def alloc(self, Memcg memcg=None):
        """Allocate for `memcg`, or for the current group; return the object's address."""
        cdef mem_cgroup *before
        cdef void *p
        if self.root_cache is not None:
            raise AssertionError("lookup on a cache that is not a root")
        if self.frozen:
            raise MemcgError("the cache was destroyed; make a new one")
        current_refresh()
        if memcg is None:
            p = kmem_cache_alloc(self.get())
        else:
            before = memcg_get_current()
            memcg_set_current(memcg.get())
            p = kmem_cache_alloc(self.get())
            memcg_set_current(before)
        if p is NULL:
            raise_oom(self.object_size)
        return <uintptr_t>p

    def free(self, uintptr_t address):
        """Free an object of this root or of any child of it. The owner is credited."""
        cdef int error = kmem_cache_free(self.get(), <void *>address)
        if error:
            raise_bad_free(self.c, address)

    def alloc_buffer(self):
        """Allocate for the current group and return a buffer of `object_size` bytes."""
        cdef Buffer buffer
        cdef void *p
        if self.frozen or self.root_cache is not None:
            raise MemcgError(f"cache {self.name!r} was destroyed; make a new one")
        buffer = Buffer.__new__(Buffer)
        current_refresh()
        p = kmem_cache_alloc_fast(self.c)
        if p is NULL:
            raise_oom(self.object_size)
        buffer.cache = self
        buffer.p = p
        if self.pad and not constructor_has_run(p):
            construct(buffer)
        return buffer

    def free_buffer(self, given):
        """Free a buffer. The group that allocated it is credited."""
        cdef Buffer buffer = given if type(given) is Buffer else None
        if buffer is None or buffer.cache is not self or buffer.p is NULL:
            raise ValueError(
                f"cache {self.name!r}: not a live buffer of this cache; each buffer is freed once, "
                "to the cache it came from"
            )
        if buffer.exports:
            raise BufferError(
                f"cache {self.name!r}: an array or view of the buffer is still in use; "
                "drop it and free the buffer again"
            )
        kmem_cache_free_fast(self.c, buffer.p)
        buffer.p = NULL

    def shrink(self):
        """Drop empty slabs; return their number of pages."""
        return kmem_cache_shrink(self.get())

    def set_dead(self):
        """Keep no empty slab from now on. A free that empties the cache posts ``empty``."""
        kmem_cache_set_dead(self.get())

    def shutdown(self):
        """Serve nothing from now on. With live objects: raise `CacheBusy` and change nothing."""
        if kmem_cache_shutdown(self.get()):
            n = self.info().active_objs
            raise CacheBusy(f"cache {self.name!r} still has {n} objects; free them first")
        self.frozen = True

    def info(self):
        """Count slabs and objects."""
        cdef kmem_cache_info i
        kmem_cache_read_info(self.get(), &i)
        return CacheInfo(i.active_objs, i.num_objs, i.objsize, i.objperslab, i.pagesperslab,
                         i.active_slabs, i.num_slabs)


@cython.no_gc
@cython.freelist(64)
cdef class Buffer:
    """One object of a cache, with the buffer protocol. Dropping it frees it."""

    cdef Cache cache
    cdef void *p
    cdef Py_ssize_t exports

    def __len__(self):
        return self.cache.object_size

    def __repr__(self):
        state = "freed" if self.p is NULL else f"at {<uintptr_t>self.p + self.cache.pad:#x}"
        return f"<memcg buffer of {self.cache.name!r}, {self.cache.object_size} B, {state}>"

    def __getbuffer__(self, Py_buffer *view, int flags):
        if self.p is NULL:
            raise ValueError(f"cache {self.cache.name!r}: the buffer was freed")
        PyBuffer_FillInfo(view, self, <char *>self.p + self.cache.pad, self.cache.object_size, 0,
                          flags)
        self.exports += 1

    def __releasebuffer__(self, Py_buffer *view):
        self.exports -= 1


# This replaces `__dealloc__`, around which Cython saves the exception state. A free raises nothing.
cdef destructor end_of_buffer = (<PyTypeObject *>Buffer).tp_dealloc


cdef void free_and_end(PyObject *buffer) noexcept:
    if (<Buffer>buffer).p is not NULL:
        kmem_cache_free_fast((<Buffer>buffer).cache.c, (<Buffer>buffer).p)
    end_of_buffer(buffer)


(<PyTypeObject *>Buffer).tp_dealloc = free_and_end
sealed_type(<PyTypeObject *>Buffer)


@cython.no_gc
@cython.final
cdef class Constructed:
    """An object as the constructor sees it.

    A view that the constructor keeps is an export of `buffer`. That lies in the same slab, so the
    slab stays.
    """

    cdef Buffer buffer
    cdef char *p

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(view, self, self.p, self.buffer.cache.object_size, 0, flags)
        self.buffer.exports += 1

    def __releasebuffer__(self, Py_buffer *view):
        self.buffer.exports -= 1


sealed_type(<PyTypeObject *>Constructed)


cdef int construct_object(void *buffer, char *p) except -1:
    cdef Constructed constructed = Constructed.__new__(Constructed)
    constructed.buffer = <Buffer>buffer
    constructed.p = p
    view = memoryview(constructed)
    try:
        constructed.buffer.cache.ctor(view)
    finally:
        try:
            view.release()
        except BufferError:  # the constructor has kept an export of it
            pass
    return 0


cdef construct(Buffer buffer):
    """Run the constructor on each new object of the slab; if it raises, give the slab back."""
    cdef Cache cache = buffer.cache
    try:
        constructor_run(buffer.p, cache.size, cache.pad, construct_object, <void *>buffer)
    except BaseException:
        if not buffer.exports:  # otherwise the last view that was kept frees it
            kmem_cache_free(cache.c, buffer.p)
            buffer.p = NULL
            kmem_cache_shrink(cache.c)
        raise


cdef memory(char *p, Py_ssize_t size):
    return PyMemoryView_FromMemory(p, size, PyBUF_WRITE)


cdef raise_bad_free(kmem_cache *s, uintptr_t address):
    cdef void *start = NULL
    if kmem_cache_of(<void *>address, &start) is NULL:
        raise ValueError(f"address {address:#x} is not an object of this cache")
    if <uintptr_t>start != address:
        raise ValueError(f"address {address:#x} is not the start of an object")
    if kmem_cache_of(<void *>address, &start) is not s:
        raise ValueError(f"address {address:#x} is not an object of this cache, or is free already")
    raise ValueError(f"address {address:#x} is free already")


def view(uintptr_t address, Py_ssize_t size):
    """Return the `size` bytes at `address`, writable, without a copy."""
    return memory(<char *>address, size)


# -- what holds memory


def live_blocks(Memcg memcg not None):
    """List (address, size in bytes, cache or None) of what is charged to the group itself.

    If the group is offline: of what was charged to it. Threads stand still meanwhile.
    """
    cdef size_t n = 0
    cdef live_block *found = blocks_live(memcg.get(), &n)
    if found is NULL:
        raise MemoryError(f"no memory to list {n} blocks")
    try:
        return [
            (<uintptr_t>found[i].start, found[i].size,
             None if found[i].cache is NULL else <object>kmem_cache_owner(found[i].cache))
            for i in range(n)
        ]
    finally:
        libc_free(found)


def scan(Memcg memcg not None, list types not None):
    """Return what holds the memory of the group itself: (blocks, kinds, biggest).

    `types` is every type. kinds has (kind, number of objects, bytes with what belongs to them),
    where a kind is a type, a Cache, or None if the owner is not known. biggest has (object, kind,
    bytes, guessed, path) for the ten biggest objects; see holders.h.
    """
    return holders_scan(memcg.get(), types, gc.get_objects(), gc.get_freeze_count())
