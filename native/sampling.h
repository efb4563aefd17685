/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sampling.h - which block is sampled. See sampling.c.
 */
#ifndef MEMCG_SAMPLING_H
#define MEMCG_SAMPLING_H

#include "types.h"

/* In a section whose heap is sampled.  Serves the request, with a block of its own if a sample is
 * due.  s: the size class's root cache; NULL: it is for pages. */
void *sampling_serve(struct thread *self, struct kmem_cache *s, struct request *req);
/* In a section.  The run has grown in place. */
void sampling_grown(struct thread *self, struct page_run *run, size_t more, const void *caller);

#endif
