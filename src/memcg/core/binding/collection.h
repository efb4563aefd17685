/* SPDX-License-Identifier: Apache-2.0 */
/*
 * collection.h - garbage is collected for a group at its limit.
 */
#ifndef MEMCG_COLLECTION_H
#define MEMCG_COLLECTION_H

#include "compat.h"
#include "memcg.h"

void collection_init(PyObject *collect); /* collect: collects, or returns False */
/* GIL held: garbage may be collected for limited. */
bool collection_is_due(struct mem_cgroup *limited);
/* It was; freed: bytes of its usage; ns: how long it took.  GIL held. */
void collection_ended(struct mem_cgroup *limited, int64_t freed, int64_t ns);
/* Collect here and now; false: a collection is under way.  GIL held, where Python code may run. */
bool collection_run(const struct memcg_failure *failure);

#endif
