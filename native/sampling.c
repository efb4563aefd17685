/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sampling.c - which block is sampled: one for every so many bytes of a group.
 *
 * Each block of a sampled group is counted, and the fast path does not know of it.  A heap of such
 * a group has two sheaves for a size class.  One is for requests, the other for frees (heap->frees),
 * to which its slabs' `slot` points.  So what lies in the first is what is allocated until it is
 * empty.  The next request comes here, and what was freed moves over: as many objects as the
 * countdown of the class has left.  If it has none left, the request is sampled.  Objects that a
 * flush takes back are counted back.  Shared sheaves are not used; every request of a class without
 * a child cache comes here.
 *
 * Each class counts for itself.  If two classes shared a countdown, a sheaf that it has cut short
 * would leave the due sample to the other class's next request.  What is counted one by one, shared
 * objects and runs, has one countdown in the heap.
 *
 * Users' caches are not sampled: their fast path has no sheaf, so nothing counts it.
 *
 * Kernel: none; ours.  The two sheaves are the two magazines of a CPU in Bonwick and Adams, USENIX
 * 2001.  Locks: the section of the heap's thread; groups_lock for the tree.
 */
#include "sampling.h"

#include "fault.h"
#include "kmem_cache.h"
#include "page_run.h"
#include "sample.h"
#include "shared.h"

/* True if a sample is due within so many bytes. */
static bool count_down(struct thread *self, struct heap *heap, int64_t *left, size_t bytes)
{
    if (!*left) /* no sample was drawn yet */
        *left = sample_distance(self, heap->sample_every);
    *left -= (int64_t)bytes;
    if (*left > 0)
        return false;
    *left = sample_distance(self, heap->sample_every);
    return true;
}

static void *alloc_sampled(struct thread *self, struct request *req, size_t bytes)
{
    struct page_run *run = run_alloc(self, req);

    if (!run)
        return NULL;
    run_set_sample(
        run, sample_new(run->objcg, bytes, load_plain(&self->heap)->sample_every, req->caller));
    return run->slab.base;
}

/* Moves what is free at hand into the empty sheaf, up to the next sample. */
static void fill_sheaf(struct thread *self, struct heap *heap, struct heap_slot *slot,
                       struct heap_slot *frees, int64_t size)
{
    int64_t before;

    if (!slot->sample_left)
        slot->sample_left = sample_distance(self, heap->sample_every);
    before = slot->sheaf_room;
    sheaf_move(slot, frees, (slot->sample_left - 1) / size);
    slot->sample_left -= size * (before - slot->sheaf_room);
    if (frees->overflow) {
        frees->sheaf_room -= frees->sheaf_limit;
        sheaf_grow(frees, (size_t)size);
        frees->sheaf_room += frees->sheaf_limit;
        frees->overflow = 0;
    }
}

/* An object that was freed here, which is at hand, or NULL. */
static void *pop_freed(struct thread *self, struct heap *heap, int index, int64_t size)
{
    struct heap_slot *frees = &heap->frees[index];
    void *object = sheaf_pop(frees);

    if (object && frees->sheaf)
        fill_sheaf(self, heap, &heap->kmalloc[index], frees, size);
    return object;
}

/* A refill has filled the sheaf for the request.  None of its objects is counted yet. */
static void count_sheaf(struct thread *self, struct heap *heap, int index, int64_t size)
{
    struct heap_slot *slot = &heap->kmalloc[index], *frees = &heap->frees[index];

    /* the sheaf for frees is empty, and may have been given up until this refill */
    frees->sheaf = slot->sheaf;
    frees->sheaf_room = frees->sheaf_limit + slot->sheaf_room;
    slot->sheaf = NULL;
    slot->sheaf_room = 0;
    fill_sheaf(self, heap, slot, frees, size);
}

static void *serve_class(struct thread *self, struct kmem_cache *s, struct request *req)
{
    struct heap *heap = load_plain(&self->heap);
    int index = s->index;
    bool has_slots = heap->frees != NULL;
    int64_t *left = has_slots ? &heap->kmalloc[index].sample_left : &heap->sample_left;
    void *object;

    if (has_slots && heap->kmalloc[index].sheaf) /* these are counted */
        return sheaf_pop(&heap->kmalloc[index]);
    if (!req->sampled)
        req->sampled = count_down(self, heap, left, s->size);
    if (req->sampled)
        return alloc_sampled(self, req, s->size);
    if (has_slots && (object = pop_freed(self, heap, index, s->size)))
        return object;
    self->shared_used &= ~(1ULL << index); /* or the limit of the class's shared sheaf grows */
    object = cache_alloc(self, s, req);
    if (!object)
        *left += s->size; /* the request is made once more, or refused */
    else if (heap->frees && heap->kmalloc[index].sheaf)
        count_sheaf(self, heap, index, s->size);
    return object;
}

void *sampling_serve(struct thread *self, struct kmem_cache *s, struct request *req)
{
    struct heap *heap = load_plain(&self->heap);
    size_t bytes = ALIGN_UP(req->bytes, PAGE_SIZE);
    struct page_run *run;

    assert_section(self);
    if (s)
        return serve_class(self, s, req);
    if (!req->sampled)
        req->sampled = count_down(self, heap, &heap->sample_left, bytes);
    if (req->sampled)
        return alloc_sampled(self, req, bytes);
    run = run_alloc(self, req);
    if (!run)
        heap->sample_left += (int64_t)bytes;
    return run ? run->slab.base : NULL;
}

void sampling_grown(struct thread *self, struct page_run *run, size_t more, const void *caller)
{
    struct heap *heap = load_plain(&self->heap);
    bool due;

    assert_section(self);
    if (!heap->sample_every)
        return;
    due = count_down(self, heap, &heap->sample_left, more);
    if (run->state == RUN_SAMPLED)
        sample_extend(run->sample, more);
    else if (due)
        run_set_sample(
            run, sample_new(run->objcg, run->nr_pages << PAGE_SHIFT, heap->sample_every, caller));
}

/* ---- which groups ---- */

static void list_set_slot(struct hlist_head *list, struct heap_slot *slot)
{
    struct slab *slab;

    hlist_for_each_entry(slab, list, slab_list) if (slab->slot) slab->slot = slot;
}

/* The slabs' frees go to frees_slot() from now on. */
static void set_slots(struct heap *heap)
{
    for (int i = 0; i < NR_KMALLOC; i++) {
        struct heap_slot *slot = &heap->kmalloc[i], *to = frees_slot(heap, i);

        if (slot->active != &slab_none && slot->active->slot)
            slot->active->slot = to;
        list_set_slot(&slot->partial, to);
        list_set_slot(&slot->full, to);
        list_set_slot(&slot->empty, to);
    }
}

static void heap_set_sampling(struct heap *heap, uint32_t every)
{
    struct heap_slot *frees = NULL;

    assert_section(heap->thread);
    for (int i = 0; i < NR_KMALLOC; i++)
        heap->shared[i].limit = 0; /* it grows again by itself if the group is not sampled */
    heap->sample_left = 0;
    if (heap->kmalloc == slots_none) {
        heap->sample_every = every;
        return;
    }
    heap_flush(heap, NULL);
    if (every)
        frees = make_frees();
    heap->sample_every = frees ? every : 0; /* without memory, this heap is not sampled */
    if (heap->frees)
        metadata_free(heap->frees, sizeof(*heap->frees) * NR_KMALLOC);
    heap->frees = frees;
    for (int i = 0; i < NR_KMALLOC; i++) {
        struct heap_slot *slot = &heap->kmalloc[i];

        slot->sheaf_start = frees ? 0 : sheaf_start(kmalloc_size(i));
        slot->sheaf_room = slot->sheaf_limit = slot->sheaf_start;
        slot->overflow = 0;
        slot->sample_left = 0;
    }
    set_slots(heap);
}

static bool any_is_sampled(void)
{
    struct mem_cgroup *memcg = &root_mem_cgroup;

    while (memcg && !memcg->sample_every)
        memcg = next_descendant(memcg, &root_mem_cgroup);
    return memcg != NULL;
}

void mem_cgroup_set_sampling(struct mem_cgroup *top, uint32_t every)
{
    struct thread *t;
    struct heap *heap;

    thread_steal_all();
    mutex_lock(&groups_lock);
    for (struct mem_cgroup *memcg = top; memcg; memcg = next_descendant(memcg, top))
        memcg->sample_every = every;
    watch_requests(WATCH_SAMPLES, any_is_sampled());
    mutex_unlock(&groups_lock);
    for_each_thread(t)
    {
        thread_collect(t); /* its shared sheaves are empty */
        hlist_for_each_entry(heap, &t->heaps,
                             node) if (heap->memcg && mem_cgroup_is_descendant(heap->memcg, top))
            heap_set_sampling(heap, every);
    }
    thread_release_all();
}

uint32_t mem_cgroup_sampling(const struct mem_cgroup *memcg)
{
    struct thread *self = thread_enter();
    uint32_t every = memcg->sample_every;

    thread_leave(self);
    return every;
}
