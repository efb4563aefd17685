/* SPDX-License-Identifier: Apache-2.0 */
/*
 * shared.h - small groups' objects in the root caches' slabs, each with its owner.
 */
#ifndef MEMCG_SHARED_H
#define MEMCG_SHARED_H

#include "arena.h"
#include "heap.h"

extern struct kmem_cache *kmalloc_caches[NR_KMALLOC]; /* the size classes' root caches */
extern atomic_usize_t promote_bytes;

#define PROMOTE_ALLOCS 4096 /* so many, however few live: shared objects cost more each */
/* What the class's next child costs in allocations: PROMOTE_ALLOCS for each that there is and itself.
 * A child wastes what its group does not use of its slabs; with many it is most of them. */
extern atomic_u16_t promote_allocs[NR_KMALLOC]; /* written under caches_lock */

void *shared_alloc(struct thread *self, struct kmem_cache *root, struct request *req);
/* In a section.  An object in use of the current group in a slab of this thread's goes into the
 * sheaf.  false: slab_free() has to see to it. */
bool shared_free(struct thread *self, struct slab *slab, void *object);
void shared_flush(struct thread *self);   /* section or stolen */
void thread_collect(struct thread *self); /* the same, and what other threads freed is taken in */
void shared_uncharge(struct thread *self, struct slab *slab, long index); /* the freeing thread */
/* nr more objects, or fewer, in shared slabs, or in page runs that stand in for them. */
void count_unpromoted(struct heap *heap, struct kmem_cache *root, int64_t nr);

/* In a section.  NULL: none, or a cache of its own is due to the group. */
static inline void *shared_pop(struct thread *self, unsigned class)
{
    struct shared_sheaf *sheaf = &self->shared[class];
    struct shared_use *use = &load_plain(&self->heap)->shared[class];
    void *object = sheaf->objects;
    struct slab *slab;
    atomic_u8_t *owner;

    if (!object || use->allocs >= load_relaxed(&promote_allocs[class]) - 1)
        return NULL;
    slab = virt_to_slab(object);
    owner = &slab->owner_of[slab_index(slab, object)];
    sheaf->objects = *(void **)object;
    sheaf->nr--;
    use->allocs++;
    store_relaxed(owner, (uint8_t)(load_relaxed(owner) & ~OWNER_GONE));
    return object;
}

#endif
