/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sheaf.c - the sheaf: free objects of a size class, ready for use (struct heap_slot).
 *
 * An object is taken from one list and given to it, no matter which slab it lies in.  An empty
 * sheaf takes the active slab's whole free list.  When it is full, frees go to their slabs.
 *
 * Kernel: mm/slub.c (sheaves: 2025).  Where we differ: it is a list and not an array; one sheaf
 * serves all slabs that a heap has of a class.
 *
 * Locks: none.  The section of the heap's thread protects it.
 */
#include "sheaf.h"

#include "arena.h"
#include "debug.h"

static bool is_slot_of(const struct heap_slot *slot, const struct slab *slab)
{
    return slot == slab->slot ||
           (slab->heap->frees && slot == &slab->heap->kmalloc[slab->cache->index]);
}

bool sheaf_is_valid(const struct heap_slot *slot)
{
    int32_t nr = 0;

    for (void *p = slot->sheaf; p; p = *(void **)p, nr++) {
        struct slab *slab = virt_to_slab(p);

        if (!slab || !is_slot_of(slot, slab) || !load_plain(&slab->fast) ||
            load_plain(&slab->fast) != load_plain(&slab->owner) || slab_object_index(slab, p) < 0 ||
            (uint32_t)nr > slab->objects + SHEAF_OBJECTS_MAX)
            return false;
    }
    return slot->sheaf_room + nr == slot->sheaf_limit || (!nr && !slot->sheaf_room);
}

void *sheaf_refill(struct heap_slot *slot, struct slab *slab)
{
    void *object = slab_pop(slab);

    MEMCG_ASSERT(!slot->sheaf && is_slot_of(slot, slab) && slab == slot->active);
    if (slot->overflow)
        sheaf_grow(slot, slab->size);
    slot->overflow = 0;
    slot->sheaf = slab->freelist;
    slot->sheaf_room = slot->sheaf_limit - (int32_t)(load_plain(&slab->carved) - slab->inuse);
    slab->freelist = NULL;
    slab->free_sum = 0;
    slab->inuse = load_plain(&slab->carved);
    MEMCG_ASSERT(sheaf_is_valid(slot));
    return object;
}

void sheaf_move(struct heap_slot *to, struct heap_slot *from, int64_t most)
{
    int64_t nr = from->sheaf_limit - from->sheaf_room;
    void **link = &to->sheaf;

    MEMCG_ASSERT(!to->sheaf && from->sheaf && sheaf_is_valid(from));
    to->sheaf = from->sheaf;
    if (nr > most) {
        for (int64_t i = 0; i < most; i++)
            link = *link;
        nr = most;
        from->sheaf = *link;
        *link = NULL;
    } else {
        from->sheaf = NULL;
    }
    to->sheaf_room = to->sheaf_limit - (int32_t)nr;
    from->sheaf_room += (int32_t)nr;
    MEMCG_ASSERT(sheaf_is_valid(to) && sheaf_is_valid(from));
}

/* Neighbours in the sheaf are often neighbours in a slab, so they are put back as one chain. */
static __attribute__((noinline)) void put_back(struct heap_slot *slot)
{
    void *first = slot->sheaf;
    int32_t left = slot->sheaf_limit - slot->sheaf_room;

    assert_any_section();
    MEMCG_ASSERT(sheaf_is_valid(slot));
    slot->sheaf = NULL;
    while (first) {
        struct slab *slab = virt_to_slab(first);
        void *last = first, *next;
        uint32_t nr = 1;

        slab->free_sum += slab_sum(slab, first);
        while ((next = *(void **)last) && (size_t)((char *)next - slab->base) < slab->bytes) {
            last = next;
            slab->free_sum += slab_sum(slab, next);
            if (unlikely(nr++ == (uint32_t)left))
                slab_bug(slab, last, "Object already free");
        }
        left -= (int32_t)nr;
        /* the list ended early: an object in it was freed past the full sheaf too */
        if (unlikely(!next && left))
            slab_bug(slab, last, "Object already free");
        slot->sample_left += (int64_t)nr * slab->size; /* counted, and not allocated (sampling.c) */
        slab_put(slab, first, last, nr);
        first = next;
    }
}

/* Most sheaves are empty: a reader of a figure flushes those of all classes. */
void sheaf_flush(struct heap_slot *slot)
{
    if (slot->sheaf)
        put_back(slot);
    slot->sheaf_room = slot->sheaf_limit = slot->sheaf_start;
    slot->overflow = 0;
}

void sheaf_give_up(struct heap_slot *slot)
{
    uint16_t limit = slot->sheaf_limit;

    sheaf_flush(slot);
    slot->sheaf_limit = limit;
    slot->sheaf_room = 0;
    slot->overflow = SHEAF_OVERFLOW;
}
