/* SPDX-License-Identifier: Apache-2.0 */
/*
 * shared.c - small groups' objects in the root caches' slabs, each with its owner.
 *
 * For each object a byte beside the slab indexes the slab's owner table.  An entry holds a
 * reference to a stub while objects of it live.  The thread that frees an object credits its owner
 * at once.  The slab's owner updates the entry when the object is back in the slab.  Class bytes
 * are charged through the heap's stock.  Objects of the current group are taken from the shared
 * sheaf and freed into it (struct shared_sheaf).  Above promote_bytes the heap asks for a child.
 *
 * Kernel: obj_cgroup (mm/memcontrol.c, 2020).  Where we differ: a byte per object, not a pointer; a
 * cache of its own for a busy group (2014) instead of shared slabs for all.
 *
 * Locks: none.  The slab owner's section protects an owner table; without an owner, cache->lock
 * does.
 */
#include "shared.h"

#include "charge.h"
#include "debug.h"
#include "event.h"
#include "page_run.h"

#define ROOM_TRIES 8 /* partial slabs that are tried for room in the owner table */

/* Bytes: 16 small slabs, of which the last, partly used one is a small part. */
atomic_usize_t promote_bytes = { 256 * 1024 };
atomic_u16_t promote_allocs[NR_KMALLOC];
struct kmem_cache *kmalloc_caches[NR_KMALLOC];

void memcg_set_promote_bytes(size_t bytes) { store_relaxed(&promote_bytes, bytes); }

static bool grow_owners(struct slab *slab)
{
    uint32_t most = slab->objects < MEMCG_MAX_OWNERS ? slab->objects : MEMCG_MAX_OWNERS;

    if (slab->nr_owners >= most)
        return false;
    slab->more_owners = metadata_alloc((most - SLAB_OWNERS) * sizeof(struct slab_owner));
    if (!slab->more_owners)
        return false;
    slab->nr_owners = most;
    return true;
}

/* The entry for objcg, or one that is unused. -1: the table is full.  Once all live objects have
 * been counted, the remaining entries are unused. */
static int owner_index(struct slab *slab, struct obj_cgroup *objcg)
{
    struct slab_owner *owner = slab_owner_at(slab, slab->owner_hint);
    uint32_t left = slab->inuse;
    int unused = -1;

    if (owner->live ? owner->objcg == objcg : !left)
        return (int)slab->owner_hint;
    for (uint32_t i = 0; i < slab->nr_owners && (left || unused < 0); i++) {
        owner = slab_owner_at(slab, i);
        if (owner->live && owner->objcg == objcg)
            return (int)i;
        if (unused < 0 && !owner->live)
            unused = (int)i;
        left -= owner->live;
    }
    return unused < 0 && grow_owners(slab) ? (int)SLAB_OWNERS : unused;
}

static int stock_charge(struct heap *heap, int64_t bytes, struct request *req)
{
    int error;

    if (heap->stock < bytes) {
        if (bytes < MEMCG_BATCH && memcg_charge_ahead(heap->memcg, (size_t)MEMCG_BATCH)) {
            heap->stock += MEMCG_BATCH;
        } else {
            error = memcg_charge(heap->memcg, (size_t)bytes, req);
            if (error)
                return error;
            heap->stock += bytes;
        }
    }
    heap->stock -= bytes;
    return 0;
}

static void promote(struct heap *heap, struct kmem_cache *root)
{
    int id = load_relaxed(&heap->memcg->id);
    struct memcg_cache_array *array = load_acquire(&root->memcg_caches);
    struct event_node *node;
    atomic_u8_t *pending;

    if (!array || id < 0 || id >= array->nr_slots)
        return;
    pending = &array->pending[id];
    if (load_relaxed(pending) || !css_tryget(heap->memcg))
        return;
    if (!exchange_acq_rel(pending, 1)) {
        node = metadata_alloc(sizeof(*node));
        if (node) {
            event_post(node, MEMCG_EVENT_CREATE, heap->memcg, root);
            return;
        }
        store_release(pending, 0); /* no memory: a later allocation asks again */
    }
    css_put(heap->memcg);
}

/*
 * The active shared slab has a free object but no room in its owner table.  It moves to the partial
 * ones, and another slab that has both becomes active; if there is none, a new slab does.
 */
static struct slab *next_with_room(struct thread *self, struct kmem_cache *root,
                                   struct obj_cgroup *objcg, struct request *req)
{
    struct heap_slot *slot = heap_slot(self->shared_heap, root->index, true);
    struct slab *slab = hlist_first_entry(&slot->partial, struct slab, slab_list);
    int tries = 0;

    while (slab && owner_index(slab, objcg) < 0)
        slab = ++tries < ROOM_TRIES ? hlist_next_entry(slab, slab_list) : NULL;
    if (slab)
        hlist_del(&slab->slab_list);
    else
        slab = slab_new(self->shared_heap, root, true, req);
    if (slab) {
        slab_set_place(slot->active, SLAB_PARTIAL);
        hlist_add_head(&slot->active->slab_list, &slot->partial);
        slab_set_place(slab, SLAB_ACTIVE);
        slot->active = slab;
    }
    return slab;
}

/* A user's cache asks for a child at its first object. */
void count_unpromoted(struct heap *heap, struct kmem_cache *root, int64_t nr)
{
    struct shared_use *use;

    if (root->user) {
        if (nr > 0)
            promote(heap, root);
        return;
    }
    use = &heap->shared[root->index];
    if (use->objects + nr < 0) /* another thread allocated them */
        return;
    use->objects += (uint32_t)nr;
    if (nr > 0 && (++use->allocs >= load_relaxed(&promote_allocs[root->index]) ||
                   (size_t)use->objects * root->size > load_relaxed(&promote_bytes))) {
        use->allocs = 0;
        promote(heap, root);
    }
}

/* The sheaf ran empty, or over, since the thread entered the group.  Its limit doubles, up to the
 * share. */
static void grow_shared_limit(struct shared_use *use, uint32_t size)
{
    uint32_t share = use->allocs / SHARED_SHARE, most = SHARED_BYTES_MAX / size;
    uint32_t limit = use->limit, twice = limit ? 2 * limit : 1;

    most = most < SHARED_OBJECTS_MAX ? most : SHARED_OBJECTS_MAX;
    share = share < most ? share : most;
    share = share < twice ? share : twice;
    use->limit = (uint8_t)(share > limit ? share : limit);
}

static void give_back(struct thread *self, struct heap *heap, struct mem_cgroup *memcg,
                      struct kmem_cache *root, uint32_t nr)
{
    int64_t bytes = (int64_t)nr * root->size;

    if (heap)
        count_unpromoted(heap, root, -(int64_t)nr);
    memcg_stat_add(memcg, STAT_SHARED, -bytes);
    if (heap && heap == load_plain(&self->heap) && memcg != &root_mem_cgroup &&
        heap->stock + bytes <= MEMCG_BATCH)
        heap->stock += bytes;
    else
        memcg_uncharge(memcg, (size_t)bytes);
}

void shared_uncharge(struct thread *self, struct slab *slab, long index)
{
    struct obj_cgroup *objcg = slab_owner(slab, index)->objcg;
    struct mem_cgroup *memcg = load_acquire(&objcg->memcg);

    give_back(self, heap_lookup(self, memcg), memcg, slab->cache, 1);
}

/* The objects' group is the heap's, and it is online: sheaves are flushed before a heap is dropped.
 * Neighbours in the sheaf are often neighbours in a slab, in which the group has one entry. */
static void shared_flush_class(struct thread *self, int class)
{
    struct shared_sheaf *sheaf = &self->shared[class];
    struct kmem_cache *root = kmalloc_caches[class];
    void *first = sheaf->objects, *next;

    if (!first)
        return;
    give_back(self, load_plain(&self->heap), load_plain(&self->heap)->memcg, root, sheaf->nr);
    sheaf->objects = NULL;
    sheaf->nr = 0;
    for (; first; first = next) {
        struct slab *slab = virt_to_slab(first);
        void *last = first;
        uint32_t nr = 1;

        MEMCG_ASSERT(slab->shared && load_plain(&slab->owner) == self && slab->cache == root);
        while ((next = *(void **)last) && (size_t)((char *)next - slab->base) < slab->bytes) {
            last = next;
            nr++;
        }
        shared_release(slab, slab_index(slab, first), nr);
        slab_put(slab, first, last, nr);
    }
}

bool shared_free(struct thread *self, struct slab *slab, void *object)
{
    struct heap *heap = load_plain(&self->heap);
    int class = slab->cache->index;
    struct shared_use *use;
    struct shared_sheaf *sheaf;
    atomic_u8_t *owner;
    uint32_t entry;
    long index;

    assert_section(self);
    if (load_relaxed(&slab->owner) != self || slab->live)
        return false;
    use = &heap->shared[class];
    index = slab_object_index(slab, object);
    if (index < 0 || !use->limit)
        return false;
    owner = &slab->owner_of[index];
    entry = load_relaxed(owner);
    if (entry & OWNER_GONE || slab_owner_at(slab, entry)->objcg != heap->memcg->objcg ||
        fetch_or_acq_rel(owner, OWNER_GONE) & OWNER_GONE)
        return false;
    sheaf = &self->shared[class];
    if (unlikely(sheaf->nr >= use->limit)) {
        shared_flush_class(self, class);
        grow_shared_limit(use, slab->size);
    }
    *(void **)object = sheaf->objects;
    sheaf->objects = object;
    sheaf->nr++;
    self->shared_used |= 1ULL << class;
    return true;
}

void shared_flush(struct thread *self)
{
    assert_section(self);
    for (uint64_t used = self->shared_used; used; used &= used - 1) {
        int class = __builtin_ctzll(used);
        struct shared_use *use = &load_plain(&self->heap)->shared[class];

        if (self->shared[class].nr > use->limit / 2u) /* most of it was not needed */
            use->limit /= 2;
        shared_flush_class(self, class);
    }
    self->shared_used = 0;
}

void thread_collect(struct thread *self)
{
    slab_collect(self);
    shared_flush(self);
}

/* An object of whole pages wastes nothing as a page run, while a shared slab of such objects would
 * be mostly empty. */
static void *alloc_alone(struct thread *self, struct kmem_cache *root, struct request *req)
{
    struct page_run *run = run_alloc(self, req);

    if (!run)
        return NULL;
    run->run_for = root;
    count_unpromoted(load_plain(&self->heap), root, 1);
    return run->slab.base;
}

/* Takes more objects of the slab for entry i: as many as the sheaf may hold and the stock pays for.
 * Returns their number. */
static uint32_t shared_refill(struct thread *self, struct slab *slab, uint32_t i)
{
    struct kmem_cache *root = slab->cache;
    struct heap *heap = load_plain(&self->heap);
    struct shared_use *use;
    struct shared_sheaf *sheaf;
    void **tail, *object;
    uint32_t nr = 0;

    /* user caches, and checked objects (MEMCG_DEBUG), whose use is tracked one by one */
    if (slab->live)
        return 0;
    use = &heap->shared[root->index];
    sheaf = &self->shared[root->index];
    if (sheaf->objects) /* shared_pop() refused them so that a child is asked for */
        return 0;
    if (self->shared_used & 1ULL << root->index)
        grow_shared_limit(use, root->size);
    self->shared_used |= 1ULL << root->index;
    tail = &sheaf->objects;
    while (nr < use->limit && heap->stock >= root->size) {
        uint32_t n;

        if ((object = slab->freelist)) {
            slab->freelist = *(void **)object;
            n = slab_index(slab, object);
        } else if ((n = load_plain(&slab->carved)) < slab->objects) {
            object = slab->base + (size_t)n * slab->size;
            store_relaxed(&slab->carved, n + 1);
        } else {
            break;
        }
        store_relaxed(&slab->owner_of[n], (uint8_t)(i | OWNER_GONE));
        memset(object, 0, root->object_size);
        heap->stock -= root->size;
        *tail = object;
        tail = object;
        nr++;
    }
    slab->inuse += nr;
    slab_owner_at(slab, i)->live += nr;
    *tail = NULL;
    sheaf->nr = nr;
    return nr;
}

void *shared_alloc(struct thread *self, struct kmem_cache *root, struct request *req)
{
    struct heap *heap = load_plain(&self->heap);
    struct obj_cgroup *objcg = heap->memcg->objcg;
    struct slab_owner *owner;
    struct slab *slab;
    uint32_t nr;
    char *object;
    int i = -1;

    assert_section(self);
    if (root->object_size % PAGE_SIZE == 0 && !req->object)
        return alloc_alone(self, root, req);
    if (stock_charge(heap, root->size, req))
        return NULL;
    slab = slab_active(self, self->shared_heap, root, true, req);
    if (slab)
        i = owner_index(slab, objcg);
    if (slab && i < 0) {
        slab = next_with_room(self, root, objcg, req);
        i = slab ? owner_index(slab, objcg) : -1;
    }
    if (!slab) {
        heap->stock += root->size;
        return NULL;
    }
    object = slab_pop(slab);
    if (unlikely(slab_debug))
        debug_check_free(slab, object);
    slab->owner_hint = (uint32_t)i;
    owner = slab_owner_at(slab, (uint32_t)i);
    if (!owner->live++) {
        objcg_get(objcg);
        owner->objcg = objcg;
    }
    store_relaxed(&slab->owner_of[slab_index(slab, object)], (uint8_t)i);
    /* The memory may hold another group's bytes. */
    memset(object, 0, root->object_size);
    if (unlikely(slab_debug))
        debug_alloc(slab, object, req->bytes, true);
    nr = 1 + shared_refill(self, slab, (uint32_t)i);
    memcg_stat_add(heap->memcg, STAT_SHARED, (int64_t)nr * root->size);
    count_unpromoted(heap, root, nr);
    return object;
}
