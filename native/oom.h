/* SPDX-License-Identifier: Apache-2.0 */
/*
 * oom.h - the last refusal or alarm at each group.
 */
#ifndef MEMCG_OOM_H
#define MEMCG_OOM_H

#include "css.h"

/* In a section. limited has refused memcg's request, or posts an alarm for it. */
void mem_cgroup_note_oom(struct mem_cgroup *memcg, struct mem_cgroup *limited, size_t bytes,
                         bool refused);

void mem_cgroup_leave_oom(struct mem_cgroup *memcg); /* in a section, before memcg is freed */

#endif
