/* SPDX-License-Identifier: Apache-2.0 */
/*
 * heap.c - a thread's slabs and stock for one group.
 *
 * From its first slab on, a heap has a slot per cache: the sheaf of free objects, the active slab,
 * the slabs with a free object, the empty ones and the full ones.  A thread has one heap per group
 * that it has been in, and one (memcg NULL) for the root caches' shared slabs.  A heap takes slabs
 * from the cache under the cache's lock (slab.c).  It gives them back here, with all threads
 * stolen.
 *
 * Kernel: struct kmem_cache_cpu, slab_sheaf (mm/slub.c), struct memcg_stock_pcp (memcontrol.c).
 * Where we differ: there is a heap per thread and group; full slabs are listed, so that a thread's
 * slabs can be handed over.
 *
 * Locks: none of its own.  All of it is protected by the section of heap->thread.
 */
#include "heap.h"

#include "arena.h"
#include "charge.h"
#include "page_run.h"
#include "sheaf.h"

void thread_set_heap(struct thread *thread, struct heap *heap)
{
    store_release(&thread->heap, heap); /* pairs with thread_holds_free() */
    thread->kmalloc = heap->kmalloc;
}

static struct heap *heap_create(struct thread *thread, struct mem_cgroup *memcg)
{
    struct heap *heap = metadata_alloc(sizeof(*heap));

    if (!heap)
        return NULL;
    heap->kmalloc = (struct heap_slot *)slots_none;
    heap->thread = thread;
    heap->memcg = memcg;
    heap->sample_every = memcg ? memcg->sample_every : 0;
    hlist_add_head(&heap->node, &thread->heaps);
    return heap;
}

int heap_init(struct thread *thread)
{
    thread->root_heap = heap_create(thread, &root_mem_cgroup);
    thread->shared_heap = heap_create(thread, NULL);
    if (!thread->root_heap || !thread->shared_heap || !heap_slot(thread->root_heap, 0, true))
        return -ENOMEM;
    thread_set_heap(thread, thread->root_heap);
    return 0;
}

struct heap *heap_lookup(struct thread *self, struct mem_cgroup *memcg)
{
    int id = load_relaxed(&memcg->id);
    struct heap *heap;

    assert_section(self);
    if (memcg == &root_mem_cgroup)
        return self->root_heap;
    if (id < 0 || id >= self->nr_by_id)
        return NULL;
    heap = self->by_id[id];
    return heap && heap->memcg == memcg ? heap : NULL;
}

/* The heap of memcg.  If memcg has no id, or there is no memory, it is that of the nearest ancestor
 * with a heap. */
struct heap *heap_of(struct thread *self, struct mem_cgroup *memcg)
{
    assert_section(self);
    for (; memcg != &root_mem_cgroup; memcg = memcg->parent) {
        struct heap *heap = heap_lookup(self, memcg);
        int id = load_relaxed(&memcg->id);

        if (heap)
            return heap;
        if (id < 0 || !load_acquire(&memcg->online))
            continue;
        if (id >= self->nr_by_id) {
            int nr = id * 2 + 8;
            struct heap **by_id = metadata_alloc(sizeof(*by_id) * (size_t)nr);

            if (!by_id)
                continue;
            if (self->by_id) {
                memcpy(by_id, self->by_id, sizeof(*by_id) * (size_t)self->nr_by_id);
                metadata_free(self->by_id, sizeof(*by_id) * (size_t)self->nr_by_id);
            }
            self->by_id = by_id;
            self->nr_by_id = nr;
        }
        heap = heap_create(self, memcg);
        if (!heap)
            continue;
        self->by_id[id] = heap;
        return heap;
    }
    return self->root_heap;
}

size_t heap_drain_stock(struct heap *heap)
{
    size_t bytes = (size_t)heap->stock;

    assert_section(heap->thread);
    heap->stock = 0;
    if (bytes)
        memcg_uncharge(heap->memcg, bytes);
    return unlikely(heap->kept) ? bytes + runs_drain(heap) : bytes;
}

static void list_hand_over(struct hlist_head *list)
{
    struct hlist_node *next;
    struct slab *slab;

    hlist_for_each_entry_safe(slab, next, list, slab_list)
    {
        hlist_del(&slab->slab_list);
        slab_hand_over(slab);
    }
}

static void slot_hand_over(struct heap_slot *slot)
{
    sheaf_flush(slot);
    if (slot->active != &slab_none) {
        slab_hand_over(slot->active);
        slot->active = &slab_none;
    }
    list_hand_over(&slot->empty);
    slot->nr_empty = 0;
    list_hand_over(&slot->partial);
    list_hand_over(&slot->full);
}

void heap_hand_over(struct heap *heap)
{
    assert_section(heap->thread);
    if (unlikely(heap->frees != NULL))
        heap_flush(heap, NULL);
    for (int i = 0; i < NR_KMALLOC + heap->nr_user; i++) {
        struct heap_slot *slot = heap_slot(heap, i, false);

        if (slot)
            slot_hand_over(slot);
    }
}

/* Gives back the slabs that the heap has of one cache. */
void heap_hand_over_cache(struct heap *heap, struct kmem_cache *s)
{
    struct heap_slot *slot = heap_slot(heap, s->index, false);

    assert_section(heap->thread);
    if (unlikely(heap->frees != NULL))
        heap_flush(heap, s);
    if (slot && heap->memcg == s->memcg)
        slot_hand_over(slot);
    else if (slot && !s->memcg && (!heap->memcg || heap->memcg == &root_mem_cgroup))
        slot_hand_over(slot);
}

void heap_drop(struct heap *heap)
{
    struct thread *thread = heap->thread;

    assert_section(heap->thread);
    heap_hand_over(heap);
    heap_drain_stock(heap);
    if (heap->memcg && heap->kmalloc != slots_none)
        mem_cgroup_unlink_heap(heap);
    hlist_del(&heap->node);
    if (heap->memcg && heap_lookup(thread, heap->memcg) == heap && heap != thread->root_heap)
        thread->by_id[mem_cgroup_id(heap->memcg)] = NULL;
    if (heap->kmalloc != slots_none)
        metadata_free(heap->kmalloc, sizeof(*heap->kmalloc) * NR_KMALLOC);
    if (heap->frees)
        metadata_free(heap->frees, sizeof(*heap->frees) * NR_KMALLOC);
    if (heap->user)
        metadata_free(heap->user, sizeof(*heap->user) * (size_t)heap->nr_user);
    metadata_free(heap, sizeof(*heap));
}

void heap_flush(struct heap *heap, struct kmem_cache *s)
{
    int first = s ? s->index : 0, end = s ? s->index + 1 : NR_KMALLOC;

    if (heap->kmalloc == slots_none)
        return;
    for (int i = first; i < end && i < NR_KMALLOC; i++)
        sheaf_flush(&heap->kmalloc[i]);
    for (int i = first; unlikely(heap->frees != NULL) && i < end && i < NR_KMALLOC; i++)
        sheaf_flush(&heap->frees[i]);
}

/* Drops the slot's empty slabs, which are of cache s if s is not NULL.  The sheaf is flushed. */
static size_t slot_shrink(struct heap_slot *slot, struct kmem_cache *s)
{
    struct slab *slab;
    size_t nr_pages = 0;

    while ((slab = hlist_first_entry(&slot->empty, struct slab, slab_list)) &&
           (!s || slab->cache == s)) {
        hlist_del(&slab->slab_list);
        slot->nr_empty--;
        nr_pages += slab_drop(slab);
    }
    slab = slot->active;
    if (slab != &slab_none && !slab->inuse && (!s || slab->cache == s)) {
        nr_pages += slab_drop(slab);
        slot->active = &slab_none;
    }
    return nr_pages;
}

/*
 * True if the size classes have objects in sheaves, or slabs without a live object.  It reads
 * beside the owner, on purpose: what the owner frees or takes meanwhile is seen or not.  No slot is
 * freed while walker_mutex is held.  The memory of a descriptor that has just ended is still
 * mapped.
 */
racy bool heap_holds_free(const struct heap *heap)
{
    const volatile struct heap_slot *frees = heap->frees;

    assert_walker();
    for (int i = 0; i < NR_KMALLOC; i++) {
        const volatile struct heap_slot *slot = &heap->kmalloc[i];
        const volatile struct slab *active = slot->active;

        if (slot->sheaf || (frees && frees[i].sheaf) || slot->empty.first ||
            (active != &slab_none && !active->inuse))
            return true;
    }
    return false;
}

/* Users' caches keep their empty slabs, which are made for them. `swings` stay as they are: nothing
 * is short of memory, and the thread need not learn again after each reader. */
void heap_give_back(struct heap *heap)
{
    assert_section(heap->thread);
    heap_flush(heap, NULL);
    for (int i = 0; i < NR_KMALLOC; i++)
        slot_shrink(&heap->kmalloc[i], NULL);
}

/* Drops the empty slabs of s, or of every cache when s is NULL. */
size_t heap_shrink(struct heap *heap, struct kmem_cache *s)
{
    int first = s ? s->index : 0, end = s ? s->index + 1 : NR_KMALLOC + heap->nr_user;
    size_t nr_pages = 0;

    assert_section(heap->thread);
    heap_flush(heap, s);
    for (int i = first; i < end; i++) {
        struct heap_slot *slot = heap_slot(heap, i, false);

        if (!slot)
            continue;
        slot->swings = 0;
        nr_pages += slot_shrink(slot, s);
    }
    return nr_pages;
}

static bool list_is_valid(const struct heap *heap, const struct hlist_head *list,
                          enum slab_place place, uint32_t *nr)
{
    struct hlist_node *const *link = &list->first;
    const struct slab *slab;

    *nr = 0;
    hlist_for_each_entry(slab, list, slab_list)
    {
        if (slab->slab_list.pprev != link || slab->heap != heap || slab->place != place ||
            load_plain(&slab->owner) != heap->thread || !slab_is_valid(slab))
            return false;
        link = &slab->slab_list.next;
        ++*nr;
    }
    return true;
}

static bool slot_is_valid(const struct heap *heap, const struct heap_slot *slot, bool has_sheaf)
{
    const struct slab *active = slot->active;
    uint32_t nr;

    if (active != &slab_none &&
        (active->heap != heap || active->place != SLAB_ACTIVE || !slab_is_valid(active)))
        return false;
    return list_is_valid(heap, &slot->partial, SLAB_PARTIAL, &nr) &&
           list_is_valid(heap, &slot->full, SLAB_FULL, &nr) &&
           list_is_valid(heap, &slot->empty, SLAB_EMPTY, &nr) && nr == slot->nr_empty &&
           (has_sheaf ? sheaf_is_valid(slot) : !slot->sheaf);
}

bool heap_is_valid(const struct heap *heap)
{
    assert_section(heap->thread);
    if (heap->stock < 0 || !runs_are_valid(heap))
        return false;
    for (int i = 0; heap->kmalloc != slots_none && i < NR_KMALLOC; i++)
        if (!slot_is_valid(heap, &heap->kmalloc[i], true) ||
            (heap->frees && !sheaf_is_valid(&heap->frees[i])))
            return false;
    for (int i = 0; i < heap->nr_user; i++)
        if (!slot_is_valid(heap, &heap->user[i], false))
            return false;
    return true;
}
