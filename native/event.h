/* SPDX-License-Identifier: Apache-2.0 */
/*
 * event.h - the queue of events that the data plane posts for the worker.
 */
#ifndef MEMCG_EVENT_H
#define MEMCG_EVENT_H

#include "section.h"

bool event_post(struct event_node *node, enum memcg_event_kind kind, struct mem_cgroup *memcg,
                struct kmem_cache *cache); /* false: it is posted already */
void event_fork_child(void);

/* The oldest event that has not been taken, or NULL.  Its node's `posted` is still set.  One
 * consumer at a time. */
struct event_node *event_take(void);

#endif
