/* SPDX-License-Identifier: Apache-2.0 */
/*
 * charge.h - charging against limits.  See charge.c.
 */
#ifndef MEMCG_CHARGE_H
#define MEMCG_CHARGE_H

#include "css.h"

#define MEMCG_BATCH ((int64_t)32768)      /* bytes of stock taken at once */
#define MEMCG_REFUSE_SIZE ((size_t)65536) /* requests from here are refused past max */
#define MEMCG_REARM ((int64_t)1 << 20)    /* below max: an alarm may be raised again */
/* What a thread may have by force after a refusal at the ceiling, in bytes: for its handler. Half as
 * much after each further one, down to what raising and catching an exception takes. */
#define MEMCG_GRANT ((int64_t)256 << 10)
#define MEMCG_GRANT_MIN ((int64_t)4 << 10)

/* In a section.  0, -ENOMEM, or -EAGAIN: leave the section, reclaim, try again. */
int memcg_charge(struct mem_cgroup *memcg, size_t bytes, struct request *req);
void memcg_uncharge(struct mem_cgroup *memcg, size_t bytes);
/* Stock: charges only where no max is within two of it; nobody is told of a failure. */
bool memcg_charge_ahead(struct mem_cgroup *memcg, size_t bytes);

#endif
