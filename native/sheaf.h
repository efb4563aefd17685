/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sheaf.h - the sheaf: free objects of a size class at hand.
 */
#ifndef MEMCG_SHEAF_H
#define MEMCG_SHEAF_H

#include "slab.h"

/* In a section.  NULL: empty. */
static inline void *sheaf_pop(struct heap_slot *slot)
{
    void *object = slot->sheaf;

    if (__builtin_expect(object != NULL, 1)) {
        slot->sheaf = *(void **)object;
        slot->sheaf_room++;
    }
    return object;
}

/* In a section: a free that moves no slab.  false: slab_free() has to see to it. */
static inline bool sheaf_push(struct thread *self, struct slab *slab, void *object)
{
    struct heap_slot *slot;
    int32_t room;

    /* Only we make `fast` ours, so the rest is ours to read when it is. */
    if (__builtin_expect(load_relaxed(&slab->fast) != self, 0))
        return false;
    slot = slab->slot;
    room = slot->sheaf_room - 1;
    if (__builtin_expect(room >= 0, 1)) {
        if (__builtin_expect(slot->sheaf == object, 0) ||
            __builtin_expect(!slab_is_object(slab, object), 0))
            return false;
        *(void **)object = slot->sheaf;
        slot->sheaf = object;
        slot->sheaf_room = room;
        return true;
    }
    if (++slot->overflow == SHEAF_OVERFLOW || slab->inuse == slab->last ||
        slab->freelist == object || slot->sheaf == object || !slab_is_object(slab, object))
        return false;
    slab->free_sum += slab_sum(slab, object);
    *(void **)object = slab->freelist;
    slab->freelist = object;
    slab->inuse--;
    return true;
}

void *sheaf_refill(struct heap_slot *slot, struct slab *slab); /* section; an object */
void sheaf_flush(struct heap_slot *slot); /* section or stolen: objects to their slabs */
void sheaf_give_up(
    struct heap_slot *slot); /* section; until the refill all frees go to their slabs */
bool sheaf_is_valid(const struct heap_slot *slot); /* section or stolen */

#endif
