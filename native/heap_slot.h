/* SPDX-License-Identifier: Apache-2.0 */
/*
 * heap_slot.h - what a heap has of one cache: its slots, made when the first slab is.
 */
#ifndef MEMCG_HEAP_SLOT_H
#define MEMCG_HEAP_SLOT_H

#include "css.h"

/* The active slab of a slot that has none.  It is full, so nothing is taken from it. */
extern struct slab slab_none;
/* The slots of a heap without slabs of its own.  Their sheaves are empty, and they are
 * read-only. */
extern const struct heap_slot slots_none[NR_KMALLOC];

/* How many objects a sheaf starts with: at least one, because the largest size is SHEAF_BYTES. */
static inline uint8_t sheaf_start(size_t size)
{
    return (uint8_t)(size * SHEAF_OBJECTS > SHEAF_BYTES ? SHEAF_BYTES / size : SHEAF_OBJECTS);
}

static inline uint16_t sheaf_limit_max(size_t size)
{
    return (uint16_t)(size * SHEAF_OBJECTS_MAX > SHEAF_BYTES_MAX ? SHEAF_BYTES_MAX / size
                                                                 : SHEAF_OBJECTS_MAX);
}

/* The slots of `frees`; NULL: no memory. */
struct heap_slot *make_frees(void);

/* The slot whose sheaf takes the frees of a size class. */
static inline struct heap_slot *frees_slot(const struct heap *heap, int index)
{
    return unlikely(heap->frees != NULL) ? &heap->frees[index] : &heap->kmalloc[index];
}

struct heap_slot *__heap_slot(struct heap *heap, int index, bool grow);

/* A cache's slot.  NULL: there is none, or (grow, in a section) there is no memory for it. */
static inline struct heap_slot *heap_slot(struct heap *heap, int index, bool grow)
{
    return likely(index < NR_KMALLOC && heap->kmalloc != slots_none)
               ? &heap->kmalloc[index]
               : __heap_slot(heap, index, grow);
}

#endif
