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
bool slab_is_valid(const struct slab *slab); /* the owner's section, or cache->lock */
void slab_destroy(struct slab *slab);        /* empty; on no list but the cache's */
size_t slab_drop(struct slab *slab);         /* likewise; returns pages */
/* By its owner.  NULL: full. */
void *slab_pop(struct slab *slab) MEMCG_EXPORT_AS(slab_pop);
/* slab_put() for a chain that ends with NULL */
void slab_put_chain(struct slab *slab, void *first);
void __slab_unlist(struct slab *slab); /* under cache->lock */
/* The slab is on no list.  Gives back its pages and its charge. */
void slab_release(struct slab *slab, struct obj_cgroup *objcg);
/* The owner's section, or cache->lock. */
void slab_set_place(struct slab *slab, enum slab_place place);
/* In the owner's section, if the active slab is full: another of the slot's becomes active.  NULL:
 * none has room. */
struct slab *slab_next(struct heap_slot *slot) MEMCG_EXPORT_AS(slab_next);
/* In a section.  Returns an active slab with a free object.  NULL: no memory, or req->want_reclaim
 * is set. */
struct slab *slab_active(struct thread *self, struct heap *heap, struct kmem_cache *s, bool shared,
                         struct request *req);
void slab_hand_over(struct slab *slab); /* all threads stolen; on no list but the cache's */
void slab_collect(struct thread *self); /* section; takes in remote frees */

/* After a free into a full slab, or one that emptied the slab: moves it to the list where it
 * belongs. */
void slab_put_moved(struct slab *slab) MEMCG_EXPORT_AS(slab_put_moved);

/* In the section of the slab's owner, or under its cache's lock if it has no owner. */
#define assert_slab(slab)                                                                     \
    MEMCG_ASSERT(load_relaxed(&(slab)->owner) ? section_is_held(load_relaxed(&(slab)->owner)) \
                                              : mutex_is_held(&(slab)->cache->lock))

/*
 * Puts a chain of nr objects back, in the owner's section.  Without an owner it runs under
 * cache->lock, and the caller unlists and releases a slab that is empty then. free_sum contains the
 * chain already.
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

/* nr objects of one owner are back in the slab: its entry loses them.  By the slab's owner, or
 * under cache->lock. */
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
