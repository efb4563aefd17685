/* SPDX-License-Identifier: Apache-2.0 */
/*
 * memcontrol.h - groups: their life, their figures, the current one.
 */
#ifndef MEMCG_MEMCONTROL_H
#define MEMCG_MEMCONTROL_H

#include "types.h"

int mem_cgroup_init(void); /* makes the root; the caller is the only thread */

extern atomic_uint_t memcg_pool_changes MEMCG_EXPORT; /* counts memcg_set_pool_group() */

#endif
