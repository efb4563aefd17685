/*
 * inline.h - the fast path: allocate and free without a call.
 *
 * A section is entered with a store, a compiler fence and a load; the walker
 * (thread.c) pays for the fence with membarrier.  Without membarrier `stolen` is never 0
 * and every section begins in thread_enter(), with a fence.  ThreadSanitizer, which knows
 * neither, sees sequentially consistent accesses.
 *
 * The group's heap has a private active slab per class once the group has a child
 * cache; before that `active` is slab_none, which is always empty: slow path.
 */
#ifndef MEMCG_INLINE_H
#define MEMCG_INLINE_H

#include "internal.h"

/* Pairs with thread_steal_all(): either we see stolen, or the walker sees busy. */
static inline bool section_begin(struct thread *self)
{
#ifdef __SANITIZE_THREAD__
    __atomic_store_n(&self->busy, 1, __ATOMIC_SEQ_CST);
    if (!__atomic_load_n(&self->stolen, __ATOMIC_SEQ_CST))
        return true;
#else
    __atomic_store_n(&self->busy, 1, __ATOMIC_RELAXED);
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    if (__builtin_expect(!__atomic_load_n(&self->stolen, __ATOMIC_ACQUIRE), 1))
        return true;
#endif
    __atomic_store_n(&self->busy, 0, __ATOMIC_RELEASE);
    return false;
}

static inline void section_end(struct thread *self)
{
    __atomic_store_n(&self->busy, 0, __ATOMIC_RELEASE);
}

static inline void *memcg_malloc_fast(size_t size)
{
    struct thread *self = memcg_self;

    if (__builtin_expect(size - 1 < KMALLOC_MAX_CACHE_SIZE, 1) && section_begin(self)) {
        struct slab *slab = self->heap->kmalloc[kmalloc_index(size)].active;
        void *object = slab->freelist;

        if (__builtin_expect(object != NULL, 1)) {
            slab->freelist = *(void **)object;
            slab->inuse++;
            section_end(self);
            return object;
        }
        section_end(self);
    }
    return memcg_malloc(size);
}

/* p may be NULL. */
static inline void memcg_free_fast(void *p)
{
    struct thread *self = memcg_self;

    if (__builtin_expect(p != NULL, 1) && section_begin(self)) {
        struct slab *slab = virt_to_slab(p);

        /* Only we make `fast` ours, so the rest is ours to read when it is. */
        if (__builtin_expect(slab != NULL, 1) &&
            __atomic_load_n(&slab->fast, __ATOMIC_RELAXED) == self &&
            slab->inuse != slab->last && slab->freelist != p) {
            *(void **)p = slab->freelist;
            slab->freelist = p;
            slab->inuse--;
            section_end(self);
            return;
        }
        section_end(self);
    }
    memcg_free(p);
}
#endif
