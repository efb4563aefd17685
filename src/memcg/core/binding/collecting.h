/* SPDX-License-Identifier: Apache-2.0 */
/*
 * collecting.h - tells whether the collection that is under way is this thread's.
 */
#ifndef MEMCG_COLLECTING_H
#define MEMCG_COLLECTING_H

#include "compat.h"

/* collect: gc.collect. -1 with an exception set; may be called again; GIL held. */
int collecting_init(PyObject *collect);
/* True if this thread collects.  Before the first collection since collecting_init() has come to its
 * end, true if any thread does.  GIL held. */
bool collecting_is_here(const PyThreadState *tstate);

#endif
