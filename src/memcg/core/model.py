# SPDX-License-Identifier: Apache-2.0
"""The data plane in plain Python over mmap: it is an executable specification with real bytes.

A page run belongs to one group at a time and is cleared when it moves to another. A
*slab* is a page run cut into objects of one cache. A private slab charges its whole pages to its
group. A shared slab belongs to a root cache and serves groups without a child cache; it charges
each object's size to the owner recorded beside it. The owner is the group's `ObjCgroup`, which
offline points at the parent.

Every allocation, free and lookup is a read-side section, so a cache that was
unpublished before `synchronize` is not in use after it.

Kernel: mm/slub.c, mm/page_counter.c, obj_cgroup in mm/memcontrol.c (2020).
Where we differ: there are no per-CPU slabs and no NUMA nodes. An old array is retired, and not
freed by RCU.

Locks: ``entry_lock`` (entries into groups); ``cache_lock`` (the slabs), then ``page_lock`` (the
arena). They are the innermost.
"""

from __future__ import annotations

import gc
import mmap
import time
import weakref
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterator
from contextlib import nullcontext
from contextvars import ContextVar
from typing import Any, NamedTuple, Self

from ..errors import CacheBusy, MemcgError, MemcgOOM, OfflineError, oom_text
from ..locking import Atomic, Mutex, Published, ReadSide, current_task, is_forgotten, shared
from ..sizes import PAGE_COUNTER_MAX
from .dataplane import EVENTS, PAGE_SIZE, STAT, CacheInfo, Event

name = "model"
KMALLOC_SIZES: tuple[int, ...] = (64, 256, 1024, 4096)  # in bytes
GROUP_BYTES = 0  # a group's structures are Python objects here, which are not charged
_ARENA_PAGES = 1 << 16
_SHARED = 0  # the serial of shared slabs' pages, which are cleared when a group takes them over

read_side = ReadSide()
# There is one lock of each kind for all groups and caches, so that a fork can take them.
_entry_lock = Mutex("entry_lock")
_cache_lock = Mutex("cache_lock")


_events: deque[Event] = deque()
_waker: Callable[[], None] | None = None
_promote_bytes = 2 * PAGE_SIZE
_skip_account: Counter[object] = Counter()  # task -> nesting; only that task writes its entry


def set_waker(wake: Callable[[], None] | None, work: Callable[[], None] | None = None) -> None:
    """Register `wake`, which is called when an event was posted; None registers nothing.

    `wake` must not wait. The native data plane calls `work` instead, in a thread of its own.
    """
    global _waker
    _waker = wake


def _post(event: Event) -> None:
    _events.append(event)
    if _waker is not None:
        _waker()


def next_event() -> Event | None:
    """Take the oldest event off the queue; None if there is none."""
    return _events.popleft() if _events else None


def set_promote_bytes(n: int) -> None:
    """Set how many live shared bytes of one cache make a group ask for a child; 0 asks at once."""
    global _promote_bytes
    _promote_bytes = n


def synchronize() -> None:
    """Wait until every allocation, free and lookup that began before has ended."""
    read_side.synchronize()


class _PageAllocator:
    """It gives out runs of one anonymous mapping, first fit. `page_lock` protects all fields."""

    def __init__(self) -> None:
        self.page_lock = Mutex("page_lock")
        self.memory: mmap.mmap | None = None
        self.used = bytearray(_ARENA_PAGES)  # a byte for each page; 0 is a free one
        self.owner: dict[int, int] = {}  # page -> serial of the group that used it last

    def alloc(self, nr_pages: int, serial: int) -> int:
        """Return the offset of a run that has no bytes of another group than `serial`.

        -1 means that the arena is full.
        """
        with self.page_lock:
            if self.memory is None:
                self.memory = mmap.mmap(-1, _ARENA_PAGES * PAGE_SIZE)
            start = self.used.find(bytes(nr_pages))
            if start < 0:
                return -1
            self.used[start : start + nr_pages] = b"\1" * nr_pages
            for page in range(start, start + nr_pages):
                if self.owner.get(page, serial) != serial:
                    self.memory[page * PAGE_SIZE : (page + 1) * PAGE_SIZE] = bytes(PAGE_SIZE)
                self.owner[page] = serial
            return start * PAGE_SIZE

    def release(self, offset: int, nr_pages: int) -> None:
        with self.page_lock:
            self.used[offset // PAGE_SIZE : offset // PAGE_SIZE + nr_pages] = bytes(nr_pages)


_pages = _PageAllocator()
LOCKS: tuple[Mutex, ...] = (_entry_lock, _cache_lock, _pages.page_lock)


def view(address: int, size: int) -> memoryview:
    """Return the `size` bytes at `address`, writable, without a copy."""
    if _pages.memory is None:
        raise MemcgError(f"address {address:#x}: nothing was allocated yet")
    import ctypes  # here, because a subinterpreter cannot import it

    return memoryview((ctypes.c_ubyte * size).from_buffer(_pages.memory, address)).cast("B")


class ObjCgroup:
    """The stub that charged objects refer to. It refers to the group, or to its parent once the
    group is offline. Kernel: obj_cgroup."""

    __slots__ = ("memcg",)

    def __init__(self, memcg: Memcg) -> None:
        self.memcg = Published(memcg)


_root: Memcg | None = None  # the group without a parent


class Memcg:
    """The data-plane half of a group: its page counter, css references and stub.

    ``usage`` counts the bytes that are charged to the group and to groups below it. A limit is
    written by a single store and read without a lock: a charge sees the old or the new limit. Every
    request that passes ``max`` is refused here. Python objects are not charged, so there is no
    reserve and no overdraft.
    """

    _serials = 0
    path = ""  # for error texts
    parent: Memcg | None = None
    _kmemcg_id = -1  # the control plane stores it
    _last_oom: tuple[Any, ...] | None = None  # the last refusal here or below; one store writes it
    # what the control plane and the users' door store
    name: str
    children: dict[str, Any]
    shrinkers: list[Callable[[int], object]]
    memcg_slab_caches: dict[Any, None]
    _max_descendants: int | None = None
    _max_depth: int | None = None
    _own_high = False
    nr_inside = property(lambda self: len(threads_inside(self)))  # entries that were not left

    def __init__(self, parent: Memcg | None) -> None:
        global _root
        if parent is None:
            _root = self
        Memcg._serials += 1
        self.serial = Memcg._serials  # never reused, unlike _kmemcg_id
        self.usage = Atomic(0)
        self.peak = 0
        self._limits = dict.fromkeys(("max", "high"), PAGE_COUNTER_MAX)
        self._limits |= dict.fromkeys(("reserve", "overdraft"), 0)
        self.oom_group = False
        self.events = dict.fromkeys(EVENTS, 0)
        self._refs = Atomic(1)
        self._online = Published(True)
        self._high_posted = Atomic(0)
        self.objcg = ObjCgroup(self)
        self._objcgs = [self.objcg]  # stubs that point here; cgroup_mutex protects the list
        self._next_objcg = self.objcg  # what `mem_cgroup_reuse` makes its stub
        self._spare: list[Memcg] = []  # closed groups below that are kept; likewise
        self._pending: set[Cache] = set()  # roots whose ``create`` event is not handled
        if parent is not None:
            css_get(parent)
            self.parent = parent

    def __del__(self) -> None:
        if self.parent is not None and self._kmemcg_id < 0:  # it was dropped before its activation
            css_put(self.parent)

    @property
    def online(self) -> bool:
        return self._online.load()

    @property
    def _nr_spare(self) -> int:
        return len(self._spare)

    @property
    def current(self) -> int:
        """The bytes charged to the group and to groups below it. cgroup v2: ``memory.current``."""
        return self.usage.get()

    @property
    def stat(self) -> dict[str, int]:
        """The bytes of this group alone, by kind. cgroup v2: ``memory.stat``."""
        found, mine = dict.fromkeys(STAT, 0), self._objcgs
        with _cache_lock:
            for slab in set(_slab_of_page.values()):
                found["slab_private"] += slab.nr_pages * PAGE_SIZE * (slab.objcg in mine)
                found["slab_shared"] += slab.cache.size * sum(o in mine for o in slab.live.values())
        return found

    def __enter__(self) -> Self:
        enter(self)
        return self

    def __exit__(self, *exc: object) -> None:
        leave(self)


def ancestry(memcg: Memcg | None) -> Iterator[Memcg]:
    """Iterate over the group, its parent, and so on up to the root."""
    while memcg is not None:
        yield memcg
        memcg = memcg.parent


# -- css references, which keep an offline group's state alive


def css_refs(memcg: Memcg) -> int:
    """Return how many references there are."""
    return memcg._refs.get()


def css_tryget(memcg: Memcg) -> bool:
    """Take a reference, and return false if the group is offline. Kernel: ``css_tryget_online``."""
    while memcg._online.load() and (refs := memcg._refs.get()) > 0:
        if memcg._refs.compare_exchange(refs, refs + 1):
            return True
    return False


def css_get(memcg: Memcg) -> None:
    """Take one more reference. The caller holds one already. Kernel: ``css_get``."""
    memcg._refs.add(1)


def css_put(memcg: Memcg) -> None:
    """Drop a reference. The drop of the last one posts ``release``. Kernel: ``css_put``."""
    if (refs := memcg._refs.add(-1)) < 0:
        raise AssertionError("css reference count fell below zero")
    if refs == 0:
        _post(Event("release", memcg, None))


def mem_cgroup_offline(memcg: Memcg) -> bool:
    """Refuse new references from now on; return false and do nothing if something is inside.

    What is still charged to the group is charged to the parent from now on. After the grace period
    no thread charges or uncharges this group any more, and its ancestors' counters contained its
    charges already. A second call does nothing. Kernel: ``memcg_reparent_objcgs``.

    Raises
    ------
    MemcgError
        The group is the root.
    """
    if memcg.parent is None:
        raise MemcgError("the root group cannot go offline")
    with _entry_lock:  # a thread enters the group before it is offline, or fails
        if memcg.nr_inside:
            return False
        memcg._online.store(False)
    for objcg in memcg._objcgs:
        objcg.memcg.store(memcg.parent)
    memcg.parent._objcgs, memcg._objcgs = memcg.parent._objcgs + memcg._objcgs, []
    synchronize()
    memcg.usage.set(0)
    return True


# -- closed groups that are kept for the next ones


def mem_cgroup_keep(memcg: Memcg, children: dict[str, Any], nr_caches: int) -> bool:
    """Take a group that holds nothing offline, out of `children`, and keep it for the next group.

    It returns false if the group holds something or something is inside, or if it has more caches
    than the caller knows of. The group is then online.
    """
    if memcg.parent is None or memcg._spare:
        return False
    with _entry_lock:
        if memcg.nr_inside:
            return False
        memcg._online.store(False)
    with _cache_lock:
        slabs = [slab for slab in set(_slab_of_page.values()) if slab.objcg is memcg.objcg]
        refs = 1 + nr_caches + len(memcg._pending)
        if memcg._refs.get() != refs or any(slab.live for slab in slabs):
            memcg._online.store(True)
            return False
        memcg._next_objcg = ObjCgroup(memcg)
        for slab in slabs:
            slab.objcg = memcg._next_objcg
    for stub in memcg._objcgs:
        stub.memcg.store(memcg.parent)
    memcg.parent._objcgs, memcg._objcgs = memcg.parent._objcgs + memcg._objcgs, [memcg._next_objcg]
    synchronize()  # an allocation or a free has used the stub before, or finds the parent
    memcg.usage.set(sum(slab.nr_pages for slab in slabs) * PAGE_SIZE)
    memcg.parent._spare.append(memcg)
    del children[memcg.name]
    return True


def mem_cgroup_reuse(parent: Memcg, children: dict[str, Any], name: str, path: str) -> Memcg | None:
    """Make the latest spare group that the program has forgotten a new one, in `children`.

    Only the explorer can tell whether a program has forgotten one, so elsewhere there is none.
    """
    memcg = next((m for m in reversed(parent._spare) if is_forgotten(m)), None)
    if memcg is None:
        return None
    parent._spare.remove(memcg)
    memcg.objcg, memcg._next_objcg = memcg._next_objcg, memcg.objcg
    memcg.path, memcg.name, memcg.children, memcg.shrinkers = path, name, {}, []
    memcg.peak, memcg.oom_group, memcg.events = 0, False, dict.fromkeys(EVENTS, 0)
    for which in memcg._limits:
        memcg._limits[which] = PAGE_COUNTER_MAX if which in ("max", "high") else 0
    memcg._last_oom = memcg._max_descendants = memcg._max_depth = None
    memcg._own_high = False
    memcg._high_posted.set(0)
    memcg._online.store(True)
    children[name] = memcg
    return memcg


def mem_cgroup_oldest_spare(parent: Memcg, at_most: int) -> Memcg | None:
    """Return the spare group that was closed first, or None if there are `at_most` or fewer."""
    return parent._spare[0] if len(parent._spare) > at_most else None


def mem_cgroup_give_up(memcg: Memcg) -> None:
    """Take a spare group off its parent's list and drop its css reference. It has no caches."""
    if memcg.parent is not None and memcg in memcg.parent._spare:
        memcg.parent._spare.remove(memcg)
        mem_cgroup_offline(memcg)
        css_put(memcg)


# -- limits and figures


def mem_cgroup_get_limit(memcg: Memcg, which: str) -> int:
    """Return ``max``, ``high``, ``reserve`` or ``overdraft`` in bytes."""
    return memcg._limits[which]


def mem_cgroup_set_limit(memcg: Memcg, which: str, n: int) -> bool:
    """Store a limit in bytes, and tell whether usage is above it.

    A negative reserve or overdraft stands for the default. While ``high`` was not written
    (`_own_high`), it is 7/8 of ``max``.
    """
    memcg._limits[which] = n
    if which == "max" and not memcg._own_high:
        memcg._limits["high"] = n if n == PAGE_COUNTER_MAX else n * 7 // 8
    return memcg.usage.get() > n


def mem_cgroup_set_has_shrinkers(memcg: Memcg) -> None:
    """Do nothing: here memory.high is handled when the caller lets it be."""


def mem_cgroup_events_local(memcg: Memcg) -> dict[str, int]:
    """Return `events`: here an event is counted at the limit's group only."""
    return memcg.events


def mem_cgroup_last_oom(memcg: Memcg) -> tuple[Any, ...] | None:
    """Return the fields of `Oom` for the last refusal here or below; None if there was none."""
    return memcg._last_oom


def mem_cgroup_collect_garbage(memcg: Memcg) -> None:
    """Collect garbage. The native core does so only if that has not just been in vain."""
    gc.collect()


def mem_cgroup_high_done(memcg: Memcg) -> None:
    """Note that the handler of a ``high`` event has reclaimed. It does nothing here."""


def mem_cgroup_reset_peak(memcg: Memcg) -> None:
    """Set `peak` to the present usage."""
    memcg.peak = memcg.current


def mem_cgroup_drain(memcg: Memcg) -> int:
    """Drop empty slabs here and below; return how many bytes were given back."""
    before = memcg.current
    for cache in {slab.cache for slab in list(_slab_of_page.values())}:
        if cache.memcg is not None and memcg in ancestry(cache.memcg):
            cache.shrink()
    return before - memcg.current


# -- page counter


def memcg_try_charge(memcg: Memcg, n: int) -> Memcg | None:
    """Charge `n` bytes to the group and its ancestors, or none and return the group that refused.

    Kernel: ``page_counter_try_charge``.
    """
    for limited in ancestry(memcg):
        if limited.usage.add(n) > limited._limits["max"]:
            for undo in ancestry(memcg):
                undo.usage.add(-n)
                if undo is limited:
                    break
            limited.events["max"] += 1
            _note_oom(memcg, limited, n)
            return limited
    _charged(memcg)
    return None


def _note_oom(memcg: Memcg, limited: Memcg, n: int) -> None:
    limit, current, now = limited._limits["max"], limited.usage.get(), time.time()
    for above in ancestry(limited):
        above._last_oom = (n, limit, limited.path, memcg.path, current, True, now)


def memcg_charge(memcg: Memcg, n: int) -> None:
    """Charge `n` bytes to the group and its ancestors, even past a limit."""
    for above in ancestry(memcg):
        above.usage.add(n)
    _charged(memcg)


def _charged(memcg: Memcg) -> None:
    for above in ancestry(memcg):
        usage = above.usage.get()
        if usage > above.peak:  # racy: another thread's lower peak may overwrite a higher one
            above.peak = usage
        if usage > above._limits["high"] and above._high_posted.compare_exchange(0, 1):
            above.events["high"] += 1
            if css_tryget(above):
                _post(Event("high", above, None))


def memcg_uncharge(memcg: Memcg, n: int) -> None:
    """Uncharge `n` bytes from the group and its ancestors. Kernel: ``page_counter_uncharge``."""
    for above in ancestry(memcg):
        usage = above.usage.add(-n)
        if usage < 0:
            raise AssertionError(f"charge of a group fell below zero by {-usage} bytes")
        if usage <= above._limits["high"]:
            above._high_posted.set(0)


class _Slab:
    """A page run cut into objects. Its cache's `cache_lock` protects all fields."""

    __slots__ = ("cache", "constructed", "free", "live", "nr_pages", "objcg", "offset")

    def __init__(self, cache: Cache, offset: int, nr_pages: int, objcg: ObjCgroup | None) -> None:
        self.cache = cache
        self.offset = offset
        self.nr_pages = nr_pages
        self.objcg = objcg  # it is charged for the pages; None if the objects have owners
        self.free = [offset + i * cache.size for i in reversed(range(cache.objects_per_slab))]
        self.live: dict[int, ObjCgroup | None] = {}
        self.constructed = cache.ctor is None

    def construct(self) -> None:
        """Run the cache's constructor on each object. A second call does nothing."""
        if not self.constructed:
            self.constructed = True
            try:
                for i in range(self.cache.objects_per_slab):
                    assert self.cache.ctor is not None
                    self.cache.ctor(view(self.offset + i * self.cache.size, self.cache.object_size))
            except BaseException:
                self.constructed = False
                raise


_slab_of_page: dict[int, _Slab] = {}  # page -> slab; written under page_lock by the slab's owner


@shared(_slabs="cache_lock")
class Cache:
    """The data-plane half of a kmem_cache: its slabs and, for a root, its memcg_caches.

    Parameters
    ----------
    object_size : int
        The bytes of an object, at least 1.
    align : int
        The alignment of each object in bytes, a power of two.
    memcg, root : optional
        For a child cache, the group that it serves and the root that it is a copy of.
    ctor : callable, optional
        It is called once with each object, before the first buffer of the object's slab is used.
    kmalloc : int
        The size class that the root cache serves; -1 if it serves none.
    """

    def __init__(
        self, object_size: int, align: int = 16, *, memcg: Memcg | None = None,
        root: Cache | None = None, ctor: Callable[[memoryview], object] | None = None,
        kmalloc: int = -1,
    ) -> None:  # fmt: skip
        self.name = ""  # for error texts
        self.object_size = object_size
        self.align = align
        self.ctor = ctor
        self.size = -(-object_size // align) * align
        self.pages_per_slab = max(1, -(-self.size // PAGE_SIZE))
        self.objects_per_slab = self.pages_per_slab * PAGE_SIZE // self.size
        self.cache_lock = _cache_lock
        self._slabs: list[_Slab] = []
        self.frozen = False
        self._dead = False
        self.dying = False  # a root is being destroyed; memcg_slab_mutex for writers, read racily
        self.memcg = memcg
        self.root_cache = root
        self._nr_pages = Atomic(0)
        # Only roots have an array. A writer holds memcg_slab_mutex; a reader holds nothing and does
        # one acquire load. A grown array is published whole, and the old one stays readable for a
        # thread that has loaded it.
        self._memcg_caches: Published[list[Cache | None]] = Published([])
        # id of buffer -> address, buffer, and the object that every view and array of it refers to
        self._buffers: dict[int, tuple[int, memoryview, weakref.ref[object]]] = {}
        self._shared_bytes: dict[int, int] = {}  # group serial -> live shared bytes
        if memcg is not None:
            css_get(memcg)

    @property
    def nr_pages(self) -> int:
        return self._nr_pages.get()

    # -- memcg_caches

    @property
    def array_size(self) -> int:
        return len(self._memcg_caches.load())

    def update_array(self, nr_slots: int) -> None:
        """Grow the array to `nr_slots` and keep every slot. Kernel: memcg_update_cache_size."""
        old = self._memcg_caches.load()
        self._memcg_caches.store(old + [None] * (nr_slots - len(old)))

    def publish(self, kmemcg_id: int, child: Cache, listed: dict[Any, None]) -> None:
        """Put a complete child on its group's list and in its slot.

        Context: ``memcg_slab_mutex`` held. There is no call between the last two stores, so no
        asynchronous exception can part them.
        """
        slots = self._memcg_caches.load()
        if slots[kmemcg_id] is not None:
            raise AssertionError("the slot of a child to be published is taken")
        listed[child] = None
        slots[kmemcg_id] = child  # a release store: a reader sees a complete child

    def unpublish(self, kmemcg_id: int, child: Cache, listed: dict[Any, None]) -> None:
        """Take a child out of its slot and off its group's list. Context: as for `publish`."""
        slots = self._memcg_caches.load()
        if slots[kmemcg_id] is not child:
            raise AssertionError("the child to be unpublished is not in its slot")
        slots[kmemcg_id] = None
        del listed[child]

    def from_memcg_idx(self, kmemcg_id: int) -> Cache | None:
        """Load the child of a group. Kernel: ``cache_from_memcg_idx``."""
        slots = self._memcg_caches.load()
        return slots[kmemcg_id] if 0 <= kmemcg_id < len(slots) else None

    def create_done(self, memcg: Memcg) -> None:
        """Let `memcg` ask for its child of this root again."""
        with self.cache_lock:
            memcg._pending.discard(self)

    # -- objects

    def alloc(self, memcg: Memcg | None = None) -> int:
        """Allocate from the group's child cache, or from this root if no child is published.

        Parameters
        ----------
        memcg : Memcg, optional
            The group. The default is the current one.

        Returns
        -------
        int
            The object's address.

        Raises
        ------
        MemcgOOM
            The charge is over a ``memory.max``.
        MemoryError
            The arena is full.
        MemcgError
            The cache was destroyed.

        Notes
        -----
        Context: any thread may call it. It takes ``cache_lock`` and ``page_lock``, and never a
        mutex of the control plane.
        """
        if self.root_cache is not None:
            raise AssertionError("lookup on a cache that is not a root")
        memcg = memcg or current() or _root
        assert memcg is not None
        with read_side:
            while True:
                payer = _charged_group(memcg)
                cachep = _memcg_kmem_get_cache(self, payer)
                if (address := cachep._alloc(payer)) is not None:
                    if cachep is self:
                        _promote(self, payer)
                    return address

    def _alloc(self, memcg: Memcg) -> int | None:
        """Return an address; None if the child was frozen meanwhile and must be looked up again."""
        private = self.root_cache is not None or memcg.parent is None
        with self.cache_lock:
            if self.frozen:
                if self.root_cache is None:
                    raise MemcgError("the cache was destroyed; make a new one")
                return None
            owner = None if private else memcg.objcg
            charged = (self.memcg or memcg).objcg if private else None
            slab = next((s for s in self._slabs if s.free and s.objcg is charged), None)
            if slab is None:
                slab = self._new_slab(charged)
            if owner is not None:
                _try_charge_or_raise(owner.memcg.load(), self.size)
                key = memcg.serial
                self._shared_bytes[key] = self._shared_bytes.get(key, 0) + self.size
            address = slab.free.pop()
            slab.live[address] = owner
            return address

    def _new_slab(self, objcg: ObjCgroup | None) -> _Slab:
        nbytes = self.pages_per_slab * PAGE_SIZE
        memcg = objcg.memcg.load() if objcg else None
        if memcg is not None:
            _try_charge_or_raise(memcg, nbytes)
        offset = _pages.alloc(self.pages_per_slab, memcg.serial if memcg else _SHARED)
        if offset < 0:
            if memcg is not None:
                memcg_uncharge(memcg, nbytes)
            raise MemoryError(f"arena of {_ARENA_PAGES * PAGE_SIZE} bytes is full")
        slab = _Slab(self, offset, self.pages_per_slab, objcg)
        for page in range(offset // PAGE_SIZE, offset // PAGE_SIZE + slab.nr_pages):
            _slab_of_page[page] = slab
        self._slabs.append(slab)
        self._nr_pages.add(slab.nr_pages)
        return slab

    def free(self, address: int) -> None:
        """Free an object of this root or of any child of it. The owner is credited.

        Raises
        ------
        ValueError
            `address` is not an object of this cache, or is free already. Nothing is changed.
        """
        with read_side:
            slab = _slab_of_page.get(address // PAGE_SIZE)
            root = self.root_cache or self
            if slab is None or (slab.cache.root_cache or slab.cache) is not root:
                raise ValueError(f"address {address:#x} is not an object of this cache")
            slab.cache._free(slab, address)

    def _free(self, slab: _Slab, address: int) -> None:
        with self.cache_lock:
            if address not in slab.live:
                why = "is free already" if address in slab.free else "is not the start of an object"
                raise ValueError(f"address {address:#x} {why}")
            owner = slab.live.pop(address)
            slab.free.append(address)
            if owner is not None:
                memcg = owner.memcg.load()
                memcg_uncharge(memcg, self.size)
                left = self._shared_bytes.get(memcg.serial, 0) - self.size
                if left >= 0:  # below: it was allocated by a group that is closed
                    self._shared_bytes[memcg.serial] = left
            if self._dead and not slab.live:
                self._drop(slab)
            emptied = self._dead and not self._slabs
            if emptied and self.memcg is not None:
                css_get(self.memcg)
        if emptied:
            _post(Event("empty", self.memcg, self))

    def _drop(self, slab: _Slab) -> None:
        """Give an empty slab's pages back. Context: in a read-side section, `cache_lock` held."""
        for page in range(slab.offset // PAGE_SIZE, slab.offset // PAGE_SIZE + slab.nr_pages):
            del _slab_of_page[page]
        self._slabs.remove(slab)
        self._nr_pages.add(-slab.nr_pages)
        if slab.objcg is not None:
            memcg_uncharge(slab.objcg.memcg.load(), slab.nr_pages * PAGE_SIZE)
        _pages.release(slab.offset, slab.nr_pages)

    def alloc_buffer(self) -> memoryview:
        """Allocate for the current group and return a buffer of `object_size` bytes."""
        address = self.alloc()
        try:
            _slab_of_page[address // PAGE_SIZE].construct()
        except BaseException:
            self.free(address)
            self.shrink()
            raise
        buffer = view(address, self.object_size)
        self._buffers[id(buffer)] = (address, buffer, weakref.ref(buffer.obj))
        return buffer

    def free_buffer(self, buffer: memoryview) -> None:
        """Free a buffer. The group that allocated it is credited.

        Raises
        ------
        ValueError
            `buffer` is not a live buffer of this cache. Nothing is changed.
        BufferError
            An array or view of the buffer is still in use. The memory stays allocated and charged.
        """
        entry, name = self._buffers.get(id(buffer)), f"cache {self.name!r}"
        if entry is None or entry[1] is not buffer:
            raise ValueError(f"{name}: not a live buffer of this cache; each buffer is freed once")
        buffer.release()
        if entry[2]() is not None:
            raise BufferError(f"{name}: an array or view of the buffer is in use; drop it first")
        del self._buffers[id(buffer)]
        self.free(entry[0])

    def shrink(self) -> int:
        """Drop empty slabs; return how many pages that were. Kernel: ``kmem_cache_shrink``."""
        with read_side, self.cache_lock:
            empty = [slab for slab in self._slabs if not slab.live]
            for slab in empty:
                self._drop(slab)
        return sum(slab.nr_pages for slab in empty)

    def set_dead(self) -> None:
        """Keep no empty slab from now on. The free that empties the cache posts ``empty``."""
        with self.cache_lock:
            self._dead = True

    def shutdown(self) -> None:
        """Serve nothing from now on. Kernel: ``__kmem_cache_shutdown``.

        Raises
        ------
        CacheBusy
            Objects are live; the cache serves as before.
        """
        with read_side, self.cache_lock:
            if live := sum(len(slab.live) for slab in self._slabs):
                raise CacheBusy(f"cache {self.name!r} still has {live} objects; free them first")
            for slab in list(self._slabs):
                self._drop(slab)
            self.frozen = True

    def info(self) -> CacheInfo:
        """Count slabs and objects under one hold of the cache's lock."""
        with self.cache_lock:
            live = [len(slab.live) for slab in self._slabs]
        return CacheInfo(
            active_objs=sum(live), num_objs=len(live) * self.objects_per_slab, objsize=self.size,
            objperslab=self.objects_per_slab, pagesperslab=self.pages_per_slab,
            active_slabs=len(live) - live.count(0), num_slabs=len(live),
        )  # fmt: skip


def _try_charge_or_raise(memcg: Memcg, n: int) -> None:
    if _skip_account.get(current_task()):
        memcg_charge(memcg, n)
        return
    if (limited := memcg_try_charge(memcg, n)) is not None:
        limited.events["oom"] += 1
        current, limit = limited.usage.get(), limited._limits["max"]
        raise MemcgOOM(oom_text(memcg.path, n, current, limit, limited.path))


def _charged_group(memcg: Memcg) -> Memcg:
    """Return the group or its nearest ancestor that is online; the root after `stop_account`."""
    skip = _skip_account.get(current_task())
    while memcg.parent is not None and (skip or not memcg.online):
        memcg = memcg.parent
    return memcg


def _memcg_kmem_get_cache(root: Cache, memcg: Memcg) -> Cache:
    """Return the child for `memcg`, or the root.

    Context: inside a read-side section. Kernel: ``__memcg_kmem_get_cache``, which asks for the
    child too. Here `_promote` does so after the allocation, and a refused one asks for none.
    """
    child = root.from_memcg_idx(memcg._kmemcg_id)  # None for the root group, which has no id
    return root if child is None or child.frozen else child


def _promote(root: Cache, memcg: Memcg) -> None:
    """Ask for a child if `memcg` holds enough of the root's shared slabs."""
    if root._shared_bytes.get(memcg.serial, 0) > _promote_bytes and not root.dying:
        _memcg_schedule_create(root, memcg)


def _memcg_schedule_create(root: Cache, memcg: Memcg) -> None:
    """Post a ``create`` event for the pair, with a css reference, unless one is posted already.

    A group without an id, which is not active yet, asks for none.
    """
    with root.cache_lock:
        if memcg._kmemcg_id < 0 or root in memcg._pending or not css_tryget(memcg):
            return
        memcg._pending.add(root)
    try:
        _post(Event("create", memcg, root))
    except MemoryError:  # no event was posted: the root serves, and a later allocation asks again
        root.create_done(memcg)
        css_put(memcg)


def live_blocks(memcg: Memcg) -> list[tuple[int, int, Cache | None]]:
    """List (address, size in bytes, cache) for each object that is charged to the group itself.

    For a group that is offline, these are the objects that were charged to it.
    """
    return [
        (address, slab.cache.size, slab.cache)
        for slab in set(_slab_of_page.values())
        for address, owner in slab.live.items()
        if (objcg := owner or slab.objcg) and (objcg is memcg.objcg or objcg.memcg.load() is memcg)
    ]


def stop_account() -> None:
    """Charge the root, even past a limit, and post no ``create`` until `resume_account`.

    Calls nest. Kernel: ``memcg_stop_kmem_account``.
    """
    _skip_account[current_task()] += 1


def resume_account() -> None:
    """End the innermost `stop_account`. Kernel: ``memcg_resume_kmem_account``."""
    task = current_task()
    _skip_account[task] -= 1  # after an interrupt here the entry is 0, which means the same as none
    if not _skip_account[task]:
        del _skip_account[task]


def last_failure() -> str | None:
    """Return the account of the thread's last refusal. It is None: errors have their text here."""
    return None


class _Entry(NamedTuple):
    memcg: Memcg
    previous: _Entry | None


_entry: ContextVar[_Entry | None] = ContextVar("memcg_current", default=None)
# A pair for each entry that was not left, with the task that made it. Under `entry_lock` one call
# appends or removes it, so a fork at any point leaves the child a consistent list.
_entered: list[tuple[Memcg, Hashable]] = []


def current() -> Memcg | None:
    """Return the group of the running context, or None for the root."""
    return entry.memcg if (entry := _entry.get()) else None


def enter(memcg: Memcg) -> None:
    """Make `memcg` the context's group.

    Raises
    ------
    OfflineError
        The group is closed.
    """
    with _entry_lock:
        if not memcg.online:
            raise OfflineError(f"group {memcg.path!r} is closed; memcg.group() makes a new one")
        _entered.append((memcg, current_task()))
    _entry.set(_Entry(memcg, _entry.get()))


def leave(memcg: Memcg, error: BaseException | None = None) -> None:
    """Go back to the group before. The variable is set to it, and is never deleted.

    Raises
    ------
    MemcgError
        `memcg` is not the innermost group of the running context.
    """
    entry = _entry.get()
    if entry is None or entry.memcg is not memcg:
        raise MemcgError(f"group {memcg.path!r} is left, but is not the innermost of this context")
    _entry.set(entry.previous)
    with _entry_lock:
        # another task may have entered it, and handed the generator with the `with` over
        _entered.remove((memcg, max(threads_inside(memcg), key=current_task().__eq__)))


def current_entry() -> object | None:
    """Return the running context's place in its groups, which `Bound` takes."""
    return _entry.get()


def threads_inside(memcg: Memcg) -> list[Any]:
    """List the tasks that entered the group and did not leave it."""
    return [task for group, task in _entered if group is memcg]


class Shield(nullcontext[None]):
    """See `memcg.shield`. It does nothing here, because the model core delivers no alarms."""


class Bound(NamedTuple):
    """A callable that calls `fn` in the group that `entry` stands for."""

    entry: Any
    fn: Callable[..., Any]

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        before = _entry.get()
        _entry.set(self.entry)
        try:
            return self.fn(*args, **kwargs)
        finally:
            _entry.set(before)


def wait_worker(within: float = -1) -> bool:
    """Wait for native workers, at most `within` seconds. There are none here."""
    return True


def hold_workers() -> None:
    """Let no native worker start. There is none here."""


def release_workers() -> None:
    """Let native workers start again. There is none here."""


def after_fork_in_child() -> None:
    """Forget the read-side sections and entries of threads that the fork has ended."""
    read_side.after_fork_in_child()
    _entered[:] = [entry for entry in _entered if entry[1] == current_task()]
