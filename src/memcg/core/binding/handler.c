/* SPDX-License-Identifier: Apache-2.0 */
/*
 * handler.c - what unwinding and handling a MemoryError may use.
 *
 * A handler needs memory in a group that has none.  It gets what it asks for up to the ceiling
 * (throttle.c), and what it takes is no reason for another alarm.  Unwinding to it needs a little
 * too.
 *
 * Locks: none; the GIL throughout.
 */
#include "handler.h"

#include "frame.h"

#define SPARED_BYTES ((size_t)256 << 10)
#define CHAIN 8 /* exceptions that are searched for a MemoryError, from one to its context */

static bool is_memory_error(PyObject *error)
{
    return PyErr_GivenExceptionMatches(error, PyExc_MemoryError);
}

/* True for a MemoryError, for a group that contains one, and for an error that was raised from one
 * or while one was handled. */
static bool is_of_memory(PyObject *error)
{
    bool found = false;

    Py_INCREF(error);
    for (int i = 0; error && !found && i < CHAIN; i++) {
        PyObject *before = PyException_GetCause(error);

        if (!before)
            before = PyException_GetContext(error);
        found = is_memory_error(error);
        if (!found && PyObject_TypeCheck(error, (PyTypeObject *)PyExc_BaseExceptionGroup)) {
            PyObject *errors = ((PyBaseExceptionGroupObject *)error)->excs;

            for (Py_ssize_t n = 0; errors && !found && n < CHAIN && n < PyTuple_GET_SIZE(errors);
                 n++)
                found = is_memory_error(PyTuple_GET_ITEM(errors, n));
        }
        Py_DECREF(error);
        error = before;
    }
    Py_XDECREF(error);
    return found;
}

bool handler_runs(PyThreadState *tstate) { return py_is_handling(tstate, is_of_memory); }

/*
 * If an unwinding is refused a frame object, its exception is lost and a SystemError replaces it
 * (take_ownership() in CPython's frame.c).  So a request that may be for one is not refused, up to
 * a bound.  The traceback object beside it may be refused, because the exception survives that.
 */
bool handler_needs_frame(size_t bytes)
{
    static __thread size_t spared;

    if (!frame_takes(bytes) || (spared += bytes) > SPARED_BYTES) {
        spared = 0;
        return false;
    }
    return true;
}
