/*
 * inline.h - the fast path: allocate and free without a call.
 *
 * A section is entered with a store, a compiler fence and a load; the walker
 * (thread.c) pays for the fence with membarrier.  Without membarrier, with MEMCG_DEBUG
 * and while faults are armed `stolen` is never 0, and every section begins in thread_enter(), with
 * a fence.  ThreadSanitizer knows neither fence and sees sequentially consistent accesses.
 *
 * The group's heap has private slabs of a class once the group has a child cache, and
 * with them a sheaf; before that the sheaf is empty: slow path.
 */
#ifndef MEMCG_INLINE_H
#define MEMCG_INLINE_H

#include "internal.h"

/* Pairs with thread_steal_all(): either we see stolen, or the walker sees busy. */
static inline bool section_begin(struct thread *self)
{
#ifdef __SANITIZE_THREAD__
    store_seq_cst(&self->busy, 1);
    if (!load_seq_cst(&self->stolen))
        return true;
#else
    store_relaxed(&self->busy, 1);
    compiler_fence();
    if (__builtin_expect(!load_acquire(&self->stolen), 1))
        return true;
#endif
    store_release(&self->busy, 0);
    return false;
}

static inline void section_end(struct thread *self)
{
    store_release(&self->busy, 0);
}

/* Begins a section; makes the thread if need be. */
static inline struct thread *thread_enter(void)
{
    struct thread *self = memcg_self;

    MEMCG_ASSERT(load_relaxed(&self->stolen) ||
                 !load_relaxed(&self->busy)); /* no section inside another */
    return likely(section_begin(self)) ? self : thread_enter_slow();
}

static inline void thread_leave(struct thread *self)
{
    section_end(self);
    if (unlikely(self->is_orphan))
        mutex_unlock(&orphan_lock);
}

/* Whether p, in one of the slab's pages, is where an object begins: offset % size == 0 without a
 * division (Lemire, Kaser, Kurz: Faster remainder by direct computation, 2019). */
static inline bool slab_is_object(const struct slab *slab, const void *p)
{
    uint32_t offset = (uint32_t)((const char *)p - slab->base); /* a slab is below 2 GiB */

    return (offset * slab->reciprocal < slab->reciprocal) & (offset < slab->bytes);
}

/* An object's share of slab->free_sum. */
static inline uint64_t slab_sum(const struct slab *slab, const void *p)
{
    uint64_t offset = (uint32_t)((const char *)p - slab->base);

    return offset * offset;
}

/* The index of the object that p lies in; p as above. */
static inline uint32_t slab_index(const struct slab *slab, const void *p)
{
    uint32_t offset = (uint32_t)((const char *)p - slab->base);

    return (uint32_t)((unsigned __int128)offset * slab->reciprocal >> 64);
}

/* Both at once: the index, or -1. */
static inline long slab_object_index(const struct slab *slab, const void *p)
{
    uint32_t offset = (uint32_t)((const char *)p - slab->base);
    unsigned __int128 product = (unsigned __int128)offset * slab->reciprocal;
    uint32_t index = (uint32_t)(product >> 64);

    return ((uint64_t)product < slab->reciprocal) &
           (index < load_relaxed(&slab->carved)) ? (long)index : -1;
}

/* Free lists and `remote`; what is in a sheaf is never encoded.  Kernel: freelist_ptr_encode(). */
static inline void set_freepointer(void *object, void *next)
{
    uintptr_t word = (uintptr_t)next;

    if (unlikely(freelist_secret))
        word ^= freelist_secret ^ __builtin_bswap64((uintptr_t)object);
    *(uintptr_t *)object = word;
}

static inline void *get_freepointer(const void *object)
{
    uintptr_t word = *(const uintptr_t *)object;
    void *next = (void *)word;

    if (unlikely(freelist_secret)) {
        const struct slab *slab = virt_to_slab(object);

        next = (void *)(word ^ freelist_secret ^ __builtin_bswap64((uintptr_t)object));
        if (next && (virt_to_slab(next) != slab || !slab_is_object(slab, next)))
            free_pointer_corrupt(object);
    }
    return next;
}

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

/* In a section.  NULL: none, or a cache of its own is due to the group. */
static inline void *shared_pop(struct thread *self, unsigned class)
{
    struct shared_sheaf *sheaf = &self->shared[class];
    struct shared_use *use = &load_plain(&self->heap)->shared[class];
    void *object = sheaf->objects;
    struct slab *slab;
    atomic_u8_t *owner;

    if (!object ||
        use->allocs >= load_relaxed(&promote_allocs[class]) - 1)
        return NULL;
    slab = virt_to_slab(object);
    owner = &slab->owner_of[slab_index(slab, object)];
    sheaf->objects = *(void **)object;
    sheaf->nr--;
    use->allocs++;
    store_relaxed(owner, (uint8_t)(load_relaxed(owner) & ~OWNER_GONE));
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

/* kmem_cache_alloc() where a slab of this thread's for the group has a free object. */
static inline void *kmem_cache_alloc_fast(struct kmem_cache *s)
{
    struct thread *self = memcg_self;
    struct heap *heap;
    int i = s->index - NR_KMALLOC;

    if (likely(section_begin(self))) {
        heap = load_plain(&self->heap);
        if (likely(i >= 0 && i < heap->nr_user)) { /* a dead cache has no owned slab */
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

/* kmem_cache_free() where the object lies in a slab of this thread's. */
static inline int kmem_cache_free_fast(struct kmem_cache *s, void *object)
{
    struct thread *self = memcg_self;

    if (likely(section_begin(self))) {
        struct slab *slab = virt_to_slab(object);

        if (likely(slab && load_relaxed(&slab->owner) == self &&
                   slab->live && !slab->shared &&
                   slab->cache->root == s->root && slab_is_object(slab, object)) &&
            likely(exchange_acq_rel(&slab->live[slab_index(slab, object)], 0))) {
            if (likely(slab->inuse != slab->last)) {
                *(void **)object = slab->freelist;
                slab->freelist = object;
                slab->inuse--;
            } else { /* to another list */
                slab_put(slab, object, object, 1);
            }
            section_end(self);
            return 0;
        }
        section_end(self);
    }
    return kmem_cache_free(s, object);
}

static inline void *memcg_malloc_fast(size_t size)
{
    struct thread *self = memcg_self;
    unsigned index;

    if (likely(size - 1 < KMALLOC_TABLE_SIZE)) /* one compare, of 0 too */
        index = kmalloc_table[(size - 1) >> 4];
    else if (size - 1 < KMALLOC_MAX_CACHE_SIZE)
        index = kmalloc_index_above(size);
    else
        return memcg_malloc(size);
    if (likely(section_begin(self))) {
        struct heap_slot *slot = &self->kmalloc[index];
        void *object = sheaf_pop(slot);

        if (unlikely(!object))
            return malloc_past_sheaf(size, self, slot);
        section_end(self);
        return object;
    }
    return memcg_malloc(size);
}

/* arena_contains(p). */
static inline void memcg_free_inside(void *p)
{
    struct thread *self = memcg_self;
    size_t page = arena_page(p);

    if (likely(section_begin(self))) {
        struct slab *slab = page_to_slab(page);

        if (likely(slab != NULL) && likely(sheaf_push(self, slab, p)))
            section_end(self);
        else
            free_past_sheaf(p, self, slab);
        return;
    }
    memcg_free(p);
}

/* p may be NULL, which is in no arena. */
static inline void memcg_free_fast(void *p)
{
    if (likely(arena_contains(p)))
        memcg_free_inside(p);
    else
        memcg_free(p);
}
#endif
