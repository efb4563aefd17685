# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, binding=False, auto_pickle=False
"""Injected faults: requests that fail on purpose."""

from cpython.unicode cimport PyUnicode_AsUTF8
from libc.stdint cimport SIZE_MAX, UINT64_MAX
from native cimport *

from ..errors import MemcgError

FAULT_POINTS = {
    "alloc": FAULT_ALLOC, "metadata": FAULT_METADATA, "pages": FAULT_PAGES, "mmap": FAULT_MMAP,
    "madvise": FAULT_MADVISE, "thread": FAULT_THREAD,
}


cdef class Faults:
    """What `memcg.faults.inject` returns; `attr` is a FaultAttr."""

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

    def __exit__(self, type, value, traceback):  # C makes no frame, which a fault could refuse
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
