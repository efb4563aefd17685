# SPDX-License-Identifier: Apache-2.0
# Groups and entries into them, for the modules that get at their C halves.
from binding cimport entry as c_entry
from binding cimport opened_table, shield_state
from native cimport mem_cgroup, mem_cgroup_stat

cdef class Memcg:
    cdef mem_cgroup *c
    cdef readonly Memcg parent
    cdef bint activated
    cdef readonly long nr_inside  # entries that were not left
    cdef long nr_entries  # entries that are alive, in any context
    cdef opened_table opened  # where it was entered and not left
    cdef str _path
    cdef Memcg spare, next_spare  # closed groups below it that are kept, the latest first
    cdef readonly int _nr_spare
    # of the control plane and of the users' door; a group thus needs no dict
    cdef public str name
    cdef public object children, shrinkers, memcg_slab_caches
    cdef public object _max_descendants, _max_depth
    cdef public bint _own_high
    cdef object __weakref__
    cdef mem_cgroup *get(self) except NULL
    cdef mem_cgroup_stat read(self)

cdef class Entry:  # `struct entry` in current.h
    cdef Memcg memcg
    cdef Entry previous
    cdef mem_cgroup *c
    cdef shield_state shield
    cdef int slot

cdef Entry entry_now()
cdef c_entry *c_entry_of(Entry entry)
cdef enter_root()
