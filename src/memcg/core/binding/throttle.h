/* SPDX-License-Identifier: Apache-2.0 */
/*
 * throttle.h - bounds how fast a thread takes memory after it was refused.
 */
#ifndef MEMCG_THROTTLE_H
#define MEMCG_THROTTLE_H

#include "memcg.h"

/* ask_check: called in a hook; it has throttle_at_check() called at this thread's next check. */
void throttle_init(void (*ask_check)(void));
/* In a hook: this thread was refused at the ceiling of limited; refusals counts this one too. */
void throttle_owe(struct mem_cgroup *limited, unsigned refusals);
bool throttle_is_due(void);   /* this thread must call throttle_at_check() */
void throttle_at_check(void); /* GIL held, where it may be given up */
void throttle_after_fork(void);

#endif
