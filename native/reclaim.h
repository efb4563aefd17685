/* SPDX-License-Identifier: Apache-2.0 */
/*
 * reclaim.h - what groups hold and do not use goes back.
 */
#ifndef MEMCG_RECLAIM_H
#define MEMCG_RECLAIM_H

#include "types.h"

/* After a request that failed, outside its section.  false: it has failed for good. */
bool request_retry(struct request *req);
size_t cache_shrink_stolen(struct kmem_cache *s); /* all threads stolen; pages */
extern uint64_t collect_not_before; /* ns; walker_mutex: when a reader may stop others again */

#endif
