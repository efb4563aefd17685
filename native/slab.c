/*
 * slab.c - slabs: pages cut into objects of one cache.
 *
 * Objects are carved a page at a time, so a fresh slab is not touched.  The owner
 * thread pops and pushes the freelist; others push to `remote` with one CAS, and
 * whoever finds it empty lists the slab with its owner.  A slab without an owner is
 * the cache lock's.  An owner appears under that lock, and goes only while all
 * threads are stolen, so a freer that read it may rely on it until its section ends.
 *
 * Kernel: mm/slub.c.  Where we differ: descriptors lie outside; frees from afar
 * wait for the owner; exact double-free detection for users' caches (a bit per object).
 *
 * Locks: cache->lock.
 */
#include "inline.h"

long slab_object_index(const struct slab *slab, const void *p)
{
    size_t offset = (size_t)((const char *)p - slab->base);
    size_t index = offset / slab->size;

    return offset % slab->size == 0 && index < __atomic_load_n(&slab->carved, __ATOMIC_RELAXED)
               ? (long)index : -1;
}

/* cache->lock held. */
static void __slab_unlist(struct slab *slab)
{
    struct kmem_cache *s = slab->cache;

    if (slab->cache_prev)
        slab->cache_prev->cache_next = slab->cache_next;
    else
        s->slabs = slab->cache_next;
    if (slab->cache_next)
        slab->cache_next->cache_prev = slab->cache_prev;
    __atomic_store_n(&s->nr_slabs, s->nr_slabs - 1, __ATOMIC_RELAXED);
    if (!s->nr_slabs && __atomic_load_n(&s->dead, __ATOMIC_ACQUIRE))
        event_post(&s->empty, MEMCG_EVENT_EMPTY, s->memcg, s);
}

/* Off every list; the pages and the charge go back. */
static void slab_release(struct slab *slab, struct obj_cgroup *objcg)
{
    if (!slab->shared) {
        struct mem_cgroup *memcg = __atomic_load_n(&objcg->memcg, __ATOMIC_ACQUIRE);
        size_t bytes = (size_t)slab->nr_pages << PAGE_SHIFT;

        memcg_stat_add(memcg, STAT_PRIVATE, -(int64_t)bytes);
        memcg_uncharge(memcg, bytes);
    }
    set_page_slab(slab->base, slab->nr_pages, NULL);
    free_pages(slab->base, slab->nr_pages);
    metadata_free(slab, slab->metadata_bytes);
}

void slab_destroy(struct slab *slab)
{
    struct kmem_cache *s = slab->cache;
    struct obj_cgroup *objcg = s->objcg; /* s may end once it has no slab */

    objcg_get(objcg);
    mutex_lock(&s->lock);
    __slab_unlist(slab);
    mutex_unlock(&s->lock);
    slab_release(slab, objcg);
    objcg_put(objcg);
}

/* `*error`: -ENOMEM or -EAGAIN (reclaim first). */
struct slab *slab_new(struct heap *heap, struct kmem_cache *s, bool shared, struct request *req,
                      int *error)
{
    size_t bytes = (size_t)s->nr_pages << PAGE_SHIFT, meta = sizeof(struct slab);
    struct mem_cgroup *memcg = __atomic_load_n(&s->objcg->memcg, __ATOMIC_ACQUIRE);
    uint32_t nr_owners = 0;
    struct slab *slab = NULL;
    void *pages;
    bool zeroed = false;

    *error = shared ? 0 : memcg_charge(memcg, bytes, req);
    if (*error)
        return NULL;
    *error = -ENOMEM;
    if (shared) {
        nr_owners = s->objects / 8 < 8 ? 8 : s->objects / 8;
        if (nr_owners > MEMCG_MAX_OWNERS)
            nr_owners = MEMCG_MAX_OWNERS;
        meta += nr_owners * sizeof(struct slab_owner) + (s->objects + 7u) / 8 * 8;
    }
    if (s->user)
        meta += (s->objects + 63u) / 64 * 8;
    pages = alloc_pages(s->nr_pages, s->align > PAGE_SIZE ? s->align >> PAGE_SHIFT : 1,
                        shared ? MEMCG_TAG_SHARED : memcg->tag, &zeroed);
    if (pages)
        slab = metadata_alloc(meta);
    if (!slab) {
        if (pages)
            free_pages(pages, s->nr_pages);
        if (!shared)
            memcg_uncharge(memcg, bytes);
        return NULL;
    }
    memset(slab, 0, meta);
    slab->base = pages;
    slab->cache = s;
    slab->size = s->size;
    slab->objects = s->objects;
    slab->nr_pages = s->nr_pages;
    slab->shared = shared;
    if ((s->flags & KMEM_CACHE_ZERO) && !zeroed)
        memset(pages, 0, (size_t)s->nr_pages << PAGE_SHIFT);
    slab->zeroed = zeroed;
    slab->metadata_bytes = meta;
    char *tail = (char *)(slab + 1);
    if (shared) {
        slab->owners = (struct slab_owner *)tail;
        slab->nr_owners = nr_owners;
        tail += nr_owners * sizeof(struct slab_owner);
        slab->owner_of = (uint8_t *)tail;
        tail += (s->objects + 7u) / 8 * 8;
    } else {
        memcg_stat_add(memcg, STAT_PRIVATE, (int64_t)bytes);
    }
    if (s->user)
        slab->live = (uint64_t *)tail;
    slab->heap = heap;
    slab->owner = heap->thread;
    set_page_slab(pages, s->nr_pages, slab);
    mutex_lock(&s->lock);
    slab->cache_next = s->slabs;
    if (s->slabs)
        s->slabs->cache_prev = slab;
    s->slabs = slab;
    __atomic_store_n(&s->nr_slabs, s->nr_slabs + 1, __ATOMIC_RELAXED);
    mutex_unlock(&s->lock);
    *error = 0;
    return slab;
}

/* The owner.  Shared slabs are carved one by one: what is not carved may read as zero. */
void *slab_pop(struct slab *slab)
{
    void *object = slab->freelist;

    if (!object) {
        uint32_t n = slab->objects - slab->carved;
        uint32_t batch = slab->shared ? 1 : (uint32_t)(PAGE_SIZE / slab->size);

        if (!n)
            return NULL;
        batch = batch < 1 ? 1 : batch;
        n = n < batch ? n : batch;
        object = slab->base + (size_t)slab->carved * slab->size;
        for (uint32_t i = n; i-- > 1;) {
            void **rest = (void **)((char *)object + (size_t)i * slab->size);

            *rest = slab->freelist;
            slab->freelist = rest;
        }
        __atomic_store_n(&slab->carved, slab->carved + n, __ATOMIC_RELAXED);
    } else {
        slab->freelist = *(void **)object;
    }
    slab->inuse++;
    if (slab->live) {
        size_t i = (size_t)((char *)object - slab->base) / slab->size;

        __atomic_fetch_or(&slab->live[i / 64], 1ULL << (i % 64), __ATOMIC_RELAXED);
    }
    return object;
}

/* In the owner's section; without an owner under cache->lock. */
void slab_put(struct slab *slab, void *object)
{
    struct heap_slot *slot;
    struct slab **list;

    if (slab->shared)
        shared_release(slab, slab_object_index(slab, object));
    *(void **)object = slab->freelist;
    slab->freelist = object;
    slab->inuse--;
    if (slab->place == SLAB_ACTIVE)
        return;
    if (slab->heap) {
        slot = heap_slot(slab->heap, slab->cache->index, false);
        list = &slot->partial;
        if (slab->place == SLAB_FULL) {
            slab_list_del(&slot->full, slab);
            slab->place = SLAB_PARTIAL;
            slab_list_add(list, slab);
        }
        if (!slab->inuse) {
            slab_list_del(list, slab);
            slab_destroy(slab);
        }
        return;
    }
    list = &slab->cache->partial[slab->shared];
    if (slab->place == SLAB_NO_OWNER_FULL) {
        slab->place = SLAB_NO_OWNER_PARTIAL;
        slab_list_add(list, slab);
    }
    if (!slab->inuse) { /* the caller unlists and releases it */
        slab_list_del(list, slab);
    }
}

static int slab_free_no_owner(struct slab *slab, void *object)
{
    struct kmem_cache *s = slab->cache;
    struct obj_cgroup *objcg = s->objcg;
    bool empty;

    mutex_lock(&s->lock);
    if (__atomic_load_n(&slab->owner, __ATOMIC_RELAXED)) { /* adopted meanwhile */
        mutex_unlock(&s->lock);
        return -EAGAIN;
    }
    objcg_get(objcg);
    slab_put(slab, object);
    empty = !slab->inuse;
    if (empty)
        __slab_unlist(slab);
    mutex_unlock(&s->lock);
    if (empty)
        slab_release(slab, objcg);
    objcg_put(objcg);
    return 0;
}

/* In a section.  0, -EINVAL: not an object; -EALREADY: free (exact for users' caches). */
int slab_free(struct thread *self, struct slab *slab, void *object)
{
    long index = slab_object_index(slab, object);
    struct thread *owner;
    void *first;

    if (index < 0)
        return -EINVAL;
    if (slab->live) {
        uint64_t bit = 1ULL << (index % 64);

        if (!(__atomic_fetch_and(&slab->live[index / 64], ~bit, __ATOMIC_ACQ_REL) & bit))
            return -EALREADY;
    }
    owner = __atomic_load_n(&slab->owner, __ATOMIC_ACQUIRE);
    if (owner == self && slab->freelist == object)
        return -EALREADY;
    if (slab->shared)
        shared_uncharge(self, slab, index);
    while (!owner) {
        if (!slab_free_no_owner(slab, object))
            return 0;
        owner = __atomic_load_n(&slab->owner, __ATOMIC_ACQUIRE);
    }
    if (owner == self) {
        slab_put(slab, object);
        return 0;
    }
    first = __atomic_load_n(&slab->remote, __ATOMIC_RELAXED);
    do {
        *(void **)object = first;
    } while (!__atomic_compare_exchange_n(&slab->remote, &first, object, true, __ATOMIC_ACQ_REL,
                                          __ATOMIC_RELAXED));
    if (!first) { /* ours to list; pairs with heap_collect() */
        slab->next_remote = __atomic_load_n(&owner->remote_slabs, __ATOMIC_RELAXED);
        while (!__atomic_compare_exchange_n(&owner->remote_slabs, &slab->next_remote, slab, true,
                                            __ATOMIC_RELEASE, __ATOMIC_RELAXED))
            ;
    }
    return 0;
}

/* The active slab is full: its successor, from near to far.  NULL: *error. */
static struct slab *slab_refill(struct heap *heap, struct heap_slot *slot, struct kmem_cache *s,
                                bool shared, struct request *req, int *error)
{
    struct slab *slab;

    if (slot->active != &slab_none) {
        slot->active->place = SLAB_FULL;
        slab_list_add(&slot->full, slot->active);
        slot->active = &slab_none;
    }
    slab = slot->partial;
    if (slab) {
        slab_list_del(&slot->partial, slab);
    } else {
        mutex_lock(&s->lock);
        slab = s->partial[shared];
        if (slab) {
            slab_list_del(&s->partial[shared], slab);
            slab->heap = heap;
            slab->place = SLAB_ACTIVE;
            __atomic_store_n(&slab->owner, heap->thread, __ATOMIC_RELEASE);
        }
        mutex_unlock(&s->lock);
    }
    if (!slab)
        slab = slab_new(heap, s, shared, req, error);
    if (slab) {
        slab->place = SLAB_ACTIVE;
        slot->active = slab;
    }
    return slab;
}

/* In a section.  NULL: -ENOMEM, or req->want_reclaim is set. */
void *slab_alloc_slow(struct thread *self, struct heap *heap, struct kmem_cache *s, bool shared,
                      struct request *req)
{
    struct heap_slot *slot;
    void *object;
    int error = 0;

    if (__atomic_load_n(&self->remote_slabs, __ATOMIC_RELAXED))
        heap_collect(self);
    slot = heap_slot(heap, s->index, true);
    if (!slot)
        return NULL;
    if (slot->active != &slab_none) {
        object = slab_pop(slot->active);
        if (object)
            return object;
    }
    return slab_refill(heap, slot, s, shared, req, &error) ? slab_pop(slot->active) : NULL;
}
