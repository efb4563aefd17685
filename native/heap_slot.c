/* SPDX-License-Identifier: Apache-2.0 */
/*
 * heap_slot.c - the slots of a heap: what it has of each cache.
 *
 * Heaps without a slab of their own share one array of empty slots, to which no thread writes.  The
 * slots of the size classes are made together.  Those of users' caches grow, and their lists move
 * with them.
 *
 * Kernel: struct kmem_cache_cpu (mm/slub.c).  Locks: none of its own.  The section of heap->thread
 * protects them.
 */
#include "heap_slot.h"

#include "arena.h"

struct slab slab_none = { .place = SLAB_FULL };
const struct heap_slot slots_none[NR_KMALLOC];

static bool make_kmalloc_slots(struct heap *heap)
{
    struct heap_slot *slot = metadata_alloc(sizeof(*slot) * NR_KMALLOC);

    if (!slot)
        return false;
    for (int i = 0; i < NR_KMALLOC; i++) {
        slot[i].active = &slab_none;
        slot[i].sheaf_room = slot[i].sheaf_limit = slot[i].sheaf_start =
            heap->sample_every ? 0 : sheaf_start(kmalloc_size(i));
    }
    heap->kmalloc = slot;
    if (load_plain(&heap->thread->heap) == heap)
        heap->thread->kmalloc = slot;
    if (heap->memcg)
        mem_cgroup_link_heap(heap);
    return true;
}

static bool make_user_slots(struct heap *heap, int index)
{
    int nr = index + 8;
    struct heap_slot *user = metadata_alloc(sizeof(*user) * (size_t)nr);

    if (!user)
        return false;
    if (heap->user) {
        memcpy(user, heap->user, sizeof(*user) * (size_t)heap->nr_user);
        for (int i = 0; i < heap->nr_user; i++) {
            hlist_move_list(&heap->user[i].partial, &user[i].partial);
            hlist_move_list(&heap->user[i].full, &user[i].full);
            hlist_move_list(&heap->user[i].empty, &user[i].empty);
        }
        metadata_free(heap->user, sizeof(*user) * (size_t)heap->nr_user);
    }
    for (int i = heap->nr_user; i < nr; i++)
        user[i].active = &slab_none;
    heap->user = user;
    heap->nr_user = nr;
    return true;
}

struct heap_slot *__heap_slot(struct heap *heap, int index, bool grow)
{
    int user = index - NR_KMALLOC;

    if (user < 0)
        return heap->kmalloc != slots_none || (grow && make_kmalloc_slots(heap))
                   ? &heap->kmalloc[index]
                   : NULL;
    return user < heap->nr_user || (grow && make_user_slots(heap, user)) ? &heap->user[user] : NULL;
}
