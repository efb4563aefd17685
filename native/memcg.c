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

#define GROWTH_ROOM 3 /* times the size: what grows by an eighth finds its place in time */

struct mutex runs_lock = MUTEX_INITIALIZER;
struct hlist_head all_runs;

static void run_unlink(struct slab *run)
{
    mutex_lock(&runs_lock);
    hlist_del(&run->cache_node);
    mutex_unlock(&runs_lock);
}

/* In a section.  NULL: -ENOMEM or req->want_reclaim. */
struct slab *run_alloc(struct thread *self, struct request *req)
{
    struct mem_cgroup *memcg = load_plain(&self->heap)->memcg;
    size_t nr_pages = (debug_run_bytes(req->bytes) + PAGE_SIZE - 1) >> PAGE_SHIFT;
    size_t bytes = nr_pages << PAGE_SHIFT, metadata_bytes = debug_run_metadata();
    struct slab *run = NULL;
    bool zeroed = req->zero;
    void *pages;

    if (memcg_charge(memcg, bytes, req))
        return NULL;
    pages = req->grows ? alloc_pages_to_grow(nr_pages, GROWTH_ROOM * nr_pages, memcg->tag, &zeroed)
                       : alloc_pages(nr_pages, 1, memcg->tag, &zeroed);
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
    run->base = pages;
    run->run_pages = nr_pages;
    run->metadata_bytes = metadata_bytes;
    run->objcg = memcg->objcg;
    objcg_get(run->objcg);
    memcg_stat_add(memcg, STAT_RUNS, (int64_t)bytes);
    if (unlikely(slab_debug))
        debug_alloc(run, pages, req->bytes, req->zero);
    set_page_slab(pages, 1, run); /* nobody asks for a page inside */
    mutex_lock(&runs_lock);
    hlist_add_head(&run->cache_node, &all_runs);
    mutex_unlock(&runs_lock);
    return run;
}

/* In a section. */
static void run_uncharge(struct slab *run, size_t nr_pages)
{
    struct mem_cgroup *memcg = load_acquire(&run->objcg->memcg);

    memcg_stat_add(memcg, STAT_RUNS, -(int64_t)(nr_pages << PAGE_SHIFT));
    memcg_uncharge(memcg, nr_pages << PAGE_SHIFT);
}

static void run_free(struct thread *self, struct slab *run)
{
    struct heap *heap = run->run_for ? heap_lookup(self, load_plain(&run->objcg->memcg)) : NULL;

    if (heap)
        shared_count(heap, run->run_for, -1);
    if (unlikely(slab_debug))
        debug_free(run, run->base);
    run_unlink(run);
    set_page_slab(run->base, 1, NULL);
    run_uncharge(run, run->run_pages);
    free_pages(run->base, run->run_pages);
    objcg_put(run->objcg);
    metadata_free(run, run->metadata_bytes);
}

static void *malloc_slow(size_t size, bool zero, bool grows, enum charge_kind kind)
{
    struct request req = { .bytes = size ? size : 1, .zero = zero, .grows = grows, .kind = kind };
    void *p;

    if (size > PTRDIFF_MAX - PAGE_SIZE || unlikely(!arena.base))
        return NULL;
    for (;;) {
        struct thread *self = thread_enter();

        if (self->stop_depth)
            req.kind = CHARGE_FORCE;
        if (req.bytes <= KMALLOC_MAX_CACHE_SIZE) {
            struct kmem_cache *s = kmalloc_caches[kmalloc_index(req.bytes)];

            p = should_fail_request(self, s, &req) ? NULL : cache_alloc(self, s, &req);
        } else if (should_fail_request(self, NULL, &req)) {
            p = NULL;
        } else {
            struct slab *run = run_alloc(self, &req);

            p = run ? run->base : NULL;
        }
        thread_leave(self);
        if (p || !req.want_reclaim)
            break;
        mem_cgroup_reclaim(req.want_reclaim);
        req.want_reclaim = NULL;
        req.reclaimed = true;
    }
    if (p && zero && req.bytes <= KMALLOC_MAX_CACHE_SIZE)
        memset(p, 0, size);
    return p;
}

void *memcg_malloc(size_t size) { return malloc_slow(size, false, false, CHARGE_SMALL); }
void *memcg_calloc(size_t size) { return malloc_slow(size, true, false, CHARGE_SMALL); }
void *memcg_malloc_stack(size_t size) { return malloc_slow(size, false, false, CHARGE_STACK); }

void *malloc_past_sheaf(size_t size, struct thread *self, const struct heap_slot *slot)
{
    void *object = shared_pop(self, (unsigned)(slot - self->kmalloc));

    section_end(self);
    return likely(object != NULL) ? object : memcg_malloc(size);
}

static _Noreturn void bad_free(const struct slab *slab, const void *p, int error)
{
    char text[80];
    int n;

    if (slab)
        slab_bug(slab, p, error == -EALREADY ? "Object already free" : "Invalid object pointer");
    n = snprintf(text, sizeof(text), "memcg: BUG free of what is not an allocated block: %p\n", p);
    if (write(2, text, (size_t)n)) {}
    abort();
}

/* glibc learns from the free of a large block to keep that much (mallopt(3), M_MMAP_THRESHOLD).  The
 * process's large blocks come to us instead, so glibc would give back what libraries malloc themselves,
 * and fault it in anew each time.  Whenever a larger block than before is freed here, we therefore
 * malloc and free one of that size from glibc, without touching it, which raises its threshold. */
static void teach_libc(size_t bytes)
{
    static atomic_size_t largest = { 128 << 10 }; /* glibc's threshold at the start; 32 MiB is its last */
    void *volatile block;              /* or the compiler drops the pair */

    if (likely(bytes <= load_relaxed(&largest) || bytes > 32 << 20))
        return;
    store_relaxed(&largest, bytes);
    block = malloc(bytes);
    free(block);
}

void memcg_free(void *p)
{
    struct thread *self;
    struct slab *slab;
    size_t run_bytes = 0;
    bool is_run;
    int error;

    if (!p)
        return;
    self = thread_enter();
    slab = virt_to_slab(p);
    is_run = slab && !slab->cache; /* slab_free() may end the slab */
    error = !slab ? -EINVAL : is_run ? slab->base == p ? 0 : -EINVAL : slab_free(self, slab, p);
    if (unlikely(error))
        bad_free(slab, p, error);
    if (is_run) {
        run_bytes = slab->run_pages << PAGE_SHIFT;
        run_free(self, slab);
    }
    thread_leave(self);
    teach_libc(run_bytes);
}

void free_past_sheaf(void *object, struct thread *self, struct slab *slab)
{
    bool done = likely(slab != NULL) && slab->shared && shared_free(self, slab, object);

    section_end(self);
    if (unlikely(!done))
        memcg_free(object);
}

/* The block is live, so its descriptor stays: no section needed. */
size_t memcg_usable_size(const void *p)
{
    struct slab *slab = virt_to_slab(p);
    size_t asked = unlikely(slab_debug) && slab ? debug_usable_size(slab, p) : 0;

    return asked ? asked : !slab ? 0 : slab->cache ? slab->size : slab->run_pages << PAGE_SHIFT;
}

static void run_set_pages(struct slab *run, size_t nr_pages)
{
    mutex_lock(&runs_lock);
    run->run_pages = nr_pages;
    mutex_unlock(&runs_lock);
}

/* Gives back the tail of a run in place. */
static void run_shrink(struct slab *run, size_t nr_pages)
{
    struct thread *self = thread_enter();
    size_t rest = run->run_pages - nr_pages;

    run_set_pages(run, nr_pages);
    run_uncharge(run, rest);
    free_pages(run->base + (nr_pages << PAGE_SHIFT), rest);
    thread_leave(self);
}

/* In a section.  In place, when the pages behind are free and the current group is the owner.
 * 0: done; -ENOSPC: it must move; -ENOMEM; -EAGAIN: req->want_reclaim is set. */
static int __run_grow(struct thread *self, struct slab *run, size_t nr_pages, struct request *req)
{
    struct mem_cgroup *memcg = load_plain(&self->heap)->memcg;
    size_t more = nr_pages - run->run_pages, bytes = more << PAGE_SHIFT;
    int error;

    if (memcg != load_acquire(&run->objcg->memcg))
        return -ENOSPC;
    error = memcg_charge(memcg, bytes, req);
    if (error)
        return error;
    if (!extend_pages(run->base, run->run_pages, more, memcg->tag)) {
        memcg_uncharge(memcg, bytes);
        return -ENOSPC;
    }
    memcg_stat_add(memcg, STAT_RUNS, (int64_t)bytes);
    run_set_pages(run, nr_pages);
    return 0;
}

static int run_grow(struct slab *run, size_t size)
{
    struct request req = { .bytes = size, .kind = CHARGE_SMALL };
    int error;

    if (size > arena_bytes())
        return -ENOSPC;
    for (;;) {
        struct thread *self = thread_enter();

        if (self->stop_depth)
            req.kind = CHARGE_FORCE;
        error = should_fail_request(self, NULL, &req)
                    ? -ENOMEM
                    : __run_grow(self, run, (size + PAGE_SIZE - 1) >> PAGE_SHIFT, &req);
        thread_leave(self);
        if (error != -EAGAIN)
            return error;
        mem_cgroup_reclaim(req.want_reclaim);
        req.reclaimed = true;
    }
}

/* -ENOSPC: it must move. */
static int run_resize(struct slab *run, size_t size)
{
    size_t nr_pages = (size + PAGE_SIZE - 1) >> PAGE_SHIFT;

    if (nr_pages > run->run_pages)
        return run_grow(run, size);
    if (nr_pages < run->run_pages - run->run_pages / 8)
        run_shrink(run, nr_pages);
    return 0;
}

void *memcg_realloc(void *p, size_t size)
{
    struct slab *slab;
    size_t old;
    void *q;
    int error;

    if (!p)
        return memcg_malloc_fast(size);
    if (size > PTRDIFF_MAX - PAGE_SIZE)
        return NULL;
    size = size ? size : 1;
    slab = virt_to_slab(p);
    if (unlikely(!slab || (slab->cache ? !slab_is_object(slab, p) : slab->base != p)))
        bad_free(slab, p, -EINVAL);
    old = memcg_usable_size(p);
    if (unlikely(slab_debug) && debug_usable_size(slab, p))
        goto move; /* its red zone begins where its bytes end */
    if (!slab->cache && size > KMALLOC_MAX_CACHE_SIZE) {
        error = run_resize(slab, size);
        if (error != -ENOSPC)
            return error ? NULL : p;
    } else if (size <= old && size > old / 2) {
        return p;
    }
move:
    q = size > KMALLOC_MAX_CACHE_SIZE && size > old
            ? malloc_slow(size, false, true, CHARGE_SMALL)
            : memcg_malloc_fast(size);
    if (!q)
        return size <= old ? p : NULL;
    memcpy(q, p, size < old ? size : old);
    memcg_free_fast(p);
    return q;
}

bool memcg_owns(const void *p) { return arena_contains(p); }
