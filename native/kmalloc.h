/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kmalloc.h - memory of any size: the fast path, which allocates and frees without a call.
 *
 * Once a group has a child cache for a class, its heap has private slabs of the class and a sheaf
 * for them.  Before that the sheaf is empty, and the slow path is taken.
 */
#ifndef MEMCG_KMALLOC_H
#define MEMCG_KMALLOC_H

#include "arena.h"
#include "debug.h"
#include "shared.h"
#include "sheaf.h"

/* Where the fast path continues; they end its section.  The argument of the caller is the first
 * here too, so that it stays in its register. */
void *malloc_past_sheaf(size_t size, struct thread *self, const struct heap_slot *slot)
    MEMCG_EXPORT_AS(malloc_past_sheaf);
void *malloc_past_sheaf_c(size_t size, struct thread *self, const struct heap_slot *slot,
                          const void *caller) MEMCG_EXPORT_AS(malloc_past_sheaf_c);
/* slab may be NULL */
void free_past_sheaf(void *object, struct thread *self, struct slab *slab)
    MEMCG_EXPORT_AS(free_past_sheaf);

static inline void *memcg_malloc_fast(size_t size)
{
    struct thread *self = memcg_self;
    unsigned index;

    if (likely(size - 1 < KMALLOC_TABLE_SIZE)) /* one compare, which 0 fails too */
        index = kmalloc_table[(size - 1) >> 4];
    else if (size - 1 < KMALLOC_MAX_CACHE_SIZE)
        index = kmalloc_index_above(size);
    else
        return memcg_malloc(size);
    if (likely(section_begin(self))) {
        struct heap_slot *slot = &self->kmalloc[index];
        void *object = sheaf_pop(slot);

        if (unlikely(!object))
            return malloc_past_sheaf(size, self, slot);
        section_end(self);
        return object;
    }
    return memcg_malloc(size);
}

/* An object for 1 to 1,024 bytes from the sheaf.  NULL: memcg_malloc() may have one. */
static inline void *memcg_malloc_quick(size_t size)
{
    struct thread *self = memcg_self;
    unsigned index = kmalloc_table[(size - 1) >> 4];
    void *object = NULL;

    if (likely(section_begin(self))) {
        object = sheaf_pop(&self->kmalloc[index]);
        section_end(self);
    }
    return object;
}

/* Needs arena_contains(p). */
static inline void memcg_free_inside(void *p)
{
    struct thread *self = memcg_self;
    size_t page = arena_page(p);

    if (likely(section_begin(self))) {
        struct slab *slab = page_to_slab(page);

        if (likely(slab != NULL) && likely(sheaf_push(self, slab, p)))
            section_end(self);
        else
            free_past_sheaf(p, self, slab);
        return;
    }
    memcg_free(p);
}

/* p may be NULL, which lies in no arena. */
static inline void memcg_free_fast(void *p)
{
    if (likely(arena_contains(p)))
        memcg_free_inside(p);
    else
        memcg_free(p);
}

/* A block stays where it is if it serves the new size, unless that would use half of it or less. */
static inline bool resize_stays(size_t old, size_t size) { return size <= old && size > old / 2; }

/* How a block of a size class is resized to another: it stays, or it moves by an allocation, a copy
 * and a free. memcg_realloc() does the rest: page runs, checked objects, invalid addresses. */
enum resize { RESIZE_ELSE, RESIZE_STAYS, RESIZE_MOVES };

/* Needs arena_contains(p). *old: the bytes that the block has now, unless it returns
 * RESIZE_ELSE. */
static inline enum resize memcg_resize(const void *p, size_t size, size_t *old)
{
    struct slab *slab = page_to_slab(arena_page(p));

    if (unlikely(slab_debug || size - 1 >= KMALLOC_MAX_CACHE_SIZE || !slab ||
                 !slab_is_object(slab, p)))
        return RESIZE_ELSE;
    *old = slab->size;
    return resize_stays(slab->size, size) ? RESIZE_STAYS : RESIZE_MOVES;
}

#endif
