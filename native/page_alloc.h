/* SPDX-License-Identifier: Apache-2.0 */
/*
 * page_alloc.h - runs of pages that hold no other group's bytes.
 */
#ifndef MEMCG_PAGE_ALLOC_H
#define MEMCG_PAGE_ALLOC_H

#include "arena.h"

extern size_t system_nr_pages; /* for tests */

int page_alloc_init(void);
/* Allocates a run of nr_pages, aligned to align_pages and tagged `tag` (not 0). Pages that another
 * tag used last are cleared. *zeroed, in: clear all that is not zero; out: the whole run reads as
 * zero. NULL: no memory. */
void *alloc_pages(size_t nr_pages, size_t align_pages, uint32_t tag, bool *zeroed);
/* The same, with `room` free pages behind the run if there is such a place. */
void *alloc_pages_to_grow(size_t nr_pages, size_t room, uint32_t tag, bool *zeroed);
/* Grows a run in place by the free pages behind it. False: they are not free. */
bool extend_pages(void *p, size_t nr_pages, size_t more, uint32_t tag);
void free_pages(void *p, size_t nr_pages);
/* Gives free pages back to the system until at most keep_bytes of them hold old bytes. */
size_t page_trim(size_t keep_bytes);
bool pages_are_valid(void);    /* looks at every page, so it takes time */
size_t pages_in_use(void);     /* number of pages */
size_t pages_free_dirty(void); /* number of pages */
void pages_fit(size_t space);  /* arena_fit() under pages_lock */

#endif
