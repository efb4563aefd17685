/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kmem_cache.c - caches: their life, their lookup by kmemcg_id, their figures.
 *
 * A root cache serves the root group from private slabs, and small groups from shared ones.  A
 * child serves one group. memcg_caches is published with a release store and read with one acquire
 * load.  When it grows, the old array is kept until the root ends.
 *
 * Kernel: mm/slab_common.c, memcg_update_cache_size (2014).  Where we differ: retired arrays
 * instead of RCU; code that walks slabs steals all threads first.
 *
 * Locks: caches_lock: all_caches and the indices.
 */
#include "kmem_cache.h"

#include "debug.h"
#include "fault.h"
#include "free.h"
#include "publish.h"
#include "reclaim.h"
#include "shared.h"

#define NR_CACHES 4096 /* number of indices: a heap's user slots grow to at most 256 KiB */

struct mutex caches_lock = MUTEX_INITIALIZER;
struct hlist_head all_caches;
static uint8_t index_used[NR_CACHES]; /* caches_lock; for user caches */

int kmalloc_nr_caches(void) { return NR_KMALLOC; }
struct kmem_cache *kmalloc_cache(int index) { return kmalloc_caches[index]; }
void kmem_cache_set_owner(struct kmem_cache *s, void *owner) { s->cache_owner = owner; }

void kmem_cache_set_name(struct kmem_cache *s, const char *name)
{
    strncpy(s->name, name, CACHE_NAME_MAX - 1);
}

void *kmem_cache_owner(const struct kmem_cache *s) { return s->cache_owner; }
size_t kmem_cache_size(const struct kmem_cache *s) { return s->size; }
size_t kmem_cache_object_size(const struct kmem_cache *s) { return s->object_size; }

static void root_has_children(struct kmem_cache *root, unsigned nr)
{
    unsigned allocs = nr < UINT16_MAX / PROMOTE_ALLOCS ? (nr + 1) * PROMOTE_ALLOCS : UINT16_MAX;

    assert_locked(&caches_lock);
    root->nr_children = nr;
    if (!root->user)
        store_relaxed(&promote_allocs[root->index], (uint16_t)allocs);
}

/* caches_lock held. */
static void count_child(struct kmem_cache *s, bool counts)
{
    if (s->root == s || s->counts == counts)
        return;
    s->counts = counts;
    root_has_children(s->root, counts ? s->root->nr_children + 1 : s->root->nr_children - 1);
}

void kmem_cache_count(struct kmem_cache *s, bool counts)
{
    mutex_lock(&caches_lock);
    count_child(s, counts);
    mutex_unlock(&caches_lock);
}

static void cache_link(struct kmem_cache *s)
{
    if (s->root == s)
        root_has_children(s, s->nr_children);
    count_child(s, true);
    hlist_add_head(&s->all_node, &all_caches);
}

/* 16 KiB, doubled until eight objects fit, to 64 KiB at most.  A larger object has a slab of its
 * own. */
static void cache_geometry(struct kmem_cache *s)
{
    size_t bytes = 4 * PAGE_SIZE;

    while (bytes / s->size < 8 && bytes < 16 * PAGE_SIZE)
        bytes *= 2;
    if (bytes < s->size)
        bytes = (s->size + PAGE_SIZE - 1) & ~(PAGE_SIZE - 1);
    s->nr_pages = (uint32_t)(bytes >> PAGE_SHIFT);
    s->objects = (uint32_t)(bytes / s->size);
}

static struct kmem_cache *cache_create(struct mem_cgroup *memcg, struct kmem_cache *root,
                                       size_t object_size, size_t align, int index)
{
    struct kmem_cache *s = metadata_alloc(sizeof(*s));

    assert_any_section();
    if (!s)
        return NULL;
    align = align < 16 ? 16 : align;
    s->size = (uint32_t)debug_size(object_size, align);
    s->object_size = (uint32_t)object_size;
    s->align = (uint32_t)align;
    s->index = index;
    s->user = index >= NR_KMALLOC;
    s->root = root ? root : s;
    s->memcg = memcg;
    store_plain(&s->refs, 1);
    s->objcg = (memcg ? memcg : &root_mem_cgroup)->objcg;
    objcg_get(s->objcg);
    mutex_init(&s->lock);
    cache_geometry(s);
    mutex_lock(&caches_lock);
    cache_link(s);
    mutex_unlock(&caches_lock);
    return s;
}

int kmem_cache_init(void)
{
    for (int i = 0; i < NR_KMALLOC; i++) {
        size_t size = kmalloc_size(i);
        size_t align = size % PAGE_SIZE == 0                      ? PAGE_SIZE
                       : size > COLOUR_MAX_SIZE && size % 64 == 0 ? 64
                                                                  : 16;

        kmalloc_caches[i] = cache_create(NULL, NULL, size, align, i);
        if (!kmalloc_caches[i])
            return -ENOMEM;
    }
    return 0;
}

static void index_put(int index)
{
    mutex_lock(&caches_lock);
    index_used[index] = 0;
    mutex_unlock(&caches_lock);
}

struct kmem_cache *kmem_cache_create_root(size_t object_size, size_t align, unsigned flags)
{
    struct thread *self;
    struct kmem_cache *s = NULL;
    int index;

    if (!object_size || object_size > (size_t)1 << 30 || align > (size_t)1 << 21 ||
        (align & (align - 1)))
        return NULL;
    self = thread_enter();
    mutex_lock(&caches_lock);
    for (index = NR_KMALLOC; index < NR_CACHES && index_used[index]; index++)
        ;
    if (index < NR_CACHES)
        index_used[index] = 1;
    mutex_unlock(&caches_lock);
    if (index < NR_CACHES) {
        s = cache_create(NULL, NULL, object_size, align, index);
        if (s)
            s->flags = flags;
        else
            index_put(index);
    }
    thread_leave(self);
    return s;
}

struct kmem_cache *kmem_cache_create_child(struct mem_cgroup *memcg, struct kmem_cache *root)
{
    struct thread *self;
    struct kmem_cache *s;

    if (!css_tryget(memcg))
        return NULL;
    self = thread_enter();
    s = cache_create(memcg, root, root->object_size, root->align, root->index);
    if (s) {
        s->flags = root->flags;
        add_relaxed(&memcg->nr_caches, 1);
        publish_figures(memcg);
    }
    thread_leave(self);
    if (!s)
        css_put(memcg);
    return s;
}

static bool is_dead(const struct kmem_cache *s) { return load_acquire(&s->dead); }

/* A group with a child cache uses it.  Any other group uses the root cache's shared slabs. */
void *cache_alloc(struct thread *self, struct kmem_cache *root, struct request *req)
{
    struct heap *heap = load_plain(&self->heap);
    struct kmem_cache *s = root;
    struct slab *slab;
    void *object;

    assert_section(self);
    if (!root->user && ((object = sheaf_pop(&self->kmalloc[root->index])) ||
                        (object = shared_pop(self, (unsigned)root->index))))
        return object; /* a dead cache owns no slab, so it has no object in a sheaf */
    if (is_dead(root))
        return NULL;
    if (heap->memcg != &root_mem_cgroup) {
        s = cache_from_memcg_idx(root, load_relaxed(&heap->memcg->id));
        if (!s || s->memcg != heap->memcg || is_dead(s))
            return shared_alloc(self, root, req);
        if (!root->user)
            heap->shared[root->index].limit = 0;
    }
    slab = slab_active(self, heap, s, false, req);
    if (!slab)
        return NULL;
    if (slab->slot) /* its slot has a sheaf */
        return sheaf_refill(&slab->heap->kmalloc[slab->cache->index], slab);
    object = slab_pop(slab);
    if (unlikely(slab_debug)) {
        debug_check_free(slab, object);
        debug_alloc(slab, object, req->bytes, false);
    }
    return object;
}

void *kmem_cache_alloc(struct kmem_cache *s)
{
    struct request req = { .bytes = s->object_size, .kind = CHARGE_OBJECT, .object = true };
    void *object;

    do {
        struct thread *self = thread_enter();

        if (self->stop_depth)
            req.kind = CHARGE_FORCE;
        object = should_fail_request(self, s, &req) ? NULL : cache_alloc(self, s->root, &req);
        thread_leave(self);
    } while (!object && request_retry(&req));
    return object;
}

int kmem_cache_free(struct kmem_cache *s, void *object)
{
    struct thread *self = thread_enter();
    struct slab *slab = virt_to_slab(object);
    int error = -EINVAL;

    if (slab && slab->cache && slab->cache->root == s->root)
        error = slab_free(self, slab, object);
    thread_leave(self);
    return error;
}

struct kmem_cache *kmem_cache_of(const void *p, void **object)
{
    struct thread *self = thread_enter();
    struct slab *slab = virt_to_slab(p);
    struct kmem_cache *s = slab ? slab->cache : NULL;
    size_t index = s ? (size_t)((const char *)p - slab->base) / slab->size : 0;

    if (s && index >= slab->objects) /* p lies behind the last object */
        s = NULL;
    if (s && object)
        *object = slab->base + index * slab->size;
    thread_leave(self);
    return s;
}

void *kmem_cache_slab_of(const void *p, size_t *objects)
{
    struct thread *self = thread_enter();
    struct slab *slab = virt_to_slab(p);
    void *base = slab && slab->cache ? slab->base : NULL;

    if (base)
        *objects = slab->objects;
    thread_leave(self);
    return base;
}

size_t kmem_cache_shrink(struct kmem_cache *s)
{
    size_t nr_pages;

    thread_steal_all();
    nr_pages = cache_shrink_stolen(s);
    thread_release_all();
    return nr_pages;
}

/* Afterwards no thread owns a slab of s, so every last free happens under the lock of s. */
static void cache_hand_over(struct kmem_cache *s)
{
    struct thread *t;
    struct heap *heap;

    assert_walker();
    for_each_thread(t)
    {
        thread_collect(t);
        hlist_for_each_entry(heap, &t->heaps, node) heap_hand_over_cache(heap, s);
    }
}

void kmem_cache_set_dead(struct kmem_cache *s)
{
    thread_steal_all();
    store_release(&s->dead, 1);
    cache_hand_over(s);
    thread_release_all();
}

int kmem_cache_shutdown(struct kmem_cache *s)
{
    long nr_slabs;

    thread_steal_all();
    cache_hand_over(s);
    nr_slabs = load_plain(&s->nr_slabs);
    if (!nr_slabs) /* threads are still stolen, so none makes a slab before s is dead */
        store_release(&s->dead, 1);
    thread_release_all();
    return nr_slabs ? -EBUSY : 0;
}

void kmem_cache_put(struct kmem_cache *s)
{
    if (!sub_acq_rel(&s->refs, 1))
        metadata_free(s, sizeof(*s));
}

void kmem_cache_free_struct(struct kmem_cache *s)
{
    struct memcg_cache_array *array, *retired;
    struct thread *self;

    memcg_synchronize();
    self = thread_enter();
    mutex_lock(&caches_lock);
    hlist_del(&s->all_node);
    if (s->root != s) {
        count_child(s, false);
        sub_relaxed(&s->memcg->nr_caches, 1);
        publish_figures(s->memcg);
    } else if (s->user)
        index_used[s->index] = 0;
    mutex_unlock(&caches_lock);
    for (array = load_plain(&s->memcg_caches); array; array = retired) {
        retired = array->retired;
        metadata_free(array, array->bytes);
    }
    objcg_put(s->objcg);
    store_release(&s->ended, 1);
    kmem_cache_put(s); /* if events still name s, memcg_next_event() frees it */
    thread_leave(self);
}

long kmem_cache_nr_pages(const struct kmem_cache *s) { return load_relaxed(&s->total_pages); }

void kmem_cache_read_info(struct kmem_cache *s, struct kmem_cache_info *info)
{
    struct thread *t;
    struct slab *slab;

    memset(info, 0, sizeof(*info));
    info->objsize = s->size;
    info->objperslab = s->objects;
    info->pagesperslab = s->nr_pages;
    thread_steal_all();
    for_each_thread(t)
    {
        struct heap *heap = s->memcg ? heap_lookup(t, s->memcg) : t->root_heap;

        thread_collect(t);
        if (heap)
            heap_flush(heap, s);
    }
    hlist_for_each_entry(slab, &s->slabs, cache_node)
    {
        info->num_slabs++;
        info->active_slabs += slab->inuse > 0;
        info->active_objs += slab->inuse;
        info->num_objs += slab->objects;
        info->nr_pages += slab->nr_pages;
    }
    thread_release_all();
}

bool cache_is_valid(const struct kmem_cache *s)
{
    const struct slab *slab;
    long nr_slabs = 0, nr_pages = 0, nr_partial = 0, nr_listed = 0;

    assert_walker();
    hlist_for_each_entry(slab, &s->slabs, cache_node)
    {
        nr_slabs++;
        nr_pages += slab->nr_pages;
        nr_partial += slab->place == SLAB_NO_OWNER_PARTIAL;
        if (slab->cache != s || virt_to_slab(slab->base) != slab || !slab_is_valid(slab))
            return false;
    }
    for (int shared = 0; shared < 2; shared++)
        hlist_for_each_entry(slab, &s->partial[shared], slab_list)
        {
            nr_listed++;
            if (slab->cache != s || slab->shared != shared || slab->place != SLAB_NO_OWNER_PARTIAL)
                return false;
        }
    return nr_slabs == load_plain(&s->nr_slabs) && nr_pages == load_plain(&s->total_pages) &&
           nr_listed == nr_partial && (!nr_slabs || !load_plain(&s->ended));
}

/* ---- memcg_caches: writers under memcg_slab_mutex (above us) ---- */

int memcg_cache_array_size(const struct kmem_cache *root)
{
    struct memcg_cache_array *array = load_acquire(&root->memcg_caches);

    return array ? array->nr_slots : 0;
}

int memcg_update_cache_size(struct kmem_cache *root, int nr_slots)
{
    struct memcg_cache_array *old = load_plain(&root->memcg_caches), *array;
    struct thread *self = NULL;
    size_t bytes;

    if (old && old->nr_slots >= nr_slots)
        return 0;
    if (old && nr_slots < 2 * old->nr_slots)
        nr_slots = 2 * old->nr_slots; /* the retired arrays together stay smaller than the live
                                       * one */
    bytes = sizeof(*array) + (size_t)nr_slots * (sizeof(array->slot[0]) + 1);
    if (old)
        thread_steal_all(); /* no thread posts CREATE while the pending flags are copied */
    else
        self = thread_enter(); /* metadata_alloc() needs a section or a walker */
    array = metadata_alloc(bytes);
    if (array) {
        array->nr_slots = nr_slots;
        array->bytes = bytes;
        array->retired = old;
        array->pending = (atomic_u8_t *)&array->slot[nr_slots];
        for (int i = 0; old && i < old->nr_slots; i++) {
            store_plain(&array->slot[i], load_plain(&old->slot[i]));
            store_plain(&array->pending[i], load_plain(&old->pending[i]));
        }
        store_release(&root->memcg_caches, array);
    }
    if (old)
        thread_release_all();
    else
        thread_leave(self);
    return array ? 0 : -ENOMEM;
}

void memcg_cache_publish(struct kmem_cache *root, int id, struct kmem_cache *child)
{
    struct memcg_cache_array *array = load_plain(&root->memcg_caches);

    MEMCG_ASSERT(array && id >= 0 && id < array->nr_slots);
    store_release(&array->slot[id], child);
}

struct kmem_cache *cache_from_memcg_idx(const struct kmem_cache *root, int id)
{
    struct memcg_cache_array *array = load_acquire(&root->memcg_caches);

    if (!array || id < 0 || id >= array->nr_slots)
        return NULL;
    return load_acquire(&array->slot[id]);
}

void memcg_create_done(struct kmem_cache *root, struct mem_cgroup *memcg)
{
    struct thread *self = thread_enter(); /* memcg_update_cache_size() copies the flags with threads
                                           * stolen */
    int id = mem_cgroup_id(memcg);
    struct memcg_cache_array *array = load_acquire(&root->memcg_caches);

    if (array && id >= 0 && id < array->nr_slots)
        store_release(&array->pending[id], 0);
    thread_leave(self);
}
