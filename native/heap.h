/* SPDX-License-Identifier: Apache-2.0 */
/*
 * heap.h - a thread's slabs and stock for one group.
 */
#ifndef MEMCG_HEAP_H
#define MEMCG_HEAP_H

#include "slab.h"

/* Makes root_heap and shared_heap. */
int heap_init(struct thread *thread);
void thread_set_heap(struct thread *thread, struct heap *heap);          /* section */
struct heap *heap_of(struct thread *self, struct mem_cgroup *memcg);     /* section */
struct heap *heap_lookup(struct thread *self, struct mem_cgroup *memcg); /* section; or NULL */
size_t heap_drain_stock(struct heap *heap);                              /* section */
/* The next three: all threads are stolen, and thread_collect() has taken in what other threads
 * freed. */
void heap_hand_over(struct heap *heap);
void heap_drop(struct heap *heap);                                  /* hands over, unlinks, frees */
void heap_hand_over_cache(struct heap *heap, struct kmem_cache *s); /* the slabs of one cache */
/* Stolen; drops empty slabs, returns their pages. */
size_t heap_shrink(struct heap *heap, struct kmem_cache *s);
bool heap_holds_free(const struct heap *heap);            /* walker_mutex; racy unless stolen */
void heap_give_back(struct heap *heap);                   /* stolen; what heap_holds_free() saw */
bool heap_is_valid(const struct heap *heap);              /* section */
void heap_flush(struct heap *heap, struct kmem_cache *s); /* section; s NULL: all sheaves */

#endif
