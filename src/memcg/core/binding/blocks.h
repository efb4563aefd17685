/* SPDX-License-Identifier: Apache-2.0 */
/*
 * blocks.h - the live blocks of a group, listed.
 */
#ifndef MEMCG_BLOCKS_H
#define MEMCG_BLOCKS_H

#include "compat.h"
#include "memcg.h"

/* Fills in an item for a block.  All threads are stolen, so it must not allocate or run Python
 * code. */
typedef void (*blocks_note_fn)(void *item, void *start, size_t size, struct kmem_cache *cache,
                               void *arg);

/* Returns one item, of item_size bytes, for each of the *n blocks that are charged to the group
 * itself.  The caller frees them with free().  NULL: no memory.  For an offline group these are the
 * blocks that were charged to it. */
void *blocks_list(struct mem_cgroup *memcg, size_t item_size, blocks_note_fn note, void *arg,
                  size_t *n);

struct live_block {
    void *start;
    size_t size;
    struct kmem_cache *cache; /* NULL: it is not in a cache's slab */
};
struct live_block *blocks_live(struct mem_cgroup *memcg, size_t *n); /* like blocks_list() */

#endif
