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
