/* SPDX-License-Identifier: Apache-2.0 */
/*
 * collection.h - collects garbage for a group at its limit.
 */
#ifndef MEMCG_COLLECTION_H
#define MEMCG_COLLECTION_H

#include "compat.h"
#include "memcg.h"

void collection_init(PyObject *collect); /* collect: a function that collects, or returns False */
/* True if garbage may be collected for limited now.  GIL held. */
bool collection_is_due(struct mem_cgroup *limited);
/* Records a collection. freed: the bytes by which usage fell; ns: how long it took.  GIL held. */
void collection_ended(struct mem_cgroup *limited, int64_t freed, int64_t ns);
/* Collects here and now.  False: a collection is under way.  GIL held, where Python code may
 * run. */
bool collection_run(const struct memcg_failure *failure);

#endif
