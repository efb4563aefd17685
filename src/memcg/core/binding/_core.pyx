# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, binding=False, auto_pickle=False
"""The native data plane, wrapped: the classes and functions of `memcg.core.model`, in C.

Every method is one call that no asynchronous exception can cut in two.
"""

import gc
import os
import sys
import time

cimport cython
from cpython.buffer cimport PyBUF_WRITE, PyBuffer_FillInfo
from cpython.contextvars cimport PyContextVar_New
from cpython.object cimport PyObject_Call, PyObject_TypeCheck, PyTypeObject, destructor
from cpython.memoryview cimport PyMemoryView_FromMemory
from cpython.ref cimport Py_DECREF, Py_INCREF, Py_REFCNT, PyObject
from cpython.unicode cimport PyUnicode_AsUTF8
from libc.stdint cimport SIZE_MAX, UINT64_MAX, int64_t, uintptr_t
from libc.stdlib cimport free as libc_free
from binding cimport *
from binding cimport entry as c_entry
from memcg cimport *

from .dataplane import EVENTS, PAGE_SIZE, STAT, CacheInfo, Event
from ..errors import CacheBusy, MemcgError, MemcgOOM, OfflineError, oom_text

name = "native"
GROUP_BYTES = MEMCG_GROUP_BYTES  # what a group costs its parent
LOCKS = ()  # for fork; ours have handlers of their own (pthread_atfork)
Mutex = mutex_type()


# -- injected faults

FAULT_POINTS = {
    "alloc": FAULT_ALLOC, "metadata": FAULT_METADATA, "pages": FAULT_PAGES, "mmap": FAULT_MMAP,
    "madvise": FAULT_MADVISE, "thread": FAULT_THREAD,
}


cdef class Faults:
    """See `memcg.faults.inject`. `attr` is a FaultAttr."""

    cdef readonly object attr
    cdef fault_attr c
    cdef fault_count last
    cdef bint armed

    def __init__(self, attr, bint this_thread):
        self.attr = attr
        for what in attr.what:
            self.c.points |= 1 << <int>FAULT_POINTS[what]
        self.c.nth = attr.nth
        self.c.probability = attr.probability
        self.c.seed = attr.seed
        self.c.times = UINT64_MAX if attr.times is None else attr.times
        self.c.min_size, self.c.max_size = (0, SIZE_MAX) if attr.size is None else attr.size
        self.c.small = attr.size is not None or attr.cache is not None
        if attr.cache is not None:
            self.c.cache = PyUnicode_AsUTF8(attr.cache)
        if attr.group is not None:
            self.c.group = PyUnicode_AsUTF8(attr.group)
        self.c.this_thread = this_thread

    def __enter__(self):
        if self.attr is None:
            raise MemcgError("faults that were not initialized cannot be armed; use memcg.faults.inject()")
        if memcg_arm_faults(&self.c):
            raise MemcgError("faults are armed already, by MEMCG_FAIL or another inject()")
        self.armed = True
        return self

    def __exit__(self, type, value, traceback):  # in C: no frame that a fault would refuse
        if not self.armed:
            raise MemcgError("faults are disarmed, but these are not armed; disarm them once")
        memcg_disarm_faults()
        self.last = memcg_fault_count()
        self.armed = False

    @property
    def eligible(self):
        """Requests that passed the filters."""
        return memcg_fault_count().eligible if self.armed else self.last.eligible

    @property
    def faults(self):
        """Requests that were made to fail."""
        return memcg_fault_count().faults if self.armed else self.last.faults


cdef Faults environment_faults = None  # armed for good: its strings stay


cdef limits_met():
    """What to do about too small a limit of the process."""
    import resource
    met = [
        f"raise `ulimit -{letter}`, which is {limit // 1024} KiB"
        for letter, what in (("d", resource.RLIMIT_DATA), ("v", resource.RLIMIT_AS))
        if (limit := resource.getrlimit(what)[0]) != resource.RLIM_INFINITY
    ]
    return " and ".join(met) or "neither `ulimit -d` nor `ulimit -v` is set: the machine has none"


cdef start():
    """Set up what the environment asks for, then the data plane."""
    global environment_faults
    cdef memcg_config config = memcg_config(0, 0, 0)
    debug = os.environ.get("MEMCG_DEBUG", "")
    attr = None
    if os.environ.get("MEMCG_FAIL"):
        from .fault_attr import from_environment
        try:
            attr = from_environment()
        except ValueError as error:
            raise ImportError(str(error))
    if memcg_parse_debug(debug.encode(), &config.debug):
        raise ImportError(
            f"MEMCG_DEBUG={debug!r}: letters of F (free lists are walked), Z (red zones), P (poison), "
            "U (who allocated), H (hardened free lists); 1 is FZPU, 0 nothing"
        )
    if attr is not None:
        environment_faults = Faults(attr, False)
        environment_faults.__enter__()
    if memcg_init(&config):
        raise ImportError(f"memcg: no address space for the arena; {limits_met()}")
    memcg_set_caller(frame_caller)


start()

KMALLOC_SIZES = tuple([kmem_cache_object_size(kmalloc_cache(i))
                       for i in range(kmalloc_nr_caches())])


# -- groups

cdef path_of(char *path):
    return "?" if path is NULL else path.decode()  # there was no memory for a copy


LIMITS = {
    "max": MEMCG_MAX, "high": MEMCG_HIGH, "reserve": MEMCG_RESERVE, "overdraft": MEMCG_OVERDRAFT,
}


@cython.no_gc_clear
cdef class Memcg:
    """The data-plane half of a group: page counter, css references, stub.

    A group that was activated keeps itself alive until its last css reference is gone.
    """

    cdef mem_cgroup *c
    cdef readonly Memcg parent
    cdef bint activated
    cdef readonly long nr_inside
    cdef long nr_entries  # that are alive, in whatever context
    cdef opened_table opened  # where it was entered and not left
    cdef str _path

    def __cinit__(self, *args, **kwargs):
        self._path = ""

    def __init__(self, Memcg parent):
        cdef memcg_failure failure
        if self.c is not NULL:
            raise MemcgError("a group is made once")
        memcg_last_failure(&failure)  # an old one is not ours
        if parent is None:
            self.c = mem_cgroup_root()
            Py_INCREF(self)  # the root never ends
            self.activated = True
        else:
            self.c = mem_cgroup_alloc(parent.get())
            if self.c is NULL:
                if memcg_last_failure(&failure):
                    raise MemcgOOM(describe(&failure))
                raise MemoryError("no memory for a group")
            c_css_get(parent.c)
            self.parent = parent
        mem_cgroup_set_owner(self.c, <void *>self)

    def __dealloc__(self):
        opened_clear(&self.opened)
        if self.c is NULL or self.parent is None:
            return
        alarm_forget(self.c)
        if not self.activated:  # dropped before it was linked
            c_css_put(self.parent.c)
        mem_cgroup_free(self.c)

    cdef mem_cgroup *get(self) except NULL:
        if self.c is NULL:
            raise MemcgError("a group that was not initialized has no figures; memcg.group() makes one")
        return self.c

    @property
    def path(self):
        """For error texts and faults; written once."""
        return self._path

    @path.setter
    def path(self, str path):
        mem_cgroup_set_path(self.get(), PyUnicode_AsUTF8(path))
        self._path = path

    @property
    def online(self):
        return mem_cgroup_online(self.get())

    @property
    def _kmemcg_id(self):
        """The index into memcg_caches, or -1; the control plane stores it."""
        return mem_cgroup_id(self.get())

    @_kmemcg_id.setter
    def _kmemcg_id(self, int kmemcg_id):
        if not self.activated:
            self.activated = True
            Py_INCREF(self)  # dropped with the `release` event
        mem_cgroup_set_id(self.get(), kmemcg_id)

    # -- being inside

    def __enter__(self):
        enter(self)
        return self

    def __exit__(self, type, value, traceback):
        leave(self, value)

    # -- figures

    cdef mem_cgroup_stat read(self):
        cdef mem_cgroup_stat stat
        mem_cgroup_read_stat(self.get(), &stat)
        return stat

    @property
    def current(self):
        """Bytes charged here and below, without stock. cgroup v2: ``memory.current``.

        What was freed, in whatever thread, is collected first.
        """
        mem_cgroup_collect(self.get())
        return self.read().current

    @property
    def peak(self):
        """The highest usage. cgroup v2: ``memory.peak``."""
        return self.read().watermark

    @property
    def oom_group(self):
        """The process ends when the group goes on at its ceiling. cgroup v2: ``memory.oom.group``."""
        return mem_cgroup_oom_group(self.get())

    @oom_group.setter
    def oom_group(self, bint on):
        mem_cgroup_set_oom_group(self.get(), on)

    @property
    def events(self):
        """How often what happened here and below. cgroup v2: ``memory.events``."""
        cdef mem_cgroup_stat stat = self.read()
        return {EVENTS[i]: stat.events[i] for i in range(len(EVENTS))}

    @property
    def stat(self):
        """Bytes of this group alone, by kind. cgroup v2: ``memory.stat``."""
        cdef mem_cgroup_stat stat
        mem_cgroup_collect(self.get())
        stat = self.read()
        return dict(zip(STAT, (stat.slab_private, stat.slab_shared, stat.page_runs, stat.external,
                               stat.overdraft)))


def ancestry(Memcg memcg not None):
    """The group, its parent, and so on up to the root."""
    cdef list found = []
    while memcg is not None:  # no generator: its type would be made with the module
        found.append(memcg)
        memcg = memcg.parent
    return found


def css_refs(Memcg memcg not None):
    """How many references there are."""
    return c_css_refs(memcg.get())


def css_tryget(Memcg memcg not None):
    """Take a reference unless the group is offline or gone."""
    return c_css_tryget(memcg.get())


def css_get(Memcg memcg not None):
    """Take one more reference; the caller already holds one."""
    c_css_get(memcg.get())


def css_put(Memcg memcg not None):
    """Drop a reference; the last one posts ``release``."""
    if c_css_refs(memcg.get()) <= 0:
        raise AssertionError("css reference count fell below zero")
    c_css_put(memcg.get())


def mem_cgroup_offline(Memcg memcg not None):
    """Take no new references, unless something is inside; tell whether it is done.

    What is still charged here becomes the parent's.
    """
    if memcg.parent is None:
        raise MemcgError("the root group cannot go offline")
    if memcg.nr_inside:
        current_forget(NULL)
        if memcg.nr_entries:
            return False
        memcg.nr_inside = 0  # the tasks inside are gone, contexts and all, and never left
        opened_clear(&memcg.opened)
    c_mem_cgroup_offline(memcg.get())
    current_forget(<PyObject *>memcg)
    return True


def mem_cgroup_get_limit(Memcg memcg not None, str which):
    """``max``, ``high``, ``reserve`` or ``overdraft`` in bytes."""
    return c_mem_cgroup_get_limit(memcg.get(), LIMITS[which])


def mem_cgroup_set_limit(Memcg memcg not None, str which, int64_t n):
    """Store a limit in bytes; a negative reserve or overdraft: the default."""
    c_mem_cgroup_set_limit(memcg.get(), LIMITS[which], n)


def mem_cgroup_events_local(Memcg memcg not None):
    """As `events`, of this group's own limit."""
    cdef mem_cgroup_stat stat = memcg.read()
    return {EVENTS[i]: stat.events_local[i] for i in range(len(EVENTS))}


def mem_cgroup_last_oom(Memcg memcg not None):
    """Bytes, limit, owner, group, current, refused and time of the last refusal or alarm of this
    group's limit or of one below; None: never."""
    cdef memcg_oom oom
    if not c_mem_cgroup_last_oom(memcg.get(), &oom):
        return None
    try:
        return (oom.bytes, oom.max, path_of(oom.limited), path_of(oom.memcg), oom.current,
                bool(oom.refused), oom.time_ns / 1e9)
    finally:
        libc_free(oom.memcg)
        libc_free(oom.limited)


def mem_cgroup_collect_garbage(Memcg memcg not None):
    """Collect garbage, unless that was in vain for this group several times of late.

    While another thread collects none can begin: then it is waited for, 1 s at most.
    """
    cdef int64_t before = mem_cgroup_usage(memcg.get())
    if not collection_is_due(memcg.c):
        return
    for _ in range(1000):
        began = time.monotonic_ns()
        if collect_garbage():
            break
        time.sleep(0.001)
    mem_cgroup_reclaim(memcg.c)
    collection_ended(memcg.c, before - mem_cgroup_usage(memcg.c), time.monotonic_ns() - began)


def mem_cgroup_high_done(Memcg memcg not None):
    """The receiver of ``high`` has reclaimed."""
    c_mem_cgroup_high_done(memcg.get())


def mem_cgroup_reset_peak(Memcg memcg not None):
    """Start `peak` again at the usage of now."""
    mem_cgroup_reset_watermark(memcg.get())


def mem_cgroup_drain(Memcg memcg not None):
    """Drop empty slabs and stock here and below; return bytes given back."""
    current_forget(NULL)
    return mem_cgroup_reclaim(memcg.get())


def memcg_try_charge(Memcg memcg not None, size_t n):
    """Charge `n` bytes here and above, or nothing and return the group that refused."""
    cdef memcg_failure failure
    if mem_cgroup_try_charge(memcg.get(), n) == 0:
        return None
    if memcg_last_failure(&failure):
        return <Memcg>mem_cgroup_owner(failure.limited)
    return memcg


def memcg_charge(Memcg memcg not None, size_t n):
    """Charge `n` bytes by force."""
    mem_cgroup_charge(memcg.get(), n)


def memcg_uncharge(Memcg memcg not None, size_t n):
    """Give `n` bytes back here and above."""
    mem_cgroup_uncharge(memcg.get(), n)


# -- caches

cdef extern from *:
    void PyObject_GC_UnTrack(void *object)

cdef enum:
    CONSTRUCTED = 8  # offset of the constructor's flag, after the free pointer; new slabs are zero


cdef class Cache:
    """The data-plane half of a kmem_cache: its slabs, and for a root its memcg_caches."""

    cdef kmem_cache *c
    cdef readonly Memcg memcg
    cdef readonly Cache root_cache
    cdef readonly size_t object_size, size, align
    cdef readonly bint frozen
    cdef public bint dying  # a root being destroyed; written under memcg_slab_mutex
    cdef bint boot
    cdef str _name
    cdef readonly object ctor
    cdef public object refcount, memcg_params  # the control plane's; here no cache needs a dict
    cdef size_t pad  # with a constructor: where the free pointer and the flag are, before the bytes

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
            PyObject_GC_UnTrack(<void *>self)  # it never ends, so nothing to collect hangs on it
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
        """For error texts and faults; written once."""
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
        """Load the child of a group."""
        cdef kmem_cache *c = cache_from_memcg_idx(self.get(), kmemcg_id)
        return None if c is NULL else <Cache>kmem_cache_owner(c)

    def create_done(self, Memcg memcg not None):
        """Let the pair (root, group) be asked for again."""
        memcg_create_done(self.get(), memcg.get())

    # -- objects

    def alloc(self, Memcg memcg=None):
        """Allocate for `memcg`, else for the current group; return the object's address."""
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
        """Free an object of this root or of any child of it; the owner is credited."""
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
        if self.pad and not (<char *>p)[CONSTRUCTED]:
            construct_slab(self, buffer)
        return buffer

    def free_buffer(self, given):
        """Free a buffer; the group that allocated it is credited."""
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
        """Drop empty slabs; return how many pages went."""
        return kmem_cache_shrink(self.get())

    def set_dead(self):
        """Keep no empty slab; the free that empties the cache posts ``empty``."""
        kmem_cache_set_dead(self.get())

    def shutdown(self):
        """Serve nothing from now on, or raise `CacheBusy` and go on as before."""
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


# In place of `__dealloc__`, around which Cython saves the exception state. A free has none.
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
    """An object as the constructor sees it. A view that it keeps is an export of `buffer`, which
    lies in the same slab: so the slab stays."""

    cdef Buffer buffer
    cdef char *p

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(view, self, self.p, self.buffer.cache.object_size, 0, flags)
        self.buffer.exports += 1

    def __releasebuffer__(self, Py_buffer *view):
        self.buffer.exports -= 1


sealed_type(<PyTypeObject *>Constructed)


cdef construct(Buffer buffer, char *p):
    cdef Constructed constructed = Constructed.__new__(Constructed)
    constructed.buffer = buffer
    constructed.p = p
    view = memoryview(constructed)
    try:
        buffer.cache.ctor(view)
    finally:
        try:
            view.release()
        except BufferError:  # it is kept
            pass


cdef construct_slab(Cache cache, Buffer buffer):
    """Run the constructor on each object of the slab that is new; if it raises, give it back."""
    cdef size_t n = 0, size = cache.size
    cdef char *base = <char *>kmem_cache_slab_of(buffer.p, &n)
    cdef size_t i
    cdef list done = []
    try:
        for i in range(n):
            if not base[i * size + CONSTRUCTED]:
                base[i * size + CONSTRUCTED] = 1
                done.append(i)
                construct(buffer, base + i * size + cache.pad)
    except BaseException:
        for i in done:
            base[i * size + CONSTRUCTED] = 0
        if not buffer.exports:  # else the last view that was kept has it freed
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


# -- errors


cdef str describe(memcg_failure *failure):
    memcg = <Memcg>mem_cgroup_owner(failure.memcg)
    limited = <Memcg>mem_cgroup_owner(failure.limited)
    return oom_text(memcg.path, failure.bytes, failure.current, failure.max, limited.path)


def last_failure():
    """Describe this thread's last refusal, once; None if there is none."""
    cdef memcg_failure failure
    return describe(&failure) if memcg_last_failure(&failure) else None


def last_alarm():
    """Describe the alarm that was delivered to this thread; None if there is none."""
    cdef memcg_failure failure
    return describe(&failure) if alarm_last(&failure) else None


cdef raise_oom(size_t size):
    text = last_failure()
    if text is None:
        raise MemoryError(f"no memory for {size} bytes")
    raise MemcgOOM(text)


# -- the current group

@cython.no_gc
@cython.final
cdef class Entry:
    """One ``with group:``: the group and the entry before it. `struct entry` in current.h."""

    cdef Memcg memcg
    cdef Entry previous
    cdef mem_cgroup *c
    cdef shield_state shield
    cdef int slot

    def __dealloc__(self):
        cdef Entry previous = self.previous, before
        self.memcg.nr_entries -= 1
        self.previous = None
        while previous is not None and Py_REFCNT(previous) == 1:  # a long chain is no recursion
            before = previous.previous
            previous.previous = None
            previous = before
            before = None


sealed_type(<PyTypeObject *>Entry)
cdef object entry_var = current_init(
    PyContextVar_New("memcg_current", <PyObject *>None), <PyTypeObject *>Entry
)


cdef Entry new_entry(Memcg memcg, Entry previous, shield_state shield):
    cdef Entry entry = Entry.__new__(Entry)
    while previous is not None and previous.shield == SHIELD_LEFT:  # left in another context
        previous = previous.previous
    memcg.nr_entries += 1
    entry.memcg = memcg
    entry.c = memcg.c
    entry.previous = previous
    entry.shield = shield
    return entry


cdef Entry entry_now():
    cdef c_entry *now = current_entry_now()
    cdef PyObject *foreign
    if now is not NULL:
        return <Entry><PyObject *>now
    foreign = current_foreign_value()
    if foreign is not NULL:
        raise MemcgError(
            f"the ContextVar {entry_var.name!r} holds a value of type {type(<object>foreign).__name__}, "
            "which memcg did not set; this context is in no group until what set it puts back what "
            "was there, or None"
        )
    return None


cdef c_entry *c_entry_of(Entry entry):
    return NULL if entry is None else <c_entry *><PyObject *>entry


cdef set_entry(Entry entry, entering enter):
    current_set_entry(c_entry_of(entry), enter)


def current():
    """The group of the running context, or None for the root."""
    cdef Entry entry = entry_now()
    return None if entry is None else entry.memcg


def current_entry():
    """What `Bound` takes: the running context's place in its groups."""
    return entry_now()


cdef class Bound:
    """A callable that runs in an entry of another context, as `fn` runs in this one.

    None is an entry too: the root, in no group.
    """

    cdef Entry entry
    cdef object fn

    def __init__(self, Entry entry, fn):
        self.entry = entry
        self.fn = fn

    def __call__(self, *args, **kwargs):
        cdef Entry before = entry_now()
        cdef int index
        if before is self.entry:
            return self.fn(*args, **kwargs)
        index = current_enter_bound(c_entry_of(self.entry))
        try:
            return PyObject_Call(self.fn, args, kwargs)  # without a copy, which would be charged
        except MemoryError as error:  # no `with` is left here
            explain(error)
            raise
        finally:
            current_leave_bound(c_entry_of(self.entry), index, c_entry_of(before))


cdef class Started:
    """What a new thread runs: `fn` in `entry`; None: in the root, and so are copies of its context.

    An error is shown as CPython shows that of `fn`, outside the group.
    """

    cdef Entry entry
    cdef object fn

    def __init__(self, Entry entry, fn):
        self.entry = entry
        self.fn = fn

    def __call__(self, *args, **kwargs):
        if self.fn is None:
            raise TypeError("a Started that was never initialized cannot be called")
        try:
            if self.entry is None:
                enter_root()
                self.fn(*args, **kwargs)
            else:
                Bound(self.entry, self.fn)(*args, **kwargs)
        except SystemExit:
            pass
        except BaseException as error:
            py_show_error_of_thread(self.fn, error)


cdef enter_root():
    """Say that the context is in the root, where it says nothing; without memory it says nothing."""
    try:
        current_set_entry(NULL, ENTER_NOT)
    except MemoryError:
        pass


cpdef enter(Memcg memcg):
    """Make `memcg` the context's group."""
    if memcg is None:
        raise TypeError("None is not a group")
    if not mem_cgroup_online(memcg.get()):
        raise OfflineError(f"group {memcg.path!r} is closed; memcg.group() makes a new one")
    if not current_enter_again(<PyObject *>memcg):
        set_entry(new_entry(memcg, entry_now(), NO_SHIELD), ENTER_GROUP)
    memcg.nr_inside += 1
    opened_add(&memcg.opened, current_context())


def collect_garbage():
    """Run the collector; tell whether it ran: while a collection is under way none begins."""
    before = gc.get_stats()[2]["collections"]
    gc.collect()
    return gc.get_stats()[2]["collections"] != before


cdef Entry without(Memcg memcg, Entry top):
    """The chain that begins with `top`, without the innermost entry into `memcg`."""
    cdef Entry entry = top
    cdef list above = []
    while entry is not None and (entry.memcg is not memcg or entry.shield != NO_SHIELD):
        if entry.shield == NO_SHIELD:
            above.append(entry.memcg)
        entry = entry.previous
    if entry is None:
        return top
    entry = entry.previous
    while above:
        entry = new_entry(above.pop(), entry, NO_SHIELD)
    return entry


cdef bint may_leave(Memcg memcg, Entry top):
    """Tell whether nothing is inside but what others have set the variable to."""
    cdef PyObject *context = current_context()
    cdef Entry entry = top
    cdef bint is_innermost = True, entered_above = False
    while entry is not None and (entry.memcg is not memcg or entry.shield != NO_SHIELD):
        if entry.shield == NO_SHIELD:
            is_innermost = False
            entered_above |= opened_has(&entry.memcg.opened, context)
        entry = entry.previous
    if entry is not None and is_innermost:  # but for shields
        return True
    return opened_has(&memcg.opened, context) and (entry is None or not entered_above)


cdef bint came_through(error, uintptr_t code, int lasti):
    """Tell whether `error` was raised at an instruction, or in what that called."""
    traceback = error.__traceback__
    while traceback is not None:
        if <uintptr_t><PyObject *>traceback.tb_frame.f_code == code and traceback.tb_lasti == lasti:
            return True
        traceback = traceback.tb_next
    return False


def find_memory_error(uintptr_t code, int lasti):
    """Tell whether a MemoryError is alive that came through there, or does not say where."""
    return is_memory_error_alive(code, lasti, True)


cdef bint is_memory_error_alive(uintptr_t code, int lasti, bint without_traceback):
    memcg_stop_kmem_account()
    try:
        for found in gc.get_objects():
            if PyObject_TypeCheck(found, <PyTypeObject *>MemoryError) and (
                without_traceback if found.__traceback__ is None
                else came_through(found, code, lasti)
            ):
                return True
        return False
    finally:
        memcg_resume_kmem_account()


cdef bint is_other_error(error, code_line *line):
    """Tell whether `error` is what code made of a refusal there in place of a MemoryError."""
    cdef set seen = set()
    cdef bint found = False
    if isinstance(error, (GeneratorExit, KeyboardInterrupt, SystemExit)):
        return False
    while error is not None and id(error) not in seen:
        if isinstance(error, MemoryError) and error.__traceback__ is not None:
            return False
        seen.add(id(error))
        found |= came_through(error, <uintptr_t>line.code, line.lasti)
        if not isinstance(error, Exception):  # Rust's panics come so; and cancellation, from elsewhere
            break
        error = error.__cause__ or error.__context__
    return found


cpdef leave(Memcg memcg, error=None):
    """Go back to the group before; restores by setting, never by deleting the variable.

    What others have set the variable to meanwhile stays. An alarm of the group that was not
    raised yet is raised here, unless reclaim makes it needless; so is a refusal that became no
    MemoryError, unless `error` has nothing to do with it. If `error` is a plain MemoryError that
    memcg caused, it gets the account.
    """
    cdef c_entry *now = current_entry_now()
    cdef Entry top = None if now is NULL else <Entry><PyObject *>now
    cdef memcg_failure failure, refused
    cdef code_line line
    cdef refusal_doubt doubt
    cdef bint alarmed, plain
    if memcg is None:
        raise TypeError("None is not a group")
    plain = top is not None and top.memcg is memcg and top.shield == NO_SHIELD
    if not plain and not may_leave(memcg, top):
        raise MemcgError(
            f"group {memcg.path!r} is left, but it is not the innermost group of this context; leave "
            "it where it was entered, and in generators use group.iterate()"
        )
    alarmed = delivery_leave(memcg.c, &failure)
    if plain:
        current_leave()
    else:
        set_entry(without(memcg, top), ENTER_NOT)
    memcg.nr_inside -= 1
    if memcg.nr_inside > 0:
        opened_remove(&memcg.opened, current_context())
    else:
        opened_clear(&memcg.opened)
    doubt = refusal_take(memcg.c, &refused, &line)
    if alarmed:
        raise MemcgOOM(describe(&failure))
    if (
        doubt != REFUSAL_HEARD
        and (doubt == REFUSAL_SILENT if error is None else is_other_error(error, &line))
        and not is_memory_error_alive(<uintptr_t>line.code, line.lasti, error is None)
    ):
        raise MemcgOOM(describe(&refused)) from error
    if error is not None:
        explain(error)


cpdef explain(error):
    """Give a plain MemoryError the account of this thread's last refusal: as its text, if it has
    none, else as a note. Of an exception group, each that has no text."""
    if isinstance(error, BaseExceptionGroup) or is_plain(error):
        text = last_failure()
        if text is not None:
            add_account(error, text)


cdef bint is_plain(error):
    return isinstance(error, MemoryError) and not isinstance(error, MemcgOOM)


cdef add_account(error, str text):
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            add_account(inner, text)
    elif is_plain(error):
        if type(error) is MemoryError and not error.args:
            error.args = (text,)
        else:
            error.add_note(text)


@cython.no_gc
cdef class Shield:
    """See `memcg.shield`. It is left for all contexts that its entry was copied to."""

    cdef Entry entry  # the last
    cdef list others  # those before it, where it was entered again, or by several threads or tasks

    def __enter__(self):
        cdef Entry previous = entry_now()
        cdef Memcg memcg = (<Memcg>mem_cgroup_owner(mem_cgroup_root()) if previous is None
                            else previous.memcg)
        cdef Entry entry = new_entry(memcg, previous, SHIELD_UP)
        if self.others is None and self.entry is not None:
            self.others = []
        set_entry(entry, ENTER_NOT)
        if self.entry is not None:
            self.others.append(self.entry)
        self.entry = entry
        return self

    def __exit__(self, *exc):
        cdef c_entry *now = current_entry_now()
        cdef Entry top = None if now is NULL else <Entry><PyObject *>now
        cdef Entry entry = self.entry
        if entry is None:
            raise MemcgError(
                "a shield is left, but it was not entered, or was left already; enter it once for each "
                "time that it is left"
            )
        if not self.others:
            self.entry = None
        elif top is not None and top in self.others:
            entry = top
            self.others.remove(top)
        else:
            self.entry = self.others.pop()
        entry.shield = SHIELD_LEFT
        if top is entry:
            set_entry(entry.previous, ENTER_NOT)
        delivery_resume(current_context())


# -- events


cdef dict EVENT_KINDS = {
    MEMCG_EVENT_CREATE: "create", MEMCG_EVENT_EMPTY: "empty", MEMCG_EVENT_HIGH: "high",
    MEMCG_EVENT_RELEASE: "release",
}


def next_event():
    """Take the oldest event, or None."""
    cdef memcg_event event
    # Made first and filled in: an event that is taken is not lost for want of memory.
    result = Event("create", None, None)
    if not memcg_next_event(&event):
        return None
    memcg = None if event.memcg is NULL else <Memcg>mem_cgroup_owner(event.memcg)
    cache = None if event.cache is NULL else <Cache>kmem_cache_owner(event.cache)
    result.kind = EVENT_KINDS[event.kind]
    if event.kind == MEMCG_EVENT_RELEASE:
        Py_DECREF(memcg)  # it kept itself alive since it was activated
    result.memcg = memcg
    result.cache = cache
    return result


cdef void wake_for_events() noexcept nogil:
    worker_wake(WORKER_EVENTS)


def run_worker(int kind):
    """Be a worker: what worker.c has a thread of Python's call."""
    try:
        worker_run(<worker_kind>kind)
    finally:
        worker_ended(<worker_kind>kind)


def set_waker(wake, work=None):
    """Have `work` called in a native thread soon after an event was posted; None: nobody."""
    if wake is None or work is None:
        memcg_set_waker(NULL)
        return
    worker_init(work, run_worker, is_traced())
    memcg_set_waker(wake_for_events)


cdef extern from *:
    int PyTraceMalloc_Untrack(unsigned int domain, uintptr_t address)


def is_traced():
    """Tell whether tracemalloc is tracing; to import its module for that costs a start more."""
    return PyTraceMalloc_Untrack(0, 0) != -2


def hold_workers():
    """Let no native worker start; this thread's `release_workers` starts those that were due."""
    worker_hold()


def release_workers():
    """End one `hold_workers` of this thread."""
    worker_release()


def wait_worker(double within=-1):
    """Wait until no native worker is at work, or `within` seconds; tell whether none is."""
    return bool(worker_wait(within))


def set_promote_bytes(size_t n):
    """Set how many live shared bytes of one cache ask for a child; 0 asks at once."""
    memcg_set_promote_bytes(n)


def synchronize():
    """Wait until every allocation, free and lookup that began before has ended."""
    memcg_synchronize()


def stop_account():
    """Charge the root by force and ask for nothing until `resume_account`; nestable."""
    memcg_stop_kmem_account()


def resume_account():
    """End the innermost `stop_account`."""
    memcg_resume_kmem_account()


# -- the whole


def global_stat():
    """Figures of the process, in bytes but for counts (``nr_*``)."""
    cdef memcg_global_stat stat
    memcg_read_global_stat(&stat)
    return stat


def trim():
    """Give idle pages back to the system; return bytes."""
    return memcg_trim()


def fit(size_t space):
    """Make do with two thirds of `space` bytes of address space, or with what is in use."""
    memcg_fit(space)


# -- what holds memory

def live_blocks(Memcg memcg not None):
    """List (address, size in bytes, cache or None) of what is charged to the group itself.

    Of a group that is offline: what was charged to it. Threads stand still meanwhile.
    """
    cdef size_t n = 0
    cdef live_block *found = blocks_live(memcg.get(), &n)
    if found is NULL:
        raise MemoryError(f"no memory to list {n} blocks")
    try:
        return [
            (<uintptr_t>found[i].start, found[i].size,
             None if found[i].cache is NULL else <Cache>kmem_cache_owner(found[i].cache))
            for i in range(n)
        ]
    finally:
        libc_free(found)


def scan(Memcg memcg not None, list types not None):
    """Tell whose the memory of the group itself is: (blocks, kinds, biggest); `types` is every type.

    Of kinds, (kind, number of objects, bytes with what belongs to them), where a kind is a type, a
    Cache, or None for what nobody owns up to. Of the ten biggest objects, (object, kind, bytes,
    guessed, path); see holders.h.
    """
    return holders_scan(memcg.get(), types, gc.get_objects(), gc.get_freeze_count())


# -- hooks


def install():
    """Put the hooks in; a second call does nothing. Context: the main thread, where alarms are quickest."""
    refusal_init()
    verdict_init(find_memory_error)
    collection_init(collect_garbage)
    delivery_init(MemcgOOM)
    hooks_install()
    if entry_now() is None:
        enter_root()


def foreign_hooks():
    """The file whose hooks stand in CPython's allocators, and not above ours; None: nobody's."""
    cdef const char *file = hooks_stranger()
    return None if file is NULL else os.fsdecode(file)


def installed():
    """Tell whether the hooks are in."""
    return bool(hooks_installed())


cdef class ModuleFinder:
    """An import finder (PEP 451) for a few names; for others no Python frame, which a
    program's tracer would see."""
    cdef object names, find
    cdef dict __dict__  # some programs wrap `find_spec` of each finder that they see

    def __init__(self, names, find):
        self.names = names
        self.find = find
        self.__module__ = "memcg.hooks"  # by which programs tell finders apart

    def find_spec(self, name, path=None, target=None):
        return self.find(name, path, target) if name in self.names else None

    def leave(self):
        """Leave ``sys.meta_path`` for a new list: other threads may be going through this one."""
        cdef list others = []
        for finder in sys.meta_path:
            if finder is not self:
                others.append(finder)
        sys.meta_path = others  # no thread came in between: a loop in C has no check


def install_numpy(array_api):
    """Put the hooks of NumPy before 2.5 in; `array_api` is its ``_ARRAY_API``."""
    numpy_hook(array_api)


def exiting():
    """Before the interpreter ends: no worker, new RAW requests as before us."""
    alarm_stop()
    worker_stop()
    hooks_exiting()
    memcg_validate()


def forget_alarms():
    """Raise none of the root's alarms that are on their way."""
    alarm_forget(mem_cgroup_root())


def after_fork_in_child():
    """Forget the workers of the parent, and the threads that wait there for a mutex."""
    worker_after_fork()
    delivery_after_fork()
    mutex_after_fork()

