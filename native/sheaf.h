/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sheaf.h - the sheaf: free objects of a size class, ready for use.
 */
#ifndef MEMCG_SHEAF_H
#define MEMCG_SHEAF_H

#include "slab.h"

/* In a section.  NULL: the sheaf is empty. */
static inline void *sheaf_pop(struct heap_slot *slot)
{
    void *object = slot->sheaf;

    if (__builtin_expect(object != NULL, 1)) {
        slot->sheaf = *(void **)object;
        slot->sheaf_room++;
    }
    return object;
}

/* In a section.  Frees an object if that moves no slab.  False: slab_free() must do it. */
static inline bool sheaf_push(struct thread *self, struct slab *slab, void *object)
{
    struct heap_slot *slot;
    int32_t room;

    /* Only this thread sets `fast` to itself, so if it is set to it, this thread may read the
     * rest. */
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

void *sheaf_refill(struct heap_slot *slot, struct slab *slab); /* section; returns an object */
void sheaf_flush(struct heap_slot *slot); /* section; puts objects back into slabs */
/* Section; until the refill all frees go to their slabs. */
void sheaf_give_up(struct heap_slot *slot);
/* Section; moves up to `most` objects to an empty sheaf. */
void sheaf_move(struct heap_slot *to, struct heap_slot *from, int64_t most);
/* Section; the limit of a sheaf that frees have overflowed. */
static inline void sheaf_grow(struct heap_slot *slot, size_t size)
{
    uint16_t most = sheaf_limit_max(size);

    slot->sheaf_limit = slot->sheaf_limit < most / 2 ? 2 * slot->sheaf_limit : most;
}

bool sheaf_is_valid(const struct heap_slot *slot); /* section */

#endif
