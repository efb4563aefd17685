/* SPDX-License-Identifier: Apache-2.0 */
/*
 * reclaim.h - gives back what groups hold and do not use.
 */
#ifndef MEMCG_RECLAIM_H
#define MEMCG_RECLAIM_H

#include "types.h"

/* After a request that failed, outside its section. False: it has failed for good. True: try
 * again. */
bool request_retry(struct request *req);
size_t cache_shrink_stolen(struct kmem_cache *s); /* all threads stolen; returns pages */
extern uint64_t collect_not_before;               /* ns; walker_mutex: earliest next walk */

#endif
