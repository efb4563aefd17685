/* SPDX-License-Identifier: Apache-2.0 */
/*
 * free.c - an object's way home: to the sheaf, to its slab, to the slab's owner, or to the cache.
 *
 * The owner of a slab is read once.  It is cleared only while all threads are stolen, so the thread
 * that frees may rely on it until its section ends.
 *
 * Kernel: __slab_free (mm/slub.c).  Locks: cache->lock, for a slab without an owner.
 */
#include "free.h"

#include "debug.h"
#include "shared.h"
#include "sheaf.h"

static int slab_free_no_owner(struct slab *slab, void *object)
{
    struct kmem_cache *s = slab->cache;
    struct obj_cgroup *objcg = s->objcg;
    bool empty;

    mutex_lock(&s->lock);
    if (load_relaxed(&slab->owner)) { /* a thread has adopted it meanwhile */
        mutex_unlock(&s->lock);
        return -EAGAIN;
    }
    objcg_get(objcg);
    slab_put_one(slab, object);
    empty = !slab->inuse;
    if (empty)
        __slab_unlist(slab);
    mutex_unlock(&s->lock);
    if (empty)
        slab_release(slab, objcg);
    objcg_put(objcg);
    return 0;
}

int slab_free(struct thread *self, struct slab *slab, void *object)
{
    long index = slab_object_index(slab, object);
    struct thread *owner;
    void *first;

    assert_section(self);
    if (index < 0)
        return -EINVAL;
    if (slab->live && !exchange_acq_rel(&slab->live[index], 0))
        return -EALREADY;
    if (slab->shared && shared_free(self, slab, object))
        return 0;
    if (slab->shared && fetch_or_acq_rel(&slab->owner_of[index], OWNER_GONE) & OWNER_GONE)
        return -EALREADY;
    if (unlikely(slab_debug))
        debug_free(slab, object);
    owner = load_acquire(&slab->owner);
    if (owner == self && (slab->freelist == object || (slab->slot && slab->slot->sheaf == object)))
        return -EALREADY;
    if (slab->shared)
        shared_uncharge(self, slab, index);
    while (!owner) {
        if (!slab_free_no_owner(slab, object))
            return 0;
        owner = load_acquire(&slab->owner);
    }
    if (owner == self) {
        if (slab->slot && slab->slot->overflow == SHEAF_OVERFLOW)
            sheaf_give_up(slab->slot);
        if (!sheaf_push(self, slab, object))
            slab_put_one(slab, object);
        return 0;
    }
    first = load_relaxed(&slab->remote);
    do {
        set_freepointer(object, first);
    } while (!cas_weak_acq_rel(&slab->remote, &first, object));
    if (!first) { /* the list was empty, so this thread links the slab; pairs with slab_collect() */
        slab->next_remote = load_relaxed(&owner->remote_slabs);
        while (!cas_weak_release(&owner->remote_slabs, &slab->next_remote, slab))
            ;
    }
    return 0;
}
