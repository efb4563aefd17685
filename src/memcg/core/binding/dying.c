/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dying.c - tells whether this thread runs what an object's end calls.
 *
 * Such code has no name: any function may be a weak reference's callback, and any generator may be
 * dropped inside its `try`.  But the function of CPython that calls it is on the C stack.  Only the
 * innermost frames are looked at, because a whole program may run in a callback.  What lies beyond the
 * first Python frame of a greenlet is not looked at: another one has used that stack meanwhile.
 *
 * Releases inline some of these functions.  Those that are listed were seen on the stack in builds
 * with and without link-time optimization, 3.11 to 3.15 (tests/programs/test_printed.py).
 *
 * Locks: none; in hooks and at checks, with the GIL.
 */
#include "dying.h"

#include <unwind.h>

#define NR_C_FRAMES 64 /* calls from Python to Python take none */

struct walk {
    uintptr_t end; /* the stack is looked at up to here */
    int left;      /* C frames that may still be looked at */
    bool found;
};

static bool prints_errors(uintptr_t function)
{
    return function == (uintptr_t)PyObject_ClearWeakRefs ||
           function == (uintptr_t)PyObject_CallFinalizerFromDealloc ||
           function == (uintptr_t)PyGen_Type.tp_dealloc;
}

static _Unwind_Reason_Code look_at_frame(struct _Unwind_Context *frame, void *arg)
{
    struct walk *walk = arg;

    if (_Unwind_GetCFA(frame) > walk->end)
        return _URC_END_OF_STACK;
    walk->found = prints_errors(_Unwind_GetRegionStart(frame));
    return walk->found || !walk->left-- ? _URC_END_OF_STACK : _URC_NO_REASON;
}

bool dying_is_here(PyThreadState *tstate)
{
    struct walk walk = { .end = py_c_stack_near(tstate), .left = NR_C_FRAMES };

    _Unwind_Backtrace(look_at_frame, &walk);
    return walk.found;
}
