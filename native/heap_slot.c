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

/* Objects that a sheaf for frees starts with.  What lies in it is moved on whole, so the slow way is
 * taken once for so many allocations. */
#define FREES_OBJECTS 192
#define FREES_BYTES ((size_t)16 << 10)

static struct heap_slot *make_slots(uint8_t (*start)(size_t size))
{
    struct heap_slot *slot = metadata_alloc(sizeof(*slot) * NR_KMALLOC);

    for (int i = 0; slot && i < NR_KMALLOC; i++) {
        slot[i].active = &slab_none;
        slot[i].sheaf_start = start(kmalloc_size(i));
        slot[i].sheaf_room = slot[i].sheaf_limit = slot[i].sheaf_start;
    }
    return slot;
}

static uint8_t no_start(size_t size)
{
    (void)size;
    return 0;
}

static uint8_t frees_start(size_t size)
{
    return size * FREES_OBJECTS > FREES_BYTES ? sheaf_start(size) : FREES_OBJECTS;
}

struct heap_slot *make_frees(void) { return make_slots(frees_start); }

static __attribute__((noinline)) bool make_kmalloc_slots(struct heap *heap)
{
    struct heap_slot *slot = make_slots(heap->sample_every ? no_start : sheaf_start);
    struct heap_slot *frees = heap->sample_every ? make_frees() : NULL;

    if (!slot || (heap->sample_every && !frees)) {
        if (slot)
            metadata_free(slot, sizeof(*slot) * NR_KMALLOC);
        if (frees)
            metadata_free(frees, sizeof(*frees) * NR_KMALLOC);
        return false;
    }
    heap->kmalloc = slot;
    heap->frees = frees;
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
