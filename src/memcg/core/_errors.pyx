# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, binding=False, auto_pickle=False
"""What errors say of refusals, and whether an error was made out of one."""

import gc

from binding cimport alarm_last, code_line
from cpython.object cimport PyObject_TypeCheck, PyTypeObject
from cpython.ref cimport PyObject
from libc.stdint cimport uintptr_t
from native cimport *

from ..errors import MemcgOOM, oom_text


cdef str describe(memcg_failure *failure):
    memcg = <object>mem_cgroup_owner(failure.memcg)
    limited = <object>mem_cgroup_owner(failure.limited)
    return oom_text(memcg.path, failure.bytes, failure.current, failure.max, limited.path)


def last_failure():
    """Describe this thread's last refusal, or return None. A second call returns None."""
    cdef memcg_failure failure
    return describe(&failure) if memcg_last_failure(&failure) else None


def last_alarm():
    """Describe the alarm that was delivered to this thread, or return None."""
    cdef memcg_failure failure
    return describe(&failure) if alarm_last(&failure) else None


cdef raise_oom(size_t size):
    text = last_failure()
    if text is None:
        raise MemoryError(f"no memory for {size} bytes")
    raise MemcgOOM(text)


cdef bint passed(error, uintptr_t code, int lasti):
    """Tell whether `error` was raised at this instruction, or in what the instruction called."""
    traceback = error.__traceback__
    while traceback is not None:
        if <uintptr_t><PyObject *>traceback.tb_frame.f_code == code and lasti in (traceback.tb_lasti, -1):
            return True
        traceback = traceback.tb_next
    return False


def find_memory_error(uintptr_t code, int lasti):
    """Tell whether a MemoryError is alive that passed this instruction or has no traceback."""
    return is_memory_error_alive(code, lasti, True)


cdef bint is_memory_error_alive(uintptr_t code, int lasti, bint without_traceback):
    memcg_stop_kmem_account()
    try:
        for found in gc.get_objects():
            if PyObject_TypeCheck(found, <PyTypeObject *>MemoryError) and (
                without_traceback if found.__traceback__ is None
                else passed(found, code, lasti)
            ):
                return True
        return False
    finally:
        memcg_resume_kmem_account()


cdef bint is_other_error(error, code_line *line):
    """Tell whether `error` was raised in place of the MemoryError of a refusal at `line`."""
    cdef set seen = set()
    cdef bint found = False
    if isinstance(error, (GeneratorExit, KeyboardInterrupt, SystemExit)):
        return False
    while error is not None and id(error) not in seen:
        if isinstance(error, MemoryError) and error.__traceback__ is not None:
            return False
        seen.add(id(error))
        found |= passed(error, <uintptr_t>line.code, line.lasti)
        if not isinstance(error, Exception):  # Rust's panic; or a cancellation, from elsewhere
            break
        error = error.__cause__ or error.__context__
    return found


cdef bint is_of_library(error):
    """Tell whether a library may have made `error` out of a refusal in a thread of its own.

    Where the thread was refused is not known, so it goes by the class: RuntimeError, or a class of
    another module. What Python raises itself is KeyError, TypeError and the like.
    """
    return (
        isinstance(error, Exception)
        and not isinstance(error, MemoryError)
        and (isinstance(error, RuntimeError) or type(error).__module__ != "builtins")
    )


cpdef explain(error):
    """Give a plain MemoryError the account of this thread's last refusal.

    The account is the error's text if it has none, and a note otherwise. In an exception group
    each plain MemoryError gets it.
    """
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
