# SPDX-License-Identifier: Apache-2.0
# What errors say of refusals, for the modules that raise them.
from binding cimport code_line
from libc.stdint cimport uintptr_t
from native cimport memcg_failure

cdef str describe(memcg_failure *failure)
cdef raise_oom(size_t size)
cdef bint is_memory_error_alive(uintptr_t code, int lasti, bint without_traceback)
cdef bint is_other_error(error, code_line *line)
cdef bint is_of_library(error)
cpdef explain(error)
