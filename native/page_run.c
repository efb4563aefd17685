/* SPDX-License-Identifier: Apache-2.0 */
/*
 * page_run.c - blocks that are too large for a slab: whole pages of one owner.
 *
 * The descriptor (struct page_run) lies out of band. virt_to_slab() finds it as it finds a slab.
 *
 * Kernel: kmalloc_large (mm/slub.c).
 * Locks: runs_lock: all_runs, and a run's length.
 */
#include "page_run.h"

#include "charge.h"
#include "debug.h"
#include "page_alloc.h"

/* Free pages behind a block that grows, as a multiple of its size: even one that grows by eighths
 * soon has room. */
#define GROWTH_ROOM 3

struct mutex runs_lock = MUTEX_INITIALIZER;
struct hlist_head all_runs;

static void run_unlink(struct page_run *run)
{
    mutex_lock(&runs_lock);
    hlist_del(&run->node);
    mutex_unlock(&runs_lock);
}

struct page_run *run_alloc(struct thread *self, struct request *req)
{
    struct mem_cgroup *memcg = load_plain(&self->heap)->memcg;
    size_t nr_pages = (debug_run_bytes(req->bytes) + PAGE_SIZE - 1) >> PAGE_SHIFT;
    size_t bytes = nr_pages << PAGE_SHIFT, metadata_bytes = debug_run_metadata();
    struct page_run *run = NULL;
    bool zeroed = req->zero;
    void *pages;

    assert_section(self);
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
    memcg_stat_add(memcg, STAT_RUNS, -(int64_t)(nr_pages << PAGE_SHIFT));
    memcg_uncharge(memcg, nr_pages << PAGE_SHIFT);
}

void run_free(struct page_run *run)
{
    assert_any_section();
    if (unlikely(slab_debug))
        debug_free(&run->slab, run->slab.base);
    run_unlink(run);
    set_page_slab(run->slab.base, 1, NULL);
    run_uncharge(run, run->nr_pages);
    free_pages(run->slab.base, run->nr_pages);
    objcg_put(run->objcg);
    metadata_free(run, run->slab.metadata_bytes);
}

static void run_set_pages(struct page_run *run, size_t nr_pages)
{
    mutex_lock(&runs_lock);
    run->nr_pages = nr_pages;
    mutex_unlock(&runs_lock);
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
