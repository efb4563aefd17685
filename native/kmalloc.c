/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kmalloc.c - memory of any size: size classes, and page runs above 32 KiB.
 *
 * An allocation runs in a section.  If its charge meets a limit, it leaves the section, reclaims,
 * and tries once more (request_retry()).
 *
 * Kernel: kmalloc/kfree/krealloc (mm/slab_common.c), kmalloc_large.
 * Locks: none of its own.
 */
#include "kmalloc.h"

#include <stdlib.h>
#include <unistd.h>

#include "debug.h"
#include "fault.h"
#include "free.h"
#include "kmem_cache.h"
#include "page_run.h"
#include "reclaim.h"
#include "sampling.h"

static void *serve(struct thread *self, struct kmem_cache *s, struct request *req)
{
    struct page_run *run;

    if (s)
        return cache_alloc(self, s, req);
    run = run_alloc(self, req);
    return run ? run->slab.base : NULL;
}

static __attribute__((noinline)) void *serve_watched(struct thread *self, struct kmem_cache *s,
                                                     struct request *req)
{
    if (should_fail_request(self, s, req))
        return NULL;
    return load_plain(&self->heap)->sample_every ? sampling_serve(self, s, req)
                                                 : serve(self, s, req);
}

/* bytes may be 0, which is served as 1. */
static void *request_memory(struct request *req)
{
    size_t bytes = req->bytes;
    void *p;

    if (bytes > PTRDIFF_MAX - PAGE_SIZE || unlikely(!arena.base))
        return NULL;
    req->bytes += !bytes;
    do {
        struct thread *self = thread_enter();

        if (self->stop_depth)
            req->kind = CHARGE_FORCE;
        if (req->bytes <= KMALLOC_MAX_CACHE_SIZE && likely(!req->align_pages)) {
            struct kmem_cache *s = kmalloc_caches[kmalloc_index(req->bytes)];

            p = unlikely(load_relaxed(&requests_watched)) ? serve_watched(self, s, req)
                                                          : cache_alloc(self, s, req);
        } else if (unlikely(load_relaxed(&requests_watched))) {
            p = serve_watched(self, NULL, req);
        } else {
            p = serve(self, NULL, req);
        }
        thread_leave(self);
    } while (!p && request_retry(req));
    if (p && req->zero && req->bytes <= KMALLOC_MAX_CACHE_SIZE)
        memset(p, 0, bytes);
    return p;
}

void *memcg_malloc(size_t size)
{
    struct request req = { .bytes = size };

    return request_memory(&req);
}

void *memcg_calloc(size_t size)
{
    struct request req = { .bytes = size, .zero = true };

    return request_memory(&req);
}

void *memcg_malloc_stack(size_t size)
{
    struct request req = { .bytes = size, .kind = CHARGE_STACK };

    return request_memory(&req);
}

/* ---- malloc's callers -------------------------------------------------------- */

void *memcg_malloc_c(size_t size, const void *caller)
{
    struct request req = { .bytes = size, .kind = CHARGE_C, .caller = caller };

    return request_memory(&req);
}

void *memcg_calloc_c(size_t size, const void *caller)
{
    struct request req = { .bytes = size, .zero = true, .kind = CHARGE_C, .caller = caller };

    return request_memory(&req);
}

/* Returns the smallest size of a class of at least `size` bytes whose objects are so aligned.  0:
 * none. Checked objects are aligned to 16 only. */
static size_t aligned_class(size_t align, size_t size)
{
    if (slab_debug || align > PAGE_SIZE)
        return 0;
    if (align > 16 && size <= COLOUR_MAX_SIZE)
        size = COLOUR_MAX_SIZE + 1; /* the objects of smaller classes begin 48 bytes into a page */
    while (size && size <= KMALLOC_MAX_CACHE_SIZE) {
        size_t class = kmalloc_size((int)kmalloc_index(size));

        if (class % align == 0)
            return class;
        size = class + 1;
    }
    return 0;
}

void *memcg_memalign_c(size_t align, size_t size, const void *caller)
{
    struct request req = { .bytes = size + !size, .kind = CHARGE_C, .caller = caller };
    size_t class;

    if (align <= 16)
        return memcg_malloc_c(size, caller);
    class = aligned_class(align, req.bytes);
    if (class)
        req.bytes = class;
    else
        req.align_pages = align > PAGE_SIZE ? align >> PAGE_SHIFT : 1;
    return request_memory(&req);
}

void *malloc_past_sheaf(size_t size, struct thread *self, const struct heap_slot *slot)
{
    void *object = shared_pop(self, (unsigned)(slot - self->kmalloc));

    section_end(self);
    return likely(object != NULL) ? object : memcg_malloc(size);
}

void *malloc_past_sheaf_c(size_t size, struct thread *self, const struct heap_slot *slot,
                          const void *caller)
{
    void *object = shared_pop(self, (unsigned)(slot - self->kmalloc));

    section_end(self);
    return likely(object != NULL) ? object : memcg_malloc_c(size, caller);
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

/* When a large block is freed, glibc learns to keep that much (mallopt(3), M_MMAP_THRESHOLD).  The
 * process's large blocks are ours, so glibc would return what libraries malloc themselves to the
 * system, and fault it in anew each time.  Whenever a larger block than before is freed here, we
 * therefore malloc and free one of that size from glibc, without touching it, which raises its
 * threshold. */
static void teach_libc(size_t bytes)
{
    /* glibc's first threshold; its last is 32 MiB */
    static atomic_usize_t largest = { 128 << 10 };
    void *volatile block; /* volatile, so that the compiler keeps the pair */

    if (likely(bytes <= load_relaxed(&largest) || bytes > 32 << 20) || memcg_serves_c())
        return;
    store_relaxed(&largest, bytes);
    block = malloc(bytes);
    free(block);
}

/* If the run stood in for an object of a shared slab, it no longer counts as one. */
static void run_uncount(struct thread *self, const struct page_run *run)
{
    struct heap *heap = run->run_for ? heap_lookup(self, load_plain(&run->objcg->memcg)) : NULL;

    if (heap)
        count_unpromoted(heap, run->run_for, -1);
}

/* 0 if the block of a run begins at p and is live; RUN_SAMPLED if it has a sample too. */
static int run_check(const struct slab *slab, const void *p)
{
    if (slab->base != p)
        return -EINVAL;
    return likely(slab_to_run(slab)->state == RUN_LIVE) ? 0
           : slab_to_run(slab)->state == RUN_KEPT       ? -EALREADY
                                                        : RUN_SAMPLED;
}

static __attribute__((noinline)) void free_otherwise(struct slab *slab, const void *p, int error)
{
    if (error != RUN_SAMPLED)
        bad_free(slab, p, error);
    run_drop_sample(slab_to_run(slab));
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
    is_run = slab && !slab->cache; /* read first: slab_free() may destroy the slab */
    error = !slab ? -EINVAL : is_run ? run_check(slab, p) : slab_free(self, slab, p);
    if (unlikely(error))
        free_otherwise(slab, p, error);
    if (is_run) {
        struct page_run *run = slab_to_run(slab);

        run_bytes = run->nr_pages << PAGE_SHIFT;
        run_uncount(self, run);
        run_free(self, run);
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

/* The block is live, so its descriptor stays.  Needs no section. */
static inline size_t usable_size(const struct slab *slab, const void *p)
{
    size_t asked = unlikely(slab_debug) && slab ? debug_usable_size(slab, p) : 0;

    return asked ? asked : !slab ? 0 : slab->cache ? slab->size : run_bytes(slab_to_run(slab));
}

size_t memcg_usable_size(const void *p) { return usable_size(virt_to_slab(p), p); }

static int run_grow_to(struct page_run *run, size_t size, const struct request *like)
{
    struct request req = *like;
    size_t before = run->nr_pages;
    int error;

    if (size > arena_bytes())
        return -ENOSPC;
    do {
        struct thread *self = thread_enter();

        if (self->stop_depth)
            req.kind = CHARGE_FORCE;
        error = should_fail_request(self, NULL, &req)
                    ? -ENOMEM
                    : run_grow(self, run, (size + PAGE_SIZE - 1) >> PAGE_SHIFT, &req);
        if (!error && unlikely(load_relaxed(&requests_watched)))
            sampling_grown(self, run, (run->nr_pages - before) << PAGE_SHIFT, req.caller);
        thread_leave(self);
    } while (error == -EAGAIN && request_retry(&req));
    return error;
}

/* -ENOSPC: the block must move. */
static int run_resize(struct page_run *run, size_t size, const struct request *like)
{
    size_t nr_pages = (size + PAGE_SIZE - 1) >> PAGE_SHIFT;

    if (nr_pages > run->nr_pages)
        return run_grow_to(run, size, like);
    if (nr_pages < run->nr_pages - run->nr_pages / 8)
        run_shrink(run, nr_pages);
    return 0;
}

static void *resize_block(void *p, size_t size, enum charge_kind kind, const void *caller)
{
    struct request req = { .bytes = size + !size, .kind = kind, .caller = caller };
    struct slab *slab;
    size_t old;
    void *q;
    int error;

    if (size > PTRDIFF_MAX - PAGE_SIZE)
        return NULL;
    size = size ? size : 1;
    slab = virt_to_slab(p);
    error = !slab         ? -EINVAL
            : slab->cache ? slab_is_object(slab, p) ? 0 : -EINVAL
                          : run_check(slab, p);
    if (unlikely(error) && error != RUN_SAMPLED)
        bad_free(slab, p, error);
    old = usable_size(slab, p);
    if (unlikely(slab_debug) && debug_usable_size(slab, p))
        goto move; /* its red zone begins where its bytes end */
    if (!slab->cache && size > KMALLOC_MAX_CACHE_SIZE &&
        old == slab_to_run(slab)->nr_pages << PAGE_SHIFT) {
        error = run_resize(slab_to_run(slab), size, &req);
        if (error != -ENOSPC)
            return error ? NULL : p;
    } else if (resize_stays(old, size)) {
        return p;
    }
move:
    req.grows = size > KMALLOC_MAX_CACHE_SIZE && size > old;
    q = req.grows || kind == CHARGE_C ? request_memory(&req) : memcg_malloc_fast(size);
    if (!q)
        return size <= old ? p : NULL;
    memcpy(q, p, size < old ? size : old);
    memcg_free_fast(p);
    return q;
}

void *memcg_realloc(void *p, size_t size)
{
    return p ? resize_block(p, size, CHARGE_SMALL, NULL) : memcg_malloc_fast(size);
}

void *memcg_realloc_c(void *p, size_t size, const void *caller)
{
    return p ? resize_block(p, size, CHARGE_C, caller) : memcg_malloc_c(size, caller);
}

bool memcg_owns(const void *p) { return arena_contains(p); }
