/* SPDX-License-Identifier: Apache-2.0 */
/*
 * page_run.h - blocks that are too large for a slab.
 */
#ifndef MEMCG_PAGE_RUN_H
#define MEMCG_PAGE_RUN_H

#include "sample.h"

extern struct mutex runs_lock;     /* all_runs, and a run's length */
extern struct hlist_head all_runs; /* linked by node */

/* In a section.  NULL: -ENOMEM, or req->want_reclaim is set. */
struct page_run *run_alloc(struct thread *self, struct request *req);
void run_free(struct thread *self, struct page_run *run); /* in a section */
/* Ends the runs that the heap keeps.  Returns their bytes.  In a section. */
size_t runs_drain(struct heap *heap);
bool runs_are_valid(const struct heap *heap); /* those that it keeps; section */
/* Gives its last pages back; not in a section. */
void run_shrink(struct page_run *run, size_t nr_pages);
/* In a section.  Grows a run in place, if the pages behind it are free and the current group owns
 * it. 0: done; -ENOSPC: it must move; -ENOMEM; -EAGAIN: req->want_reclaim is set. */
int run_grow(struct thread *self, struct page_run *run, size_t nr_pages, struct request *req);
/* The block's record; NULL leaves the run as it is. */
void run_set_sample(struct page_run *run, struct sample *sample);
void run_drop_sample(struct page_run *run); /* in a section; state is RUN_SAMPLED */

/* Bytes that the block's owner may use.  A sampled block of a size class has those of its class, so
 * that it is resized as others are. */
static inline size_t run_bytes(const struct page_run *run)
{
    return unlikely(run->state == RUN_SAMPLED) && run->sample->bytes <= KMALLOC_MAX_CACHE_SIZE
               ? run->sample->bytes
               : run->nr_pages << PAGE_SHIFT;
}

#endif
