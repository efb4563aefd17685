/* SPDX-License-Identifier: Apache-2.0 */
/*
 * blocks.h - the live blocks of a group, listed.
 */
#ifndef MEMCG_BLOCKS_H
#define MEMCG_BLOCKS_H

#include "compat.h"
#include "memcg.h"

/* Fills an item in for a block.  All threads stand still: it allocates nothing and runs no Python code. */
typedef void (*blocks_note_fn)(void *item, void *start, size_t size, struct kmem_cache *cache,
                               void *arg);

/* The items, of item_size bytes, of the *n blocks that are charged to the group itself; free() ends them.
 * NULL: no memory.  Of a group that is offline: what was charged to it. */
void *blocks_list(struct mem_cgroup *memcg, size_t item_size, blocks_note_fn note, void *arg,
                  size_t *n);

struct live_block {
    void *start;
    size_t size;
    struct kmem_cache *cache; /* NULL: of none */
};
struct live_block *blocks_live(struct mem_cgroup *memcg, size_t *n); /* as above */

#endif
