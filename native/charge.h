/* SPDX-License-Identifier: Apache-2.0 */
/*
 * charge.h - charges against limits. See charge.c.
 */
#ifndef MEMCG_CHARGE_H
#define MEMCG_CHARGE_H

#include "css.h"

#define MEMCG_BATCH ((int64_t)32768)      /* bytes of stock that are charged at once */
#define MEMCG_REFUSE_SIZE ((size_t)65536) /* bytes; requests from here on are refused past max */
#define MEMCG_REARM ((int64_t)1 << 20)    /* bytes below max: alarms may be raised again */
/* The bytes that a thread may have by force, for its exception handler, after a refusal at the
 * ceiling. Each further refusal halves them, down to what it takes to raise and catch an
 * exception. */
#define MEMCG_GRANT ((int64_t)256 << 10)
#define MEMCG_GRANT_MIN ((int64_t)4 << 10)
/* Bytes that code that swallows errors may take by force at a ceiling before its thread must sleep. */
#define MEMCG_UNHEARD ((int64_t)64 << 10)

/* In a section. 0; -ENOMEM; or -EAGAIN: leave the section, reclaim, try again. */
int memcg_charge(struct mem_cgroup *memcg, size_t bytes, struct request *req);
void memcg_uncharge(struct mem_cgroup *memcg, size_t bytes);
/* Charges stock. It does so only if no max and no high is within twice as many bytes, and a failure
 * is not recorded. */
bool memcg_charge_ahead(struct mem_cgroup *memcg, size_t bytes);

#endif
