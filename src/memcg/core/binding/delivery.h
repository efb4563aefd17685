/* SPDX-License-Identifier: Apache-2.0 */
/*
 * delivery.h - raises MemcgOOM in the thread that met the limit.
 */
#ifndef MEMCG_DELIVERY_H
#define MEMCG_DELIVERY_H

#include "compat.h"
#include "memcg.h"

/* exception: MemcgOOM. Called on the main thread, after verdict_init() and collection_init(). */
void delivery_init(PyObject *exception);
/* Leaves memcg. True: an alarm was not raised yet and reclaim does not make it needless, so the
 * caller raises it. Growth after a raised alarm does not count, because handling it may have taken
 * that. */
bool delivery_leave(struct mem_cgroup *memcg, struct memcg_failure *failure);
void delivery_resume(PyObject *context); /* in a hook: this thread starts to run the context */
void delivery_after_fork(void);

#endif
