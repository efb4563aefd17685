/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kmem_cache.h - caches, and the fast path of their objects.
 */
#ifndef MEMCG_KMEM_CACHE_H
#define MEMCG_KMEM_CACHE_H

#include "arena.h"
#include "sheaf.h"

extern struct hlist_head all_caches; /* caches_lock */
extern struct mutex caches_lock;     /* all_caches, the indices, the number of a root's children */
int kmem_cache_init(void);           /* makes the size classes' root caches */
void kmem_cache_put(struct kmem_cache *s); /* in a section */
/* In a section.  Whether a child makes the next one of its class dearer. */
void kmem_cache_count(struct kmem_cache *s, bool counts);
bool cache_is_valid(const struct kmem_cache *s); /* all threads stolen */
/* In a section.  Allocates an object for the current group, from its child or from shared slabs. */
void *cache_alloc(struct thread *self, struct kmem_cache *root, struct request *req);

/* kmem_cache_alloc(), fast if a slab that this thread has for the group has a free object. */
static inline void *kmem_cache_alloc_fast(struct kmem_cache *s)
{
    struct thread *self = memcg_self;
    struct heap *heap;
    int i = s->index - NR_KMALLOC;

    if (likely(section_begin(self))) {
        heap = load_plain(&self->heap);
        if (likely(i >= 0 && i < heap->nr_user)) { /* a dead cache owns no slab */
            struct slab *slab = heap->user[i].active;
            void *object = slab->freelist;

            if (likely(object != NULL)) {
                slab->freelist = *(void **)object;
                slab->inuse++;
                store_relaxed(&slab->live[slab_index(slab, object)], 1);
                section_end(self);
                return object;
            }
            if (load_plain(&slab->carved) == slab->objects && (slab = slab_next(&heap->user[i]))) {
                object = slab_pop(slab);
                section_end(self);
                return object;
            }
        }
        section_end(self);
    }
    return kmem_cache_alloc(s);
}

/* kmem_cache_free(), fast if the object lies in a slab of this thread. */
static inline int kmem_cache_free_fast(struct kmem_cache *s, void *object)
{
    struct thread *self = memcg_self;

    if (likely(section_begin(self))) {
        struct slab *slab = virt_to_slab(object);

        if (likely(slab && load_relaxed(&slab->owner) == self && slab->live && !slab->shared &&
                   slab->cache->root == s->root && slab_is_object(slab, object)) &&
            likely(exchange_acq_rel(&slab->live[slab_index(slab, object)], 0))) {
            if (likely(slab->inuse != slab->last)) {
                *(void **)object = slab->freelist;
                slab->freelist = object;
                slab->inuse--;
            } else { /* the slab moves to another list */
                slab_put(slab, object, object, 1);
            }
            section_end(self);
            return 0;
        }
        section_end(self);
    }
    return kmem_cache_free(s, object);
}

#endif
