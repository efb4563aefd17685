/* SPDX-License-Identifier: Apache-2.0 */
/*
 * slab.c - slabs: pages cut into objects of one cache.
 *
 * Objects are carved a page at a time, so a fresh slab is not touched.  The owner thread pops and
 * pushes the freelist.  For size classes it mostly uses the sheaf that the heap's slot has for all
 * its slabs (sheaf.h).  Other threads push to `remote` with one CAS, and the thread that finds it
 * empty adds the slab to its owner's list.  The lock of the cache protects a slab without an owner.
 * An owner is set under that lock, and cleared only while all threads are stolen.  So a thread that
 * frees may rely on the owner that it has read until its section ends.
 *
 * Kernel: mm/slub.c (sheaves: 2025).  Where we differ: descriptors lie outside; objects that other
 * threads free wait for the owner; user caches detect each double free (a byte per object).
 *
 * Locks: cache->lock.
 */
#include "slab.h"

#include "charge.h"
#include "debug.h"
#include "event.h"
#include "page_alloc.h"

/* pages of a cache: up to here its slabs are single pages, up to four times as many they are
 * double */
#define SMALL_CACHE 16
/* Empty slabs that a heap keeps of a cache until memory is short (the kernel's MAX_PARTIAL).  It
 * keeps one of a size class, and more if slabs are given back and made again and again. */
#define KEEP_EMPTY 1
#define KEEP_EMPTY_SWINGS 8
#define KEEP_EMPTY_BYTES ((size_t)4 << 20)
#define KEEP_EMPTY_USER 10
#define ANEW_MAX_SIZE 512 /* bytes; larger objects have few neighbours in the cache */
#define COLOUR 48         /* bytes: a cache line less the head of a collected CPython object */

void slab_set_place(struct slab *slab, enum slab_place place)
{
    bool fast = place <= SLAB_FULL && !slab->shared && !slab->live;

    slab->place = place;
    slab->last = place == SLAB_FULL ? slab->objects : place == SLAB_PARTIAL;
    store_relaxed(&slab->fast, fast ? load_plain(&slab->owner) : NULL);
}

bool slab_is_valid(const struct slab *slab)
{
    uint32_t carved = load_plain(&slab->carved), nr_free = 0, live = 0;

    for (void *p = slab->freelist; p && nr_free <= carved; p = get_freepointer(p), nr_free++)
        if (slab_object_index(slab, p) < 0)
            return false;
    for (uint32_t i = 0; i < slab->nr_owners; i++)
        live += slab_owner_at(slab, i)->live;
    return carved <= slab->objects && slab->inuse == carved - nr_free &&
           (!slab->shared || live == slab->inuse) &&
           (slab->place != SLAB_EMPTY || slab->inuse == 0) &&
           (slab->place != SLAB_FULL || slab->inuse == slab->objects) &&
           (slab->place != SLAB_PARTIAL || (slab->inuse && slab->inuse < slab->objects)) &&
           (slab->place < SLAB_NO_OWNER_FULL) == (load_plain(&slab->owner) != NULL) &&
           (!load_plain(&slab->fast) || slab->slot == frees_slot(slab->heap, slab->cache->index));
}

void __slab_unlist(struct slab *slab)
{
    struct kmem_cache *s = slab->cache;

    assert_locked(&slab->cache->lock);
    hlist_del(&slab->cache_node);
    store_relaxed(&s->nr_slabs, load_plain(&s->nr_slabs) - 1);
    store_relaxed(&s->total_pages, load_plain(&s->total_pages) - slab->nr_pages);
    if (!load_plain(&s->nr_slabs) && s->memcg && load_acquire(&s->dead)) {
        /* a reference for the receiver; the child still holds one, so there is a group */
        css_get(s->memcg);
        if (!event_post(&s->empty, MEMCG_EVENT_EMPTY, s->memcg, s))
            css_put(s->memcg);
    }
}

/*
 * Pages may be given to other groups only if every object has been freed once (slab->free_sum).
 * The list is not walked: objects that were freed in no order miss the cache at each step.
 */
static void slab_check_whole(const struct slab *slab)
{
    uint64_t n = load_plain(&slab->carved), step = slab->size;

    if (unlikely(slab_debug))
        debug_check_slab(slab);
    if (slab->live || slab->shared) /* these track each object */
        return;
    if (n && slab->free_sum != step * step * ((n - 1) * n * (2 * n - 1) / 6))
        slab_bug(slab, slab->freelist, "Freelist corrupt (freed twice)");
}

void slab_release(struct slab *slab, struct obj_cgroup *objcg)
{
    slab_check_whole(slab);
    if (!slab->shared) {
        struct mem_cgroup *memcg = load_acquire(&objcg->memcg);
        size_t bytes = (size_t)slab->nr_pages << PAGE_SHIFT;

        memcg_stat_add(memcg, STAT_PRIVATE, -(int64_t)bytes);
        memcg_uncharge(memcg, bytes);
    }
    set_page_slab(slab->base, slab->nr_pages, NULL);
    free_pages(arena.base + (arena_page(slab->base) << PAGE_SHIFT), slab->nr_pages);
    if (slab->more_owners)
        metadata_free(slab->more_owners,
                      (slab->nr_owners - SLAB_OWNERS) * sizeof(struct slab_owner));
    metadata_free(slab, slab->metadata_bytes);
}

void slab_destroy(struct slab *slab)
{
    struct kmem_cache *s = slab->cache;
    struct obj_cgroup *objcg = s->objcg; /* s may be freed once it has no slab */

    MEMCG_ASSERT(!slab->inuse && !load_plain(&slab->remote) && slab_is_valid(slab));
    objcg_get(objcg);
    mutex_lock(&s->lock);
    __slab_unlist(slab);
    mutex_unlock(&s->lock);
    slab_release(slab, objcg);
    objcg_put(objcg);
}

size_t slab_drop(struct slab *slab)
{
    size_t nr_pages = slab->nr_pages;

    slab_destroy(slab);
    return nr_pages;
}

/* User caches have no sheaf, and their slots move when a heap gets more of them. */
static void slab_set_heap(struct slab *slab, struct heap *heap)
{
    slab->heap = heap;
    slab->slot = slab->live ? NULL : frees_slot(heap, slab->cache->index);
}

/*
 * Shared slabs are small, so that the objects of one group, which are made and freed together, fill
 * slabs and free them again.  The first slabs of a cache are small too, because most caches of
 * groups never have more.
 */
static uint32_t slab_pages(const struct kmem_cache *s, bool shared)
{
    long total = load_relaxed(&s->total_pages); /* racy: a hint */
    uint32_t nr_pages = shared || total < SMALL_CACHE ? 1 : total < 4 * SMALL_CACHE ? 2 : 4;

    if (s->user)
        return s->nr_pages;
    while (nr_pages < s->nr_pages && (nr_pages << PAGE_SHIFT) / s->size < (shared ? 2 : 8))
        nr_pages *= 2;
    return nr_pages < s->nr_pages ? nr_pages : s->nr_pages;
}

/*
 * Bytes before the first object.  Python's collector follows the list in the objects' heads, 16
 * bytes each.  If a head ends a cache line, its object lies in the next line, together with the
 * next object's head.  So that head is cached before the collector gets to it.  Kernel: mm/slab.c's
 * colour, which rotated.
 */
static uint32_t slab_colour(const struct kmem_cache *s, uint32_t nr_pages, bool shared)
{
    if (s->user || shared || s->size > COLOUR_MAX_SIZE)
        return 0;
    return nr_pages > 1 || (nr_pages << PAGE_SHIFT) % s->size >= COLOUR ? COLOUR : 0;
}

struct slab *slab_new(struct heap *heap, struct kmem_cache *s, bool shared, struct request *req)
{
    uint32_t nr_pages = slab_pages(s, shared), nr_owners = 0;
    uint32_t colour = slab_colour(s, nr_pages, shared);
    uint32_t objects = (uint32_t)((((size_t)nr_pages << PAGE_SHIFT) - colour) / s->size);
    size_t bytes = (size_t)nr_pages << PAGE_SHIFT, meta = sizeof(struct slab);
    struct mem_cgroup *memcg = load_acquire(&s->objcg->memcg);
    struct slab *slab = NULL;
    void *pages;
    bool zeroed = s->flags & KMEM_CACHE_ZERO;

    assert_section(heap->thread);
    if (!shared && memcg_charge(memcg, bytes, req))
        return NULL;
    if (shared) {
        nr_owners = objects < SLAB_OWNERS ? objects : SLAB_OWNERS;
        meta += nr_owners * sizeof(struct slab_owner) + (objects + 7u) / 8 * 8;
    }
    if (s->user || slab_debug)
        meta += (objects + 7u) / 8 * 8;
    pages = alloc_pages(nr_pages, s->align > PAGE_SIZE ? s->align >> PAGE_SHIFT : 1,
                        shared ? MEMCG_TAG_SHARED : memcg->tag, &zeroed);
    if (pages)
        slab = metadata_alloc(meta);
    if (!slab) {
        if (pages)
            free_pages(pages, nr_pages);
        if (!shared)
            memcg_uncharge(memcg, bytes);
        if (!req->reclaimed)
            req->want_reclaim = &root_mem_cgroup;
        return NULL;
    }
    slab->base = (char *)pages + colour;
    slab->cache = s;
    slab->size = s->size;
    slab->reciprocal = UINT64_MAX / s->size + 1;
    slab->objects = objects;
    slab->bytes = s->size * objects;
    slab->nr_pages = nr_pages;
    slab->shared = shared;
    slab->metadata_bytes = meta;
    char *tail = (char *)(slab + 1);
    if (shared) {
        slab->owners = (struct slab_owner *)tail;
        slab->nr_owners = nr_owners;
        tail += nr_owners * sizeof(struct slab_owner);
        slab->owner_of = (atomic_u8_t *)tail;
        tail += (objects + 7u) / 8 * 8;
    } else {
        memcg_stat_add(memcg, STAT_PRIVATE, (int64_t)bytes);
    }
    if (s->user || slab_debug)
        slab->live = (atomic_u8_t *)tail;
    slab_set_heap(slab, heap);
    store_plain(&slab->owner, heap->thread);
    slab_set_place(slab, SLAB_ACTIVE);
    set_page_slab(pages, nr_pages, slab);
    mutex_lock(&s->lock);
    hlist_add_head(&slab->cache_node, &s->slabs);
    store_relaxed(&s->nr_slabs, load_plain(&s->nr_slabs) + 1);
    store_relaxed(&s->total_pages, load_plain(&s->total_pages) + slab->nr_pages);
    mutex_unlock(&s->lock);
    return slab;
}

/* Cuts the next n objects and returns the first, which is not put on the list. */
static char *slab_carve(struct slab *slab, uint32_t n)
{
    char *first = slab->base + (size_t)load_plain(&slab->carved) * slab->size;

    for (uint32_t i = n; i-- > 1;) {
        char *rest = first + (size_t)i * slab->size;

        set_freepointer(rest, slab->freelist);
        slab->freelist = rest;
    }
    store_relaxed(&slab->carved, load_plain(&slab->carved) + n);
    return first;
}

/* For the slab's owner.  NULL: the slab is full.  Shared slabs are carved one by one, because their
 * objects are cleared anyway. */
void *slab_pop(struct slab *slab)
{
    void *object = slab->freelist;

    assert_slab(slab);
    if (unlikely(slab_debug & SLAB_CONSISTENCY_CHECKS) && !slab_is_valid(slab))
        slab_bug(slab, object, "free list, counts and list of the slab do not agree");
    if (object) {
        slab->freelist = get_freepointer(object);
    } else {
        uint32_t carved = load_plain(&slab->carved), left = slab->objects - carved;
        uint32_t batch = slab->shared             ? 1
                         : slab->touched > carved ? slab->touched - carved
                                                  : (uint32_t)(PAGE_SIZE / slab->size);

        if (!left)
            return NULL;
        batch = batch < 1 ? 1 : batch;
        batch = left < batch ? left : batch;
        object = unlikely(slab_debug) ? debug_carve(slab, left, batch) : slab_carve(slab, batch);
    }
    slab->inuse++;
    if (slab->live)
        store_relaxed(&slab->live[slab_index(slab, object)], 1);
    return object;
}

static uint32_t keep_empty(const struct heap_slot *slot, const struct slab *slab)
{
    uint32_t more = slot->swings > KEEP_EMPTY_SWINGS ? 4u * (slot->swings - KEEP_EMPTY_SWINGS) : 0;
    uint32_t most = (uint32_t)(KEEP_EMPTY_BYTES >> PAGE_SHIFT) / slab->nr_pages;

    if (slab->cache->user)
        return KEEP_EMPTY_USER;
    return KEEP_EMPTY + (more < most ? more : most);
}

/* An empty slab is cut again from its start, so that new objects lie in order, whatever the order
 * of the frees was.  Kernel: it has nothing alike; CPython's allocator gives an empty pool back and
 * cuts the next one in order. */
static void slab_begin_anew(struct slab *slab)
{
    slab_check_whole(slab);
    if (load_plain(&slab->carved) > slab->touched)
        slab->touched = load_plain(&slab->carved);
    store_relaxed(&slab->carved, 0);
    slab->freelist = NULL;
    slab->free_sum = 0;
}

/* slab is owned and on no list, and its last object has been freed. */
static void slab_emptied(struct heap_slot *slot, struct slab *slab)
{
    slab_set_place(slab, SLAB_EMPTY);
    if (slab->shared || slot->nr_empty >= keep_empty(slot, slab)) {
        slot->gave_back = true;
        slab_destroy(slab);
    } else {
        hlist_add_head(&slab->slab_list, &slot->empty);
        slot->nr_empty++;
        if (!slab->live && slab->size <= ANEW_MAX_SIZE)
            slab_begin_anew(slab);
    }
}

void slab_put_moved(struct slab *slab)
{
    struct heap_slot *slot;
    bool was_full = slab->place == SLAB_FULL || slab->place == SLAB_NO_OWNER_FULL;

    if (!slab->heap) {
        if (!slab->inuse && !was_full)
            hlist_del(&slab->slab_list);
        if (slab->inuse && was_full) {
            hlist_add_head(&slab->slab_list, &slab->cache->partial[slab->shared]);
            slab_set_place(slab, SLAB_NO_OWNER_PARTIAL);
        }
        return;
    }
    slot = heap_slot(slab->heap, slab->cache->index, false);
    if (was_full || !slab->inuse)
        hlist_del(&slab->slab_list);
    if (!slab->inuse) {
        slab_emptied(slot, slab);
    } else if (was_full) {
        hlist_add_head(&slab->slab_list, &slot->partial);
        slab_set_place(slab, SLAB_PARTIAL);
    }
}

void slab_put_chain(struct slab *slab, void *first)
{
    void *last = first;
    uint32_t nr = 1;

    MEMCG_ASSERT(first);
    slab->free_sum += slab_sum(slab, first);
    for (void *next; (next = get_freepointer(last)); last = next) {
        if (unlikely(nr++ > slab->inuse))
            slab_bug(slab, last, "Object already free");
        slab->free_sum += slab_sum(slab, next);
    }
    if (slab->shared)
        for (void *p = first; p; p = get_freepointer(p))
            shared_release(slab, slab_index(slab, p), 1);
    slab_put(slab, first, last, nr);
}

/* The active slab is full.  Picks its successor, a partial slab rather than an empty one. */
struct slab *slab_next(struct heap_slot *slot)
{
    struct slab *slab = hlist_first_entry(&slot->partial, struct slab, slab_list);

    if (slab) {
        hlist_del(&slab->slab_list);
    } else if ((slab = hlist_first_entry(&slot->empty, struct slab, slab_list))) {
        hlist_del(&slab->slab_list);
        slot->nr_empty--;
    }
    if (slot->active != &slab_none) {
        slab_set_place(slot->active, SLAB_FULL);
        hlist_add_head(&slot->active->slab_list, &slot->full);
        slot->active = &slab_none;
    }
    if (slab) {
        slab_set_place(slab, SLAB_ACTIVE);
        slot->active = slab;
        MEMCG_ASSERT(slab_is_valid(slab) && slab->inuse < slab->objects);
    }
    return slab;
}

static struct slab *slab_refill(struct heap *heap, struct heap_slot *slot, struct kmem_cache *s,
                                bool shared, struct request *req)
{
    struct slab *slab = slab_next(slot);

    if (slab)
        return slab;
    mutex_lock(&s->lock);
    slab = hlist_first_entry(&s->partial[shared], struct slab, slab_list);
    if (slab) {
        hlist_del(&slab->slab_list);
        slab_set_heap(slab, heap);
        store_release(&slab->owner, heap->thread);
    }
    mutex_unlock(&s->lock);
    if (!slab) {
        if (slot->gave_back && slot->swings < UINT8_MAX)
            slot->swings++;
        slot->gave_back = false;
        slab = slab_new(heap, s, shared, req);
    }
    if (slab) {
        slab_set_place(slab, SLAB_ACTIVE);
        slot->active = slab;
        MEMCG_ASSERT(slab_is_valid(slab) && slab->inuse < slab->objects);
    }
    return slab;
}

struct slab *slab_active(struct thread *self, struct heap *heap, struct kmem_cache *s, bool shared,
                         struct request *req)
{
    struct heap_slot *slot;
    struct slab *slab;

    assert_section(self);
    if (load_relaxed(&self->remote_slabs))
        slab_collect(self);
    slot = heap_slot(heap, s->index, true);
    if (!slot)
        return NULL;
    slab = slot->active;
    if (slab->freelist || load_plain(&slab->carved) < slab->objects)
        return slab;
    return slab_refill(heap, slot, s, shared, req);
}

/* Takes in what other threads freed.  A slab leaves the list before `remote` is taken, so the next
 * thread that frees finds NULL and lists it again.  The release says that our read of next_remote
 * is over. */
void slab_collect(struct thread *self)
{
    struct slab *slab = exchange_acquire(&self->remote_slabs, NULL);

    assert_section(self);
    while (slab) {
        struct slab *next = slab->next_remote;

        slab_put_chain(slab, exchange_acq_rel(&slab->remote, NULL));
        slab = next; /* its last object may have destroyed the slab */
    }
}

void slab_hand_over(struct slab *slab)
{
    struct kmem_cache *s = slab->cache;

    assert_walker();
    MEMCG_ASSERT(slab_is_valid(slab) && !load_plain(&slab->remote));
    if (!slab->inuse) {
        slab_destroy(slab);
        return;
    }
    mutex_lock(&s->lock);
    slab->heap = NULL;
    slab_set_place(slab, SLAB_NO_OWNER_FULL);
    if (slab->inuse < slab->objects) {
        slab_set_place(slab, SLAB_NO_OWNER_PARTIAL);
        hlist_add_head(&slab->slab_list, &s->partial[slab->shared]);
    }
    store_release(&slab->owner, NULL);
    mutex_unlock(&s->lock);
}
