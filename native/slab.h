/* SPDX-License-Identifier: Apache-2.0 */
/*
 * slab.h - slabs: pages cut into objects of one cache.
 */
#ifndef MEMCG_SLAB_H
#define MEMCG_SLAB_H

#include "debug.h"
#include "heap_slot.h"

/* NULL: no memory, or req->want_reclaim is set. */
struct slab *slab_new(struct heap *heap, struct kmem_cache *s, bool shared, struct request *req);
bool slab_is_valid(const struct slab *slab);         /* owner's section, stolen, or cache->lock */
void slab_destroy(struct slab *slab);                /* empty, on no list but the cache's */
size_t slab_drop(struct slab *slab);                 /* the same; pages */
void *slab_pop(struct slab *slab);                   /* owner; NULL: full */
void slab_put_chain(struct slab *slab, void *first); /* slab_put() of a chain up to NULL */
void __slab_unlist(struct slab *slab);               /* cache->lock held */
/* Off every list; the pages and the charge go back. */
void slab_release(struct slab *slab, struct obj_cgroup *objcg);
void slab_set_place(struct slab *slab, enum slab_place place); /* owner's section or cache->lock */
/* Owner's section, the active slab full: another of the slot's becomes active. NULL: none has room. */
struct slab *slab_next(struct heap_slot *slot);
/* In a section: an active slab with a free object.  NULL: no memory, or req->want_reclaim. */
struct slab *slab_active(struct thread *self, struct heap *heap, struct kmem_cache *s, bool shared,
                         struct request *req);
void slab_hand_over(struct slab *slab); /* all threads stolen; on no list but the cache's */
void slab_collect(struct thread *self); /* section or stolen: take remote frees in */

/* After a free: the slab was full, or is empty; to the list where it belongs. */
void slab_put_moved(struct slab *slab);

/* Its owner's section, or its cache's lock where it has no owner. */
#define assert_slab(slab)                                                                     \
    MEMCG_ASSERT(load_relaxed(&(slab)->owner) ? section_is_held(load_relaxed(&(slab)->owner)) \
                                              : mutex_is_held(&(slab)->cache->lock))

/*
 * A chain of nr objects.  In the owner's section; without an owner under cache->lock, and an empty slab
 * is the caller's to unlist and release.  free_sum has the chain already.
 */
static inline void slab_put(struct slab *slab, void *first, void *last, uint32_t nr)
{
    assert_slab(slab);
    if (unlikely(slab->inuse < nr))
        slab_bug(slab, first, "Object already free");
    set_freepointer(last, slab->freelist);
    slab->freelist = first;
    slab->inuse -= nr;
    if (slab->place != SLAB_ACTIVE &&
        (!slab->inuse || slab->place == SLAB_FULL || slab->place == SLAB_NO_OWNER_FULL))
        slab_put_moved(slab);
}

/* nr objects of one owner are home: its entry loses them.  The slab's owner, or cache->lock held. */
static inline void shared_release(struct slab *slab, long index, uint32_t nr)
{
    struct slab_owner *owner = slab_owner(slab, index);

    MEMCG_ASSERT(owner->live >= nr);
    owner->live -= nr;
    if (!owner->live)
        objcg_put(owner->objcg);
}

static inline void slab_put_one(struct slab *slab, void *object)
{
    if (slab->shared)
        shared_release(slab, slab_index(slab, object), 1);
    slab->free_sum += slab_sum(slab, object);
    slab_put(slab, object, object, 1);
}

#endif
