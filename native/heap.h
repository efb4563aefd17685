/* SPDX-License-Identifier: Apache-2.0 */
/*
 * heap.h - a thread's slabs and stock for one group.
 */
#ifndef MEMCG_HEAP_H
#define MEMCG_HEAP_H

#include "slab.h"

int heap_init(struct thread *thread);                                /* root_heap and shared_heap */
void thread_set_heap(struct thread *thread, struct heap *heap);      /* section or stolen */
struct heap *heap_of(struct thread *self, struct mem_cgroup *memcg); /* section */
struct heap *heap_lookup(struct thread *self, struct mem_cgroup *memcg); /* section; or NULL */
size_t heap_drain_stock(struct heap *heap);                              /* section or stolen */
/* The next three: all threads stolen, and what others freed has been taken in (thread_collect). */
void heap_hand_over(struct heap *heap);
void heap_drop(struct heap *heap);                                  /* hand over, unlink, free */
void heap_hand_over_cache(struct heap *heap, struct kmem_cache *s); /* what it has of one cache */
size_t heap_shrink(struct heap *heap, struct kmem_cache *s); /* stolen: drop empty slabs; pages */
bool heap_holds_free(const struct heap *heap); /* walker_mutex held; racy unless stolen */
void heap_give_back(struct heap *heap);        /* stolen: what heap_holds_free() saw */
bool heap_is_valid(const struct heap *heap);   /* section or stolen */
void heap_flush(struct heap *heap, struct kmem_cache *s); /* section or stolen; NULL: all sheaves */

#endif
