/*
 * slab.c - slabs: pages cut into objects of one cache.
 *
 * Objects are carved a page at a time, so a fresh slab is not touched.  The owner
 * thread pops and pushes the freelist, for size classes mostly through the sheaf that the
 * heap's slot has for all its slabs (inline.h); others push to `remote` with one CAS, and
 * the thread that finds it empty lists the slab with its owner.  A slab without an owner is
 * the cache lock's.  An owner appears under that lock, and goes only while all
 * threads are stolen, so a freer that read it may rely on it until its section ends.
 *
 * Kernel: mm/slub.c (sheaves: 2025).  Where we differ: descriptors lie outside; frees from afar
 * wait for the owner; exact double-free detection for users' caches (a byte per object).
 *
 * Locks: cache->lock.
 */
#include "inline.h"

#define SMALL_CACHE 16  /* pages: slabs are single pages up to here, double pages up to four times it */
/* Empty slabs that a heap keeps of a cache until it is asked for memory (MAX_PARTIAL): of a size
 * class one, and more where slabs go and are made again and again. */
#define KEEP_EMPTY 1
#define KEEP_EMPTY_SWINGS 8
#define KEEP_EMPTY_BYTES ((size_t)4 << 20)
#define KEEP_EMPTY_USER 10
#define ANEW_MAX_SIZE 512 /* larger objects have few neighbours to be fetched with */
#define COLOUR 48 /* a line but for the head of a CPython object that is collected */

void slab_set_place(struct slab *slab, enum slab_place place)
{
    bool fast = place <= SLAB_FULL && !slab->shared && !slab->live;

    slab->place = place;
    slab->last = place == SLAB_FULL ? slab->objects : place == SLAB_PARTIAL;
    store_relaxed(&slab->fast, fast ? load_plain(&slab->owner) : NULL);
}

/* Owner's section, stolen, or cache->lock. */
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
           (!load_plain(&slab->fast) || slab->slot == &slab->heap->kmalloc[slab->cache->index]);
}

#ifdef MEMCG_DEBUG_VM
static bool sheaf_is_valid(const struct heap_slot *slot)
{
    int32_t nr = 0;

    for (void *p = slot->sheaf; p; p = *(void **)p, nr++) {
        struct slab *slab = virt_to_slab(p);

        if (!slab || slab->slot != slot || !load_plain(&slab->fast) ||
            load_plain(&slab->fast) != load_plain(&slab->owner) ||
            slab_object_index(slab, p) < 0 || (uint32_t)nr > slab->objects + SHEAF_OBJECTS_MAX)
            return false;
    }
    return slot->sheaf_room + nr == slot->sheaf_limit || (!nr && !slot->sheaf_room);
}
#endif

/* cache->lock held. */
static void __slab_unlist(struct slab *slab)
{
    struct kmem_cache *s = slab->cache;

    hlist_del(&slab->cache_node);
    store_relaxed(&s->nr_slabs, load_plain(&s->nr_slabs) - 1);
    store_relaxed(&s->total_pages, load_plain(&s->total_pages) - slab->nr_pages);
    if (!load_plain(&s->nr_slabs) && s->memcg && load_acquire(&s->dead)) {
        css_get(s->memcg); /* the receiver's; there is one: a child holds one till it ends */
        if (!event_post(&s->empty, MEMCG_EVENT_EMPTY, s->memcg, s))
            css_put(s->memcg);
    }
}

/*
 * Pages go to other groups only when every object has been freed once (slab->free_sum).  The list is
 * not walked: objects that were freed in no order miss the cache at each step.
 */
static void slab_check_whole(const struct slab *slab)
{
    uint64_t n = load_plain(&slab->carved), step = slab->size;

    if (unlikely(slab_debug))
        debug_check_slab(slab);
    if (slab->live || slab->shared) /* which know of each object */
        return;
    if (n && slab->free_sum != step * step * ((n - 1) * n * (2 * n - 1) / 6))
        slab_bug(slab, slab->freelist, "Freelist corrupt (freed twice)");
}

/* Off every list; the pages and the charge go back. */
static void slab_release(struct slab *slab, struct obj_cgroup *objcg)
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
        metadata_free(slab->more_owners, (slab->nr_owners - SLAB_OWNERS) * sizeof(struct slab_owner));
    metadata_free(slab, slab->metadata_bytes);
}

void slab_destroy(struct slab *slab)
{
    struct kmem_cache *s = slab->cache;
    struct obj_cgroup *objcg = s->objcg; /* s may end once it has no slab */

    MEMCG_ASSERT(!slab->inuse && !load_plain(&slab->remote) && slab_is_valid(slab));
    objcg_get(objcg);
    mutex_lock(&s->lock);
    __slab_unlist(slab);
    mutex_unlock(&s->lock);
    slab_release(slab, objcg);
    objcg_put(objcg);
}

/* User caches' slots move when a heap gets more of them; they have no sheaf. */
static void slab_set_heap(struct slab *slab, struct heap *heap)
{
    slab->heap = heap;
    slab->slot = slab->live ? NULL : &heap->kmalloc[slab->cache->index];
}

/*
 * Shared slabs are small: the objects of one group, made and ended together, fill them and go.  So
 * are the first slabs of a cache, for most caches of groups never have more.
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
 * Bytes before the first object.  Python's collector runs along the list in the objects' heads, 16
 * bytes each.  A head that ends a line has its object in the next line, where the next object's head
 * is: that is there before the run comes to it.  Kernel: mm/slab.c's colour, which took turns.
 */
static uint32_t slab_colour(const struct kmem_cache *s, uint32_t nr_pages, bool shared)
{
    if (s->user || shared || s->size > COLOUR_MAX_SIZE)
        return 0;
    return nr_pages > 1 || (nr_pages << PAGE_SHIFT) % s->size >= COLOUR ? COLOUR : 0;
}

/* NULL: no memory, or req->want_reclaim is set. */
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

/* Cuts the next n objects; the first is not on the list. */
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

/* The owner.  NULL: full.  Shared slabs are carved one by one: objects are cleared anyway. */
void *slab_pop(struct slab *slab)
{
    void *object = slab->freelist;

    if (unlikely(slab_debug & SLAB_CONSISTENCY_CHECKS) && !slab_is_valid(slab))
        slab_bug(slab, object, "free list, counts and list of the slab do not agree");
    if (object) {
        slab->freelist = get_freepointer(object);
    } else {
        uint32_t left = slab->objects - load_plain(&slab->carved);
        uint32_t batch = slab->shared                   ? 1
                         : slab->touched > load_plain(&slab->carved) ? slab->touched - load_plain(&slab->carved)
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

/* So that what comes next lies in order, whatever the order of the frees was.  Kernel: nothing alike;
 * CPython's allocator gives an empty pool back and cuts the next one in order. */
static void slab_begin_anew(struct slab *slab)
{
    slab_check_whole(slab);
    if (load_plain(&slab->carved) > slab->touched)
        slab->touched = load_plain(&slab->carved);
    store_relaxed(&slab->carved, 0);
    slab->freelist = NULL;
    slab->free_sum = 0;
}

/* An owned slab, on no list, whose last object is gone. */
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

/* In the owner's section; without an owner under cache->lock, and an empty slab is the
 * caller's to unlist and release.  free_sum has the chain already. */
void slab_put(struct slab *slab, void *first, void *last, uint32_t nr)
{
    struct heap_slot *slot;
    bool was_full;

    if (unlikely(slab->inuse < nr))
        slab_bug(slab, first, "Object already free");
    set_freepointer(last, slab->freelist);
    slab->freelist = first;
    slab->inuse -= nr;
    if (slab->place == SLAB_ACTIVE)
        return;
    was_full = slab->place == SLAB_FULL || slab->place == SLAB_NO_OWNER_FULL;
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

static void slab_put_one(struct slab *slab, void *object)
{
    if (slab->shared)
        shared_release(slab, slab_index(slab, object), 1);
    slab->free_sum += slab_sum(slab, object);
    slab_put(slab, object, object, 1);
}

void *sheaf_refill(struct heap_slot *slot, struct slab *slab)
{
    void *object = slab_pop(slab);

    MEMCG_ASSERT(!slot->sheaf && slab->slot == slot && slab == slot->active);
    if (slot->overflow) {
        uint16_t most = sheaf_limit_max(slab->size);

        slot->sheaf_limit = slot->sheaf_limit < most / 2 ? 2 * slot->sheaf_limit : most;
    }
    slot->overflow = 0;
    slot->sheaf = slab->freelist;
    slot->sheaf_room = slot->sheaf_limit - (int32_t)(load_plain(&slab->carved) - slab->inuse);
    slab->freelist = NULL;
    slab->free_sum = 0;
    slab->inuse = load_plain(&slab->carved);
    MEMCG_ASSERT(sheaf_is_valid(slot));
    return object;
}

/* Neighbours in the sheaf are often neighbours in a slab: they go as one chain. */
void sheaf_flush(struct heap_slot *slot)
{
    void *first = slot->sheaf;
    int32_t left = slot->sheaf_limit - slot->sheaf_room;

    MEMCG_ASSERT(sheaf_is_valid(slot));
    slot->sheaf = NULL;
    while (first) {
        struct slab *slab = virt_to_slab(first);
        void *last = first, *next;
        uint32_t nr = 1;

        slab->free_sum += slab_sum(slab, first);
        while ((next = *(void **)last) && (size_t)((char *)next - slab->base) < slab->bytes) {
            last = next;
            slab->free_sum += slab_sum(slab, next);
            if (unlikely(nr++ == (uint32_t)left))
                slab_bug(slab, last, "Object already free");
        }
        left -= (int32_t)nr;
        if (unlikely(!next && left)) /* what is freed past a full sheaf has another list */
            slab_bug(slab, last, "Object already free");
        slab_put(slab, first, last, nr);
        first = next;
    }
    slot->sheaf_room = slot->sheaf_limit = slot->sheaf_start;
    slot->overflow = 0;
}

/* Until the refill all frees go to their slabs. */
static void sheaf_give_up(struct heap_slot *slot)
{
    uint16_t limit = slot->sheaf_limit;

    sheaf_flush(slot);
    slot->sheaf_limit = limit;
    slot->sheaf_room = 0;
    slot->overflow = SHEAF_OVERFLOW;
}

static int slab_free_no_owner(struct slab *slab, void *object)
{
    struct kmem_cache *s = slab->cache;
    struct obj_cgroup *objcg = s->objcg;
    bool empty;

    mutex_lock(&s->lock);
    if (load_relaxed(&slab->owner)) { /* adopted meanwhile */
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

/* In a section.  0, -EINVAL: not an object; -EALREADY: free (exact for users' caches). */
int slab_free(struct thread *self, struct slab *slab, void *object)
{
    long index = slab_object_index(slab, object);
    struct thread *owner;
    void *first;

    if (index < 0)
        return -EINVAL;
    if (slab->live && !exchange_acq_rel(&slab->live[index], 0))
        return -EALREADY;
    if (slab->shared && shared_free(self, slab, object))
        return 0;
    if (slab->shared &&
        fetch_or_acq_rel(&slab->owner_of[index], OWNER_GONE) & OWNER_GONE)
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
    if (!first) { /* ours to list; pairs with heap_collect() */
        slab->next_remote = load_relaxed(&owner->remote_slabs);
        while (!cas_weak_release(&owner->remote_slabs, &slab->next_remote, slab))
            ;
    }
    return 0;
}

/* The active slab is full: its successor, from near to far. */
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

/* In a section: an active slab with a free object.  NULL: no memory, or req->want_reclaim. */
struct slab *slab_active(struct thread *self, struct heap *heap, struct kmem_cache *s, bool shared,
                         struct request *req)
{
    struct heap_slot *slot;
    struct slab *slab;

    if (load_relaxed(&self->remote_slabs))
        heap_collect(self);
    slot = heap_slot(heap, s->index, true);
    if (!slot)
        return NULL;
    slab = slot->active;
    if (slab->freelist || load_plain(&slab->carved) < slab->objects)
        return slab;
    return slab_refill(heap, slot, s, shared, req);
}
