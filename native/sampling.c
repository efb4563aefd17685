/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sampling.c - which block is sampled: one for every so many bytes of a group.
 *
 * Each block of a sampled group is counted, and the fast path does not know of it.  A heap of such
 * a group keeps no freed object at hand: the limit of its sheaves is 0, so a free goes to its slab.
 * What a refill puts into a sheaf is thus what is allocated until the next refill.  A refill puts
 * in only as many objects as the countdown of the class has left.  The next request then finds the
 * sheaf empty, and it is the one that is due.  Objects that a flush takes back are counted back.
 * Shared sheaves are not used; every request of a class without a child cache comes here.
 *
 * Each class counts for itself.  If two classes shared a countdown, a sheaf that it has cut short
 * would leave the due sample to the other class's next request.  What is counted one by one, shared
 * objects and runs, has one countdown in the heap.
 *
 * Users' caches are not sampled: their fast path has no sheaf, so nothing counts it.
 *
 * Kernel: none; ours.  Locks: the section of the heap's thread; groups_lock for the tree.
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

/* The sheaf was empty and has been filled for the request. */
static void cut_sheaf(struct thread *self, struct heap *heap, struct heap_slot *slot, size_t size)
{
    int64_t most;

    if (!slot->sample_left)
        slot->sample_left = sample_distance(self, heap->sample_every);
    most = (slot->sample_left - 1) / (int64_t)size;
    slot->sample_left -= (int64_t)size * sheaf_cut(slot, most);
}

static void *serve_class(struct thread *self, struct kmem_cache *s, struct request *req)
{
    struct heap *heap = load_plain(&self->heap);
    bool has_slots = heap->kmalloc != slots_none;
    int64_t *left = has_slots ? &heap->kmalloc[s->index].sample_left : &heap->sample_left;
    void *object;

    if (has_slots && heap->kmalloc[s->index].sheaf) /* these are counted */
        return cache_alloc(self, s, req);
    if (!req->sampled)
        req->sampled = count_down(self, heap, left, s->size);
    if (req->sampled)
        return alloc_sampled(self, req, s->size);
    self->shared_used &= ~(1ULL << s->index); /* or the limit of the class's shared sheaf grows */
    object = cache_alloc(self, s, req);
    if (!object)
        *left += s->size; /* the request is made once more, or refused */
    else if (heap->kmalloc != slots_none && heap->kmalloc[s->index].sheaf)
        cut_sheaf(self, heap, &heap->kmalloc[s->index], s->size);
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

static void heap_set_sampling(struct heap *heap, uint32_t every)
{
    assert_section(heap->thread);
    heap->sample_every = every;
    heap->sample_left = 0;
    if (heap->kmalloc != slots_none)
        for (int i = 0; i < NR_KMALLOC; i++) {
            struct heap_slot *slot = &heap->kmalloc[i];

            slot->sheaf_start = every ? 0 : sheaf_start(kmalloc_size(i));
            sheaf_flush(slot);
            slot->sample_left = 0;
        }
    for (int i = 0; i < NR_KMALLOC; i++)
        heap->shared[i].limit = 0; /* it grows again by itself if the group is not sampled */
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
