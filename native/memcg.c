/*
 * memcg.c - memory of any size: size classes below, page runs above 32 KiB.
 *
 * An allocation runs in a section; when its charge meets a limit it leaves the
 * section, reclaims, and tries once more.
 *
 * Kernel: kmalloc/kfree (mm/slab_common.c), kmalloc_large.
 * Locks: runs_lock: all_runs, and a run's length.
 */
#include <stdlib.h>
#include <unistd.h>

#include "inline.h"

struct mutex runs_lock = MUTEX_INITIALIZER;
struct slab *all_runs;

static void run_unlink(struct slab *run)
{
    mutex_lock(&runs_lock);
    if (run->cache_prev)
        run->cache_prev->cache_next = run->cache_next;
    else
        all_runs = run->cache_next;
    if (run->cache_next)
        run->cache_next->cache_prev = run->cache_prev;
    mutex_unlock(&runs_lock);
}

/* In a section.  NULL: -ENOMEM or req->want_reclaim. */
struct slab *run_alloc(struct thread *self, struct request *req)
{
    struct mem_cgroup *memcg = self->heap->memcg;
    size_t nr_pages = (req->bytes + PAGE_SIZE - 1) >> PAGE_SHIFT;
    size_t bytes = nr_pages << PAGE_SHIFT;
    struct slab *run = NULL;
    bool zeroed = false;
    void *pages;

    if (memcg_charge(memcg, bytes, req))
        return NULL;
    pages = alloc_pages(nr_pages, 1, memcg->tag, &zeroed);
    if (pages)
        run = metadata_alloc(sizeof(*run));
    if (!run) {
        if (pages)
            free_pages(pages, nr_pages);
        memcg_uncharge(memcg, bytes);
        return NULL;
    }
    memset(run, 0, sizeof(*run));
    run->base = pages;
    run->run_pages = nr_pages;
    run->zeroed = zeroed;
    run->objcg = memcg->objcg;
    objcg_get(run->objcg);
    memcg_stat_add(memcg, STAT_RUNS, (int64_t)bytes);
    set_page_slab(pages, nr_pages, run);
    mutex_lock(&runs_lock);
    run->cache_next = all_runs;
    if (all_runs)
        all_runs->cache_prev = run;
    all_runs = run;
    mutex_unlock(&runs_lock);
    return run;
}

/* In a section. */
static void run_uncharge(struct slab *run, size_t nr_pages)
{
    struct mem_cgroup *memcg = __atomic_load_n(&run->objcg->memcg, __ATOMIC_ACQUIRE);

    memcg_stat_add(memcg, STAT_RUNS, -(int64_t)(nr_pages << PAGE_SHIFT));
    memcg_uncharge(memcg, nr_pages << PAGE_SHIFT);
}

static void run_free(struct slab *run)
{
    run_unlink(run);
    set_page_slab(run->base, run->run_pages, NULL);
    run_uncharge(run, run->run_pages);
    free_pages(run->base, run->run_pages);
    objcg_put(run->objcg);
    metadata_free(run, sizeof(*run));
}

static void *malloc_slow(size_t size, bool zero)
{
    struct request req = { .bytes = size ? size : 1, .kind = CHARGE_SMALL };
    bool zeroed;
    void *p;

    if (size > PTRDIFF_MAX - PAGE_SIZE)
        return NULL;
    for (;;) {
        struct thread *self = thread_enter();

        zeroed = false;
        if (self->stop_depth)
            req.kind = CHARGE_FORCE;
        if (req.bytes <= KMALLOC_MAX_CACHE_SIZE) {
            p = cache_alloc(self, kmalloc_caches[kmalloc_index(req.bytes)], &req);
        } else {
            struct slab *run = run_alloc(self, &req);

            p = run ? run->base : NULL;
            zeroed = run && run->zeroed;
        }
        thread_leave(self);
        if (p || !req.want_reclaim)
            break;
        mem_cgroup_reclaim(req.want_reclaim);
        req.want_reclaim = NULL;
        req.reclaimed = true;
    }
    if (p && zero && !zeroed)
        memset(p, 0, size);
    return p;
}

void *memcg_malloc(size_t size) { return malloc_slow(size, false); }
void *memcg_calloc(size_t size) { return malloc_slow(size, true); }

void memcg_free(void *p)
{
    struct thread *self;
    struct slab *slab;
    bool is_run;

    if (!p)
        return;
    self = thread_enter();
    slab = virt_to_slab(p);
    is_run = slab && !slab->cache; /* slab_free() may end the slab */
    if (!slab || (is_run ? slab->base != p : slab_free(self, slab, p) != 0)) {
        static const char text[] = "memcg: free of what is not an allocated block\n";

        if (write(2, text, sizeof(text) - 1)) {}
        abort();
    }
    if (is_run)
        run_free(slab);
    thread_leave(self);
}

/* The block is live, so its descriptor stays: no section needed. */
size_t memcg_usable_size(const void *p)
{
    struct slab *slab = virt_to_slab(p);

    return !slab ? 0 : slab->cache ? slab->size : slab->run_pages << PAGE_SHIFT;
}

/* Gives back the tail of a run in place. */
static void run_shrink(struct slab *run, size_t size)
{
    struct thread *self = thread_enter();
    size_t keep = (size + PAGE_SIZE - 1) >> PAGE_SHIFT, rest = run->run_pages - keep;
    char *tail = run->base + (keep << PAGE_SHIFT);

    mutex_lock(&runs_lock);
    run->run_pages = keep;
    mutex_unlock(&runs_lock);
    set_page_slab(tail, rest, NULL);
    run_uncharge(run, rest);
    free_pages(tail, rest);
    thread_leave(self);
}

void *memcg_realloc(void *p, size_t size)
{
    size_t old;
    void *q;

    if (!p)
        return memcg_malloc(size);
    size = size ? size : 1;
    old = memcg_usable_size(p);
    if (size <= old && size > old / 2)
        return p;
    if (old > KMALLOC_MAX_CACHE_SIZE && size <= old && size > KMALLOC_MAX_CACHE_SIZE) {
        run_shrink(virt_to_slab(p), size);
        return p;
    }
    q = memcg_malloc_fast(size);
    if (!q)
        return size <= old ? p : NULL;
    memcpy(q, p, size < old ? size : old);
    memcg_free_fast(p);
    return q;
}

bool memcg_owns(const void *p) { return arena_contains(p); }
