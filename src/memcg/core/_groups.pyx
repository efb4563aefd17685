# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, binding=False, auto_pickle=False
"""Groups, and being inside them."""

import gc
import time

cimport cython
from binding cimport *
from binding cimport entry as c_entry
from cpython.contextvars cimport PyContextVar_New
from cpython.object cimport PyTypeObject
from cpython.ref cimport Py_INCREF, Py_REFCNT, PyObject
from cpython.unicode cimport PyUnicode_AsUTF8
from libc.stdint cimport INT64_MAX, int64_t, uintptr_t
from libc.stdlib cimport free as libc_free
from memcg.core._errors cimport describe, explain, is_memory_error_alive, is_of_library, is_other_error
from native cimport *

from .dataplane import EVENTS, STAT
from ..errors import MemcgError, MemcgOOM, OfflineError

LIMITS = {
    "max": MEMCG_MAX, "high": MEMCG_HIGH, "reserve": MEMCG_RESERVE, "overdraft": MEMCG_OVERDRAFT,
}


@cython.no_gc_clear
cdef class Memcg:
    """The data-plane half of a group: page counter, css references, stub.

    A group that was activated keeps itself alive until its last css reference is gone.
    """

    def __cinit__(self, *args, **kwargs):
        self._path = ""

    def __init__(self, Memcg parent):
        cdef memcg_failure failure
        if self.c is not NULL:
            raise MemcgError("a group is made once")
        memcg_last_failure(&failure)  # forgets an older one
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
        pool_forget(self.c)
        if not self.activated:  # it was dropped before it was linked
            c_css_put(self.parent.c)
        mem_cgroup_free(self.c)

    cdef mem_cgroup *get(self) except NULL:
        if self.c is NULL:
            raise MemcgError("a group that was not initialized has no figures; memcg.group() makes one")
        return self.c

    @property
    def path(self):
        """The name in error texts and for faults. It is written once."""
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
        """The index into memcg_caches, or -1. The control plane stores it."""
        return mem_cgroup_id(self.get())

    @_kmemcg_id.setter
    def _kmemcg_id(self, int kmemcg_id):
        if not self.activated:
            self.activated = True
            Py_INCREF(self)  # until the `release` event
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

        What any thread has freed is collected first.
        """
        mem_cgroup_collect(self.get())
        return self.read().current

    @property
    def peak(self):
        """The highest usage. cgroup v2: ``memory.peak``."""
        return self.read().watermark

    @property
    def oom_group(self):
        """Whether the process ends if it goes on at the ceiling. cgroup v2: ``memory.oom.group``."""
        return mem_cgroup_oom_group(self.get())

    @oom_group.setter
    def oom_group(self, bint on):
        mem_cgroup_set_oom_group(self.get(), on)

    @property
    def events(self):
        """How often each event happened here and below. cgroup v2: ``memory.events``."""
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
    """List the group, its parent, and so on up to the root."""
    cdef list found = []
    while memcg is not None:  # not a generator: the module would make its type at import
        found.append(memcg)
        memcg = memcg.parent
    return found


def css_refs(Memcg memcg not None):
    """Return how many references there are."""
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
    """Refuse new references from now on, and give the parent what is still charged here.

    Returns False, and does nothing, while something is inside.
    """
    if memcg.parent is None:
        raise MemcgError("the root group cannot go offline")
    if memcg.nr_inside:
        current_forget(NULL)
        if memcg.nr_entries:
            return False
        memcg.nr_inside = 0  # the contexts inside were destroyed before they left
        publish_inside(memcg.c, 0)
        opened_clear(&memcg.opened)
        pool_forget(memcg.c)
    c_mem_cgroup_offline(memcg.get())
    current_forget(<PyObject *>memcg)
    return True


def mem_cgroup_get_limit(Memcg memcg not None, str which):
    """Return ``max``, ``high``, ``reserve`` or ``overdraft`` in bytes."""
    return c_mem_cgroup_get_limit(memcg.get(), LIMITS[which])


def mem_cgroup_set_limit(Memcg memcg not None, str which, int64_t n):
    """Store a limit in bytes, and tell whether usage is above it.

    A negative reserve or overdraft stands for the default. While ``high`` was not written
    (`_own_high`), it is 7/8 of ``max``.
    """
    c_mem_cgroup_set_limit(memcg.get(), LIMITS[which], n)
    if which == "max" and not memcg._own_high:
        c_mem_cgroup_set_limit(memcg.c, MEMCG_HIGH, n if n == INT64_MAX else n - n // 8 - (n % 8 > 0))
    return mem_cgroup_usage(memcg.c) > n


def mem_cgroup_set_has_shrinkers(Memcg memcg not None):
    """Note that shrinkers run when usage crosses memory.high here or above."""
    c_mem_cgroup_set_has_shrinkers(memcg.get())


def mem_cgroup_events_local(Memcg memcg not None):
    """Return what `events` does, for this group's own limit alone."""
    cdef mem_cgroup_stat stat = memcg.read()
    return {EVENTS[i]: stat.events_local[i] for i in range(len(EVENTS))}


cdef path_of(char *path):
    return "?" if path is NULL else path.decode()  # NULL: there was no memory for a copy


def mem_cgroup_last_oom(Memcg memcg not None):
    """Return (bytes, limit, owner, group, current, refused, time) of the last refusal or alarm.

    It may be of this group's limit or of one below. None: there was none.
    """
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
    """Collect garbage, unless the last collections freed too little for this group.

    While another thread collects, no collection can begin. This call then waits, for 1 s at most.
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


def publish_inside_of(Memcg memcg not None):
    """Write to the page how often the group is entered, which native/ does not know."""
    publish_inside(memcg.get(), memcg.nr_inside)


def mem_cgroup_high_done(Memcg memcg not None):
    """Say that the receiver of ``high`` has reclaimed."""
    c_mem_cgroup_high_done(memcg.get())


def mem_cgroup_reset_peak(Memcg memcg not None):
    """Start `peak` again at the present usage."""
    mem_cgroup_reset_watermark(memcg.get())


def mem_cgroup_drain(Memcg memcg not None):
    """Drop empty slabs and stock here and below; return bytes given back."""
    current_forget(NULL)
    return mem_cgroup_reclaim(memcg.get())


def memcg_try_charge(Memcg memcg not None, size_t n):
    """Charge `n` bytes here and above; else charge nothing and return the group that refused."""
    cdef memcg_failure failure
    if mem_cgroup_try_charge(memcg.get(), n) == 0:
        return None
    if memcg_last_failure(&failure):
        return <Memcg>mem_cgroup_owner(failure.limited)
    return memcg


def memcg_charge(Memcg memcg not None, size_t n):
    """Charge `n` bytes by force, whatever the limits are."""
    mem_cgroup_charge(memcg.get(), n)


def memcg_uncharge(Memcg memcg not None, size_t n):
    """Give `n` bytes back here and above."""
    mem_cgroup_uncharge(memcg.get(), n)


def collect_garbage():
    """Run the collector, and tell whether it ran. While a collection is under way none begins."""
    before = gc.get_stats()[2]["collections"]
    gc.collect()
    return gc.get_stats()[2]["collections"] != before


# -- being inside


@cython.no_gc
@cython.final
cdef class Entry:
    """One ``with group:``: the group, and the entry before it."""

    def __dealloc__(self):
        cdef Entry previous = self.previous, before
        self.memcg.nr_entries -= 1
        self.previous = None
        while previous is not None and Py_REFCNT(previous) == 1:  # a recursion might be too deep
            before = previous.previous
            previous.previous = None
            previous = before
            before = None


sealed_type(<PyTypeObject *>Entry)
threads_init()
cdef object entry_var = current_init(
    PyContextVar_New("memcg_current", <PyObject *>None), <PyTypeObject *>Entry
)


cdef Entry new_entry(Memcg memcg, Entry previous, shield_state shield):
    cdef Entry entry = Entry.__new__(Entry)
    while previous is not None and previous.shield == SHIELD_LEFT:  # it was left in another context
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
    """Return the group of the running context, or None for the root."""
    cdef Entry entry = entry_now()
    return None if entry is None else entry.memcg


def current_entry():
    """Return what `Bound` takes: the running context's place in its groups."""
    return entry_now()


cdef enter_root():
    """Set the variable to None in this context, so that copies of the context are in the root."""
    try:
        current_set_entry(NULL, ENTER_NOT)
    except MemoryError:  # without a value too the context is in the root
        pass


def enter_root_where_outside():
    """Do `enter_root`, unless the running context is in a group."""
    if entry_now() is None:
        enter_root()


cpdef enter(Memcg memcg):
    """Make `memcg` the context's group."""
    if memcg is None:
        raise TypeError("None is not a group")
    if not mem_cgroup_online(memcg.get()):
        raise OfflineError(f"group {memcg.path!r} is closed; memcg.group() makes a new one")
    if not current_enter_again(<PyObject *>memcg):
        set_entry(new_entry(memcg, entry_now(), NO_SHIELD), ENTER_GROUP)
    memcg.nr_inside += 1
    publish_inside(memcg.c, memcg.nr_inside)
    opened_add(&memcg.opened, current_context())
    if pool_is_on:
        pool_enter(memcg.c, current_context())


cdef Entry without(Memcg memcg, Entry top):
    """Return the chain that begins with `top`, without the innermost entry into `memcg`."""
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
    """Tell whether everything inside `memcg` is a value that other code gave the variable."""
    cdef PyObject *context = current_context()
    cdef Entry entry = top
    cdef bint is_innermost = True, entered_above = False
    while entry is not None and (entry.memcg is not memcg or entry.shield != NO_SHIELD):
        if entry.shield == NO_SHIELD:
            is_innermost = False
            entered_above |= opened_has(&entry.memcg.opened, context)
        entry = entry.previous
    if entry is not None and is_innermost:  # shields apart
        return True
    return opened_has(&memcg.opened, context) and (entry is None or not entered_above)


cpdef leave(Memcg memcg, error=None):
    """Go back to the group before. The variable is set, and never deleted.

    A value that other code gave the variable meanwhile stays. An alarm of the group that was not
    raised yet is raised here, unless reclaim makes it needless. A refusal that became no
    MemoryError is raised too, unless `error` has nothing to do with it. If `error` is a plain
    MemoryError that memcg caused, it gets the account.
    """
    cdef c_entry *now = current_entry_now()
    cdef Entry top = None if now is NULL else <Entry><PyObject *>now
    cdef memcg_failure failure, refused
    cdef code_line line
    cdef refusal_doubt doubt
    cdef memcg_failure of_thread
    cdef bint alarmed, plain, threads_refused
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
    memcg.nr_inside -= memcg.nr_inside > 0  # a fork may have left it for a thread that it ended
    publish_inside(memcg.c, memcg.nr_inside)
    if memcg.nr_inside > 0:
        opened_remove(&memcg.opened, current_context())
    else:
        opened_clear(&memcg.opened)
    doubt = refusal_take(memcg.c, &refused, &line)
    if pool_is_on:
        threads_refused = pool_take_refusal(memcg.c, current_context(), &of_thread)
        pool_leave(memcg.c, current_context())
        if threads_refused and not alarmed and is_of_library(error):
            raise MemcgOOM(describe(&of_thread)) from error
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


# -- which thread is inside


def threads_inside(Memcg memcg not None):
    """List the ids of the threads that run a context in which the group was entered."""
    cdef size_t n = 0
    cdef running *found = threads_running(&n)
    cdef list threads = []
    try:
        for i in range(n):
            if opened_has(&memcg.opened, found[i].context) and found[i].thread not in threads:
                threads.append(found[i].thread)
        return threads
    finally:
        libc_free(found)


def is_entered_in(Memcg memcg not None, context):
    """Tell whether the group was entered in `context` and not left."""
    return opened_has(&memcg.opened, <PyObject *>context)


def leave_for_ended_threads():
    """Leave, in the child of a fork, the groups that the threads were in that it does not have.

    No code of theirs will do it. What a suspended task or generator has entered stays entered,
    because the child may go on with it. A group that was entered where the context does not name
    it any more stays entered too.
    """
    cdef Entry entry
    cdef object context
    cdef long n
    while (context := threads_next_ended()) is not None:
        entry = <Entry>current_entry_in(<PyObject *>context)
        while entry is not None:
            n = opened_drop(&entry.memcg.opened, <PyObject *>context)
            if n:  # an entry may be noted that was left elsewhere: what others have noted counts
                entry.memcg.nr_inside = max(entry.memcg.nr_inside - n,
                                            opened_total(&entry.memcg.opened))
                publish_inside(entry.memcg.c, entry.memcg.nr_inside)
            entry = entry.previous


@cython.no_gc
cdef class Shield:
    """What `memcg.shield` returns. It is left in all contexts that its entry was copied to."""

    cdef Entry entry  # the last one
    cdef list others  # the earlier ones, if it was entered again or by several threads or tasks

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
