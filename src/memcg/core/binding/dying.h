/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dying.h - tells whether this thread runs what an object's end calls.
 */
#ifndef MEMCG_DYING_H
#define MEMCG_DYING_H

#include "compat.h"

/* True in a weak reference's callback, in a generator that is closed since nobody has it any more,
 * and in the finalizer of an object whose last reference goes.  CPython prints the errors of all.
 * tstate: the running thread's.  GIL held; allocates nothing. */
bool dying_is_here(PyThreadState *tstate);

#endif
