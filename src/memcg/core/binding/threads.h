/* SPDX-License-Identifier: Apache-2.0 */
/*
 * threads.h - the contexts that threads run, and those whose threads a fork has ended.
 */
#ifndef MEMCG_THREADS_H
#define MEMCG_THREADS_H

#include "compat.h"

struct running {
    unsigned long thread; /* as py_this_thread() */
    PyObject *context;    /* borrowed */
};
/* The contexts that threads of the main interpreter run, of each thread the innermost first, in
 * libc's memory: free() ends it.  NULL: there are none, or there is no memory.  GIL held. */
struct running *threads_running(size_t *n);

void threads_init(void); /* once; GIL held */
/* In the child of a fork: one of the contexts that other threads ran when the process forked, a new
 * reference; each of them once, then None. */
PyObject *threads_next_ended(void);

#endif
