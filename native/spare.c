/* SPDX-License-Identifier: Apache-2.0 */
/*
 * spare.c - a closed group that holds nothing is kept as it is, for the next one under its parent.
 *
 * A spare group is offline: no charge reaches it.  It keeps its structure, stub, id, child caches,
 * and each thread's heap for it with empty slabs and sheaves of free objects.  So the next group
 * begins with memory that is in the processor's caches.  It has the same parent, so the bytes stay
 * with the tenant and need not be cleared.  A group with live objects in its own slabs is not kept.
 * What lives elsewhere keeps the group's stub, which goes to the parent, as when a group ends.  The
 * next group gets a new stub.  So a late free never meets a group of another life.
 *
 * The empty slabs stay charged to the group and its ancestors.  Readers of a figure and reclaim take
 * them, as they take those of a group that is online.  The structure is not charged meanwhile.
 *
 * Kernel: none; ours (memory cgroups are freed).
 * Locks: groups_lock; all threads are stolen.
 */
#include "spare.h"

#include "heap.h"
#include "kmem_cache.h"
#include "memcontrol.h"
#include "oom.h"
#include "publish.h"
#include "shared.h"

/* The slabs count in the next group's usage and peak.  So a group that has more of them keeps
 * none. */
#define SPARE_BYTES ((int64_t)64 << 10)

/* The number of free objects in the sheaves of memcg's heaps.  A heap without slabs has none. */
static long sheaf_objects(struct mem_cgroup *memcg)
{
    struct thread *t;
    long nr = 0;

    assert_walker();
    for_each_thread(t)
    {
        struct heap *heap = heap_lookup(t, memcg);

        for (int i = 0; heap && heap->kmalloc != slots_none && i < NR_KMALLOC; i++)
            if (heap->kmalloc[i].sheaf)
                nr += heap->kmalloc[i].sheaf_limit - heap->kmalloc[i].sheaf_room;
    }
    return nr;
}

/* What a group has of the size classes: its caches, the CREATEs that were posted for it, and the
 * objects that its slabs count as in use. */
struct caches {
    struct kmem_cache *cache[NR_KMALLOC];
    long nr, posted, objects;
};

static void look_at_caches(struct mem_cgroup *memcg, struct caches *found)
{
    int id = mem_cgroup_id(memcg);

    found->nr = found->posted = found->objects = 0;
    if (css_refs(memcg) == 1) /* each of them holds a reference */
        return;
    for (int i = 0; i < NR_KMALLOC; i++) {
        struct memcg_cache_array *array = load_plain(&kmalloc_caches[i]->memcg_caches);
        struct kmem_cache *s = array && id < array->nr_slots ? load_plain(&array->slot[id]) : NULL;
        struct slab *slab;

        found->posted += array && id < array->nr_slots && load_relaxed(&array->pending[id]);
        if (!s || load_plain(&s->dead))
            continue;
        found->cache[found->nr++] = s;
        hlist_for_each_entry(slab, &s->slabs, cache_node) found->objects += slab->inuse;
    }
}

/* True if no object lives in the group's own slabs, and nothing refers to the group but its caches
 * and the events that ask for more.  It has only caches of size classes. */
static bool may_be_kept(struct mem_cgroup *memcg, const struct caches *caches)
{
    struct thread *t;

    assert_walker();
    if (!hlist_empty(&memcg->children) || load_relaxed(&memcg->stat[STAT_EXTERNAL]) ||
        memcg->sample_every) /* its heaps have two sheaves for a class (sampling.c) */
        return false;
    for_each_thread(t) if (t->has_failure &&
                           (t->failure.memcg == memcg || t->failure.limited == memcg)) return false;
    return caches->nr == mem_cgroup_nr_caches(memcg) &&
           css_refs(memcg) == 1 + caches->nr + caches->posted &&
           caches->objects == sheaf_objects(memcg);
}

/* Gives back what threads hold for the group, but for its slabs. */
static void settle(struct mem_cgroup *memcg)
{
    struct thread *t;

    assert_walker();
    for_each_thread(t)
    {
        struct heap *heap = heap_lookup(t, memcg);

        thread_collect(t);
        if (heap)
            heap_drain_stock(heap);
    }
}

static void give_slabs_back(struct mem_cgroup *memcg)
{
    struct thread *t;

    assert_walker();
    for_each_thread(t)
    {
        struct heap *heap = heap_lookup(t, memcg);

        if (heap)
            heap_shrink(heap, NULL);
    }
}

/* What lives outside the group's own slabs keeps the stub, which the parent gets with the charges.
 * The caches get another one.  False: there is no memory for it, and nothing was changed. */
static bool pass_survivors_on(struct mem_cgroup *memcg, struct mem_cgroup *parent,
                              const struct caches *caches)
{
    struct obj_cgroup *old = memcg->objcg, *next;
    struct thread *t;

    if (memcg->objcgs.first == &old->node && !old->node.next &&
        load_relaxed(&old->refs) == 1 + caches->nr)
        return true; /* there are none */
    next = objcg_alloc(memcg);
    if (!next)
        return false;
    memcg->next_objcg = next;
    for (long i = 0; i < caches->nr; i++) {
        caches->cache[i]->objcg = next;
        objcg_get(next);
        objcg_put(old);
    }
    mem_cgroup_reparent(memcg, parent, next);
    for_each_thread(t)
    {
        struct heap *heap = heap_lookup(t, memcg);

        for (int i = 0; heap && i < NR_KMALLOC; i++)
            heap->shared[i].objects = 0;
    }
    return true;
}

static void move_threads(struct mem_cgroup *memcg, struct mem_cgroup *parent)
{
    struct thread *t;

    assert_walker();
    for_each_thread(t)
    {
        struct heap *heap = load_plain(&t->heap);

        if (t->current == memcg)
            t->current = parent;
        if (heap && heap->memcg == memcg)
            thread_set_heap(t, heap_of(t, t->current));
    }
}

bool mem_cgroup_keep(struct mem_cgroup *memcg)
{
    struct publish_slot *slot = NULL;
    struct mem_cgroup *parent;
    struct caches caches;
    struct thread *self;
    bool kept;

    if (!memcg->parent || mem_cgroup_id(memcg) < 0 || !mem_cgroup_online(memcg))
        return false;
    thread_steal_all();
    settle(memcg);
    look_at_caches(memcg, &caches);
    parent = nearest_online(memcg->parent);
    kept = may_be_kept(memcg, &caches) && pass_survivors_on(memcg, parent, &caches);
    if (kept) {
        store_release(&memcg->online, 0);
        if (load_relaxed(&memcg->stat[STAT_PRIVATE]) > SPARE_BYTES)
            give_slabs_back(memcg);
        move_threads(memcg, parent);
        memcg->is_spare = true;
        slot = publish_drop(memcg);
    }
    thread_release_all();
    if (!kept)
        return false;
    self = thread_enter();
    publish_put(slot);
    for (long i = 0; i < caches.nr; i++)
        kmem_cache_count(caches.cache[i], false);
    thread_leave(self);
    mem_cgroup_uncharge(memcg->parent, MEMCG_GROUP_BYTES);
    return true;
}

/* The caches of a spare group do not make other groups' caches dearer.  From now on they do. */
static void count_caches(struct mem_cgroup *memcg)
{
    int id = mem_cgroup_id(memcg);

    for (int i = 0; i < NR_KMALLOC && mem_cgroup_nr_caches(memcg); i++) {
        struct memcg_cache_array *array = load_plain(&kmalloc_caches[i]->memcg_caches);
        struct kmem_cache *s = array && id < array->nr_slots ? load_plain(&array->slot[id]) : NULL;

        if (s)
            kmem_cache_count(s, true);
    }
}

bool mem_cgroup_renew(struct mem_cgroup *memcg)
{
    struct thread *self = thread_enter();
    bool is_sampled = memcg->parent->sample_every != 0;

    thread_leave(self);
    MEMCG_ASSERT(memcg->is_spare);
    /* Code that had the closed group may have charged it since.  If the parent is sampled now, a
     * new group has the heaps for it. */
    if (load_relaxed(&memcg->stat[STAT_EXTERNAL]) || is_sampled ||
        mem_cgroup_try_charge(memcg->parent, MEMCG_GROUP_BYTES))
        return false;
    self = thread_enter();
    count_caches(memcg);
    mem_cgroup_leave_oom(memcg);
    if (memcg->next_objcg) {
        objcg_put(memcg->objcg);
        memcg->objcg = memcg->next_objcg;
        memcg->next_objcg = NULL;
    }
    thread_leave(self);
    mem_cgroup_set_defaults(memcg);
    memcg->is_spare = false;
    store_release(&memcg->online, 1);
    return true;
}

void mem_cgroup_give_up(struct mem_cgroup *memcg)
{
    MEMCG_ASSERT(memcg->is_spare);
    mem_cgroup_charge(memcg->parent, MEMCG_GROUP_BYTES); /* mem_cgroup_free() gives it back */
    thread_steal_all();
    mem_cgroup_pass_on(memcg);
    if (memcg->next_objcg)
        objcg_put(memcg->next_objcg);
    memcg->next_objcg = NULL;
    memcg->is_spare = false;
    thread_release_all();
    css_put(memcg);
}
