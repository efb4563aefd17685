/* SPDX-License-Identifier: Apache-2.0 */
/*
 * page_alloc.h - runs of pages, each clean of other groups' bytes.
 */
#ifndef MEMCG_PAGE_ALLOC_H
#define MEMCG_PAGE_ALLOC_H

#include "arena.h"

extern size_t system_nr_pages; /* for tests */

int page_alloc_init(void);
/* A run of nr_pages at a multiple of align_pages, tagged `tag` (not 0). Pages last used under
 * another tag were cleared. *zeroed, in: clear all that is not zero; out: the whole run reads as
 * zero. NULL: no memory. */
void *alloc_pages(size_t nr_pages, size_t align_pages, uint32_t tag, bool *zeroed);
/* The same where `room` pages behind it are free, if there is such a place. */
void *alloc_pages_to_grow(size_t nr_pages, size_t room, uint32_t tag, bool *zeroed);
/* Grow a run in place by the free pages behind it; false: they are not free. */
bool extend_pages(void *p, size_t nr_pages, size_t more, uint32_t tag);
void free_pages(void *p, size_t nr_pages);
/* Give free pages back to the system until at most keep_bytes of them hold old bytes. */
size_t page_trim(size_t keep_bytes);
bool pages_are_valid(void);    /* every page, so it takes time */
size_t pages_in_use(void);     /* pages */
size_t pages_free_dirty(void); /* pages */
void pages_fit(size_t space);  /* as arena_fit() */

#endif
