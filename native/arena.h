/* SPDX-License-Identifier: Apache-2.0 */
/*
 * arena.h - the address range of all our pages, and what is known of each page.
 *
 * One range is reserved PROT_NONE and made readable from its base upward.  Only a part that is not
 * readable yet is ever unmapped (arena_fit). "Is this pointer ours" is one compare; "which slab" is
 * an index into a table beside the range.
 *
 * arena_init writes the range's start once. arena_commit and arena_fit are called with pages_lock
 * held.  The code that has allocated pages writes their page_slab[] entries with a release;
 * page_alloc.c alone writes page_tag[].
 */
#ifndef MEMCG_ARENA_H
#define MEMCG_ARENA_H

#include "base.h"

struct slab;

typedef ATOMIC(struct slab *) page_slab_t;

struct arena {
    char *base;
    atomic_usize_t bytes;   /* reserved; arena_fit makes it smaller */
    page_slab_t *page_slab; /* page -> slab or page run; NULL: free */
    /* not in copies */
    size_t nr_committed; /* pages made readable, from the base up; pages_lock */
    uint32_t *page_tag;  /* page -> tag of its last owner; 0: the page reads as zero */
};
/* Hidden, so that the fast paths read it without a detour.  A shared object that is linked to
 * libmemcg and inlines them defines one of its own. */
extern struct arena arena MEMCG_HIDDEN;
#define NR_ARENA_COPIES 4
void arena_copy(struct arena *copy); /* memcg_copy_arena(), in a section */

/* Reserves `wish` bytes; 0: 64 GiB, or twice the machine's memory.  Halved until it fits;
 * -ENOMEM. */
int arena_init(size_t wish);
int arena_commit(size_t nr_pages); /* grows nr_committed to at least nr_pages; -ENOMEM */
/* Shrinks the range to two thirds of `space`, or to what is committed if that is more. */
void arena_fit(size_t space);

static inline size_t arena_bytes(void)
{
    return load_racy(&arena.bytes); /* it shrinks only by pages that were never used */
}

static inline size_t arena_nr_pages(void) { return arena_bytes() >> PAGE_SHIFT; }

static inline bool arena_contains(const void *p)
{
    return (size_t)((const char *)p - arena.base) < arena_bytes();
}

static inline size_t arena_page(const void *p)
{
    return (size_t)((const char *)p - arena.base) >> PAGE_SHIFT;
}

static inline struct slab *page_to_slab(size_t page)
{
    return load_acquire(&arena.page_slab[page]);
}

static inline struct slab *virt_to_slab(const void *p)
{
    return arena_contains(p) ? page_to_slab(arena_page(p)) : NULL;
}

void set_page_slab(void *start, size_t nr_pages, struct slab *slab);

/* Zeroed memory for descriptors and tables, out of band.  Called in a section or by a walker, so
 * the leaf lock is free while all threads are stolen, and a fork finds it free. */
void *metadata_alloc(size_t bytes);
void metadata_free(void *p, size_t bytes); /* bytes: the size asked for */
size_t metadata_bytes_in_use(void);

#endif
