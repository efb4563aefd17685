/* SPDX-License-Identifier: Apache-2.0 */
/*
 * delivery.h - raising MemcgOOM in the offender.
 */
#ifndef MEMCG_DELIVERY_H
#define MEMCG_DELIVERY_H

#include "compat.h"
#include "memcg.h"

/* exception: MemcgOOM.  On the main thread, after verdict_init() and collection_init(). */
void delivery_init(PyObject *exception);
/* Leaving memcg: true if an alarm was not raised yet and reclaim does not make it needless; the caller
 * raises it. Growth after one that was raised is none: handling it may have taken that. */
bool delivery_leave(struct mem_cgroup *memcg, struct memcg_failure *failure);
void delivery_resume(PyObject *context); /* in a hook: the context runs, in this thread */
void delivery_after_fork(void);

#endif
