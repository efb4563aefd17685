/* SPDX-License-Identifier: Apache-2.0 */
/*
 * arena.h - the address range all our pages come from, and what is known of each page.
 *
 * One range is reserved PROT_NONE and made readable upward, never unmapped but for what is not readable
 * yet (arena_fit). "Is this pointer ours" is one compare; "which slab" is an index into a table beside
 * the range.
 *
 * The range's start is written once, by arena_init.  arena_commit and arena_fit are called with
 * pages_lock held.  A page_slab[] entry is written, with a
 * release, by the code that has allocated the pages; page_tag[] by page_alloc.c alone.
 */
#ifndef MEMCG_ARENA_H
#define MEMCG_ARENA_H

#include "base.h"

struct slab;

typedef ATOMIC(struct slab *) page_slab_t;

struct arena {
    char *base;
    atomic_usize_t bytes;   /* reserved; shrinks once at most (arena_fit) */
    size_t nr_committed;    /* pages made readable, from the base up; pages_lock */
    page_slab_t *page_slab; /* page -> slab or page run; NULL: free */
    uint32_t *page_tag;     /* page -> tag of its last owner; 0: reads as zero */
};
extern struct arena arena MEMCG_HIDDEN;

int arena_init(size_t wish);       /* 0: 64 GiB; halved until it fits; -ENOMEM */
int arena_commit(size_t nr_pages); /* grow nr_committed to at least this; -ENOMEM */
void arena_fit(size_t space); /* two thirds of so many bytes, or what is committed; never grows */

static inline size_t arena_bytes(void)
{
    return load_racy(&arena.bytes); /* it shrinks once, over pages that nobody has had */
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

/* Zeroed memory for descriptors and tables, out of band.  In a section, or by a walker: the leaf lock
 * is free while all threads are stolen, so a fork finds it free. */
void *metadata_alloc(size_t bytes);
void metadata_free(void *p, size_t bytes); /* bytes as asked for */
size_t metadata_bytes_in_use(void);

#endif
