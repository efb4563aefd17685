/* SPDX-License-Identifier: Apache-2.0 */
/*
 * page_run.h - blocks that are too large for a slab.
 */
#ifndef MEMCG_PAGE_RUN_H
#define MEMCG_PAGE_RUN_H

#include "css.h"

extern struct mutex runs_lock;     /* all_runs, and a run's length */
extern struct hlist_head all_runs; /* by node */

/* In a section.  NULL: -ENOMEM or req->want_reclaim. */
struct page_run *run_alloc(struct thread *self, struct request *req);
void run_free(struct page_run *run);                    /* in a section */
void run_shrink(struct page_run *run, size_t nr_pages); /* gives back its tail in place */
/* In a section.  In place, when the pages behind are free and the current group is the owner.
 * 0: done; -ENOSPC: it must move; -ENOMEM; -EAGAIN: req->want_reclaim is set. */
int run_grow(struct thread *self, struct page_run *run, size_t nr_pages, struct request *req);

#endif
