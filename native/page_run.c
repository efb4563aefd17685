/* SPDX-License-Identifier: Apache-2.0 */
/*
 * page_run.c - blocks that are too large for a slab: whole pages of one owner.
 *
 * The descriptor (struct page_run) lies out of band. virt_to_slab() finds it as it finds a slab.
 *
 * A heap keeps the runs that its thread has freed last, still charged to the group, so that a loop
 * that makes and drops a block does not make and end a run each time.  What it keeps counts as
 * stock: it is in usage and not in current, and it is given back where stock is, when a limit is
 * met and when the thread leaves the group.
 *
 * Kernel: kmalloc_large (mm/slub.c).
 * Locks: runs_lock: all_runs, and a run's length.
 */
#include "page_run.h"

#include "charge.h"
#include "debug.h"
#include "fault.h"
#include "page_alloc.h"

/* Free pages behind a block that grows, as a multiple of its size: even one that grows by eighths
 * soon has room. */
#define GROWTH_ROOM 3
/* What a heap keeps at most.  A thread keeps runs for its current group only. */
#define KEPT_BYTES ((int64_t)1 << 20)
#define KEPT_RUNS 8
#define KEPT_SHARE 8 /* they are at most so small a part of the room below every limit */

struct mutex runs_lock = MUTEX_INITIALIZER;
struct hlist_head all_runs;

static void run_unlink(struct page_run *run)
{
    mutex_lock(&runs_lock);
    hlist_del(&run->node);
    mutex_unlock(&runs_lock);
}

/* ---- runs that a heap keeps ---- */

static bool has_room(const struct mem_cgroup *memcg, int64_t bytes)
{
    for (; memcg; memcg = memcg->parent) {
        int64_t max = load_relaxed(&memcg->counter.max), high = load_relaxed(&memcg->high);

        if ((max < high ? max : high) - page_counter_read(&memcg->counter) < KEPT_SHARE * bytes)
            return false;
    }
    return true;
}

/* Takes the first run that the heap keeps of so many pages.  NULL: there is none. */
static struct page_run *kept_take(struct heap *heap, size_t nr_pages)
{
    struct page_run **link = &heap->kept, *run;

    while ((run = *link) && run->nr_pages != nr_pages)
        link = &run->next_kept;
    if (!run)
        return NULL;
    *link = run->next_kept;
    heap->kept_bytes -= (int64_t)(nr_pages << PAGE_SHIFT);
    run->state = RUN_LIVE;
    return run;
}

static struct page_run *run_take(struct heap *heap, size_t nr_pages, const struct request *req)
{
    struct page_run *run;

    if (likely(!heap->kept) || req->grows || req->align_pages > 1 ||
        unlikely(load_relaxed(&faults_armed)))
        return NULL;
    run = kept_take(heap, nr_pages);
    if (!run)
        return NULL;
    run->run_for = NULL;
    memcg_stat_add(heap->memcg, STAT_RUNS, (int64_t)(nr_pages << PAGE_SHIFT));
    if (page_counter_mark(&heap->memcg->counter, heap->kept_bytes))
        publish_usage(heap->memcg);
    if (req->zero)
        memset(run->slab.base, 0, nr_pages << PAGE_SHIFT);
    return run;
}

static void run_end(struct page_run *run);

/* Ends the oldest runs until `bytes` more can be kept. */
static void kept_evict(struct heap *heap, int64_t bytes)
{
    struct page_run **link = &heap->kept, *run;

    for (int nr = 1; *link && nr < KEPT_RUNS &&
                     bytes + (int64_t)((*link)->nr_pages << PAGE_SHIFT) <= KEPT_BYTES;
         nr++) {
        bytes += (int64_t)((*link)->nr_pages << PAGE_SHIFT);
        link = &(*link)->next_kept;
    }
    run = *link;
    *link = NULL;
    while (run) {
        struct page_run *next = run->next_kept;

        heap->kept_bytes -= (int64_t)(run->nr_pages << PAGE_SHIFT);
        run_end(run);
        run = next;
    }
}

/* False: it ends. */
static bool run_keep(struct thread *self, struct page_run *run)
{
    struct heap *heap = load_plain(&self->heap);
    struct mem_cgroup *memcg = heap->memcg;
    int64_t bytes = (int64_t)(run->nr_pages << PAGE_SHIFT);

    if (bytes > KEPT_BYTES || unlikely(slab_debug) || unlikely(self->is_orphan) ||
        run->objcg != memcg->objcg || load_acquire(&run->objcg->memcg) != memcg ||
        !has_room(memcg, heap->kept_bytes + bytes))
        return false;
    kept_evict(heap, bytes);
    run->state = RUN_KEPT;
    run->next_kept = heap->kept;
    heap->kept = run;
    heap->kept_bytes += bytes;
    memcg_stat_add(memcg, STAT_RUNS, -bytes);
    return true;
}

/* ---- their life ---- */

struct page_run *run_alloc(struct thread *self, struct request *req)
{
    struct mem_cgroup *memcg = load_plain(&self->heap)->memcg;
    size_t nr_pages = (debug_run_bytes(req->bytes) + PAGE_SIZE - 1) >> PAGE_SHIFT;
    size_t bytes = nr_pages << PAGE_SHIFT, metadata_bytes = debug_run_metadata();
    struct page_run *run = NULL;
    bool zeroed = req->zero;
    void *pages;

    assert_section(self);
    run = run_take(load_plain(&self->heap), nr_pages, req);
    if (run)
        return run;
    if (memcg_charge(memcg, bytes, req))
        return NULL;
    pages = req->grows ? alloc_pages_to_grow(nr_pages, GROWTH_ROOM * nr_pages, memcg->tag, &zeroed)
                       : alloc_pages(nr_pages, req->align_pages ? req->align_pages : 1, memcg->tag,
                                     &zeroed);
    if (pages)
        run = metadata_alloc(metadata_bytes);
    if (!run) {
        if (pages)
            free_pages(pages, nr_pages);
        memcg_uncharge(memcg, bytes);
        if (!req->reclaimed)
            req->want_reclaim = &root_mem_cgroup;
        return NULL;
    }
    run->slab.base = pages;
    run->nr_pages = nr_pages;
    run->slab.metadata_bytes = metadata_bytes;
    run->objcg = memcg->objcg;
    objcg_get(run->objcg);
    memcg_stat_add(memcg, STAT_RUNS, (int64_t)bytes);
    if (unlikely(slab_debug))
        debug_alloc(&run->slab, pages, req->bytes, req->zero);
    set_page_slab(pages, 1, &run->slab); /* only the first page is looked up */
    mutex_lock(&runs_lock);
    hlist_add_head(&run->node, &all_runs);
    mutex_unlock(&runs_lock);
    return run;
}

static void run_uncharge(struct page_run *run, size_t nr_pages)
{
    struct mem_cgroup *memcg = load_acquire(&run->objcg->memcg);

    assert_any_section();
    if (run->state != RUN_KEPT)
        memcg_stat_add(memcg, STAT_RUNS, -(int64_t)(nr_pages << PAGE_SHIFT));
    memcg_uncharge(memcg, nr_pages << PAGE_SHIFT);
}

static void run_end(struct page_run *run)
{
    run_unlink(run);
    set_page_slab(run->slab.base, 1, NULL);
    run_uncharge(run, run->nr_pages);
    free_pages(run->slab.base, run->nr_pages);
    objcg_put(run->objcg);
    metadata_free(run, run->slab.metadata_bytes);
}

void run_free(struct thread *self, struct page_run *run)
{
    assert_section(self);
    if (unlikely(slab_debug))
        debug_free(&run->slab, run->slab.base);
    if (!run_keep(self, run))
        run_end(run);
}

size_t runs_drain(struct heap *heap)
{
    size_t bytes = (size_t)heap->kept_bytes;
    struct page_run *run;

    assert_section(heap->thread);
    while ((run = heap->kept)) {
        heap->kept = run->next_kept;
        run_end(run);
    }
    heap->kept_bytes = 0;
    return bytes;
}

static void run_set_pages(struct page_run *run, size_t nr_pages)
{
    mutex_lock(&runs_lock);
    run->nr_pages = nr_pages;
    mutex_unlock(&runs_lock);
    if (unlikely(run->state == RUN_SAMPLED))
        sample_resize(run->sample, nr_pages << PAGE_SHIFT);
}

void run_set_sample(struct page_run *run, struct sample *sample)
{
    if (!sample)
        return;
    run->sample = sample;
    run->state = RUN_SAMPLED;
}

void run_drop_sample(struct page_run *run)
{
    sample_drop(run->sample);
    run->sample = NULL;
    run->state = RUN_LIVE;
}

void run_shrink(struct page_run *run, size_t nr_pages)
{
    struct thread *self = thread_enter();
    size_t rest = run->nr_pages - nr_pages;

    run_set_pages(run, nr_pages);
    run_uncharge(run, rest);
    free_pages(run->slab.base + (nr_pages << PAGE_SHIFT), rest);
    thread_leave(self);
}

int run_grow(struct thread *self, struct page_run *run, size_t nr_pages, struct request *req)
{
    struct mem_cgroup *memcg = load_plain(&self->heap)->memcg;
    size_t more = nr_pages - run->nr_pages, bytes = more << PAGE_SHIFT;
    int error;

    assert_section(self);
    if (memcg != load_acquire(&run->objcg->memcg))
        return -ENOSPC;
    error = memcg_charge(memcg, bytes, req);
    if (error)
        return error;
    if (!extend_pages(run->slab.base, run->nr_pages, more, memcg->tag)) {
        memcg_uncharge(memcg, bytes);
        return -ENOSPC;
    }
    memcg_stat_add(memcg, STAT_RUNS, (int64_t)bytes);
    run_set_pages(run, nr_pages);
    return 0;
}

bool runs_are_valid(const struct heap *heap)
{
    int64_t bytes = 0;

    assert_section(heap->thread);
    for (const struct page_run *run = heap->kept; run; run = run->next_kept) {
        if (run->state != RUN_KEPT || run->objcg != heap->memcg->objcg ||
            virt_to_slab(run->slab.base) != &run->slab)
            return false;
        bytes += (int64_t)(run->nr_pages << PAGE_SHIFT);
    }
    return bytes == heap->kept_bytes && bytes <= KEPT_BYTES;
}
