/* SPDX-License-Identifier: Apache-2.0 */
/*
 * page_run.h - blocks that are too large for a slab.
 */
#ifndef MEMCG_PAGE_RUN_H
#define MEMCG_PAGE_RUN_H

#include "css.h"

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

#endif
