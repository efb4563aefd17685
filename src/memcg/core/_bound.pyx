# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, binding=False, auto_pickle=False
"""Callables that run in an entry of another context, or in the root."""

from binding cimport current_enter_bound, current_leave_bound, py_show_error_of_thread
from cpython.object cimport PyObject_Call
from memcg.core._errors cimport explain
from memcg.core._groups cimport Entry, c_entry_of, enter_root, entry_now


cdef class Bound:
    """A callable that runs `fn` in an entry of another context. The entry None is the root."""

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
            return PyObject_Call(self.fn, args, kwargs)  # fn(*args) would copy, and be charged
        except MemoryError as error:  # no `with` ends here, which would explain it
            explain(error)
            raise
        finally:
            current_leave_bound(c_entry_of(self.entry), index, c_entry_of(before))


cdef class Started:
    """What a new thread runs: `fn` in `entry`.

    The entry None is the root; copies of the thread's context are then in the root too. An error
    is shown outside the group, as CPython shows an error of `fn`.
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
