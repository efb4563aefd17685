/* SPDX-License-Identifier: Apache-2.0 */
/*
 * event.h - the queue of what the data plane has to tell the worker.
 */
#ifndef MEMCG_EVENT_H
#define MEMCG_EVENT_H

#include "types.h"

/* false: it is posted already. */

bool event_post(struct event_node *node, enum memcg_event_kind kind, struct mem_cgroup *memcg,
                struct kmem_cache *cache); /* false: posted already */
void event_fork_child(void);

/* The oldest event that has not been taken, or NULL; `posted` is still set.  One consumer at a time. */
struct event_node *event_take(void);

#endif
