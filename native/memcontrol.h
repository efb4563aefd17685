/* SPDX-License-Identifier: Apache-2.0 */
/*
 * memcontrol.h - groups: their life, their figures, the current one.
 */
#ifndef MEMCG_MEMCONTROL_H
#define MEMCG_MEMCONTROL_H

#include "types.h"

int mem_cgroup_init(void); /* makes the root; the caller is the only thread */
struct mem_cgroup *nearest_online(struct mem_cgroup *memcg);
/* What a group begins with, but for its place in the tree. */
void mem_cgroup_set_defaults(struct mem_cgroup *memcg);
/* All threads are stolen.  Gives the group's stubs and charges to parent.  Unless `but` is NULL, that
 * stub and the private slabs stay. */
void mem_cgroup_reparent(struct mem_cgroup *memcg, struct mem_cgroup *parent,
                         const struct obj_cgroup *but);
/* All threads are stolen.  Gives the heaps, stubs and charges of an offline group to the nearest
 * online ancestor. */
void mem_cgroup_pass_on(struct mem_cgroup *memcg);

extern atomic_uint_t memcg_pool_changes MEMCG_EXPORT; /* counts memcg_set_pool_group() */

#endif
