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

/* So many allocations ask for a child, however few objects live: shared objects cost more each. */
#define PROMOTE_ALLOCS 4096
/* How many allocations ask for the class's next child: PROMOTE_ALLOCS for each child that exists,
 * and once more.  A child wastes what its group does not use of its slabs; with many children that
 * is most of them. */
extern atomic_u16_t promote_allocs[NR_KMALLOC]; /* written under caches_lock */

void *shared_alloc(struct thread *self, struct kmem_cache *root, struct request *req);
/* In a section.  Frees an object of the current group in a slab of this thread into the sheaf.
 * False: slab_free() must do it. */
bool shared_free(struct thread *self, struct slab *slab, void *object);
void shared_flush(struct thread *self);   /* section */
void thread_collect(struct thread *self); /* section; also takes in what other threads freed */
/* By the thread that frees. */
void shared_uncharge(struct thread *self, struct slab *slab, long index);
/* The group has nr objects more (below 0: fewer) in shared slabs, or in page runs that stand in for
 * them. */
void count_unpromoted(struct heap *heap, struct kmem_cache *root, int64_t nr);

/* In a section.  NULL: the sheaf is empty, or a child cache is due to the group. */
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
