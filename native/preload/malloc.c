/* SPDX-License-Identifier: Apache-2.0 */
/*
 * malloc.c - the C library's malloc, served by the data plane.
 *
 * A library with these names that is preloaded comes before glibc in the search for symbols, so
 * all C, C++ and Rust code that asks for malloc gets ours.  A block is ours if its address lies in
 * the arena; any other block is given to glibc.  So blocks from before the start, blocks that glibc
 * made for itself and ours may be freed and resized by the same calls.
 *
 * Not served by the data plane, but by glibc:
 *
 *   - calls before start.c has set it up, which ld.so and other libraries' constructors make;
 *   - calls from code that the data plane has called (section_go_out()): it must not be entered
 *     again.  If such code frees a block of ours, the block is put off and freed by a later call.
 *
 * As in glibc, realloc(p, 0) frees p, free() keeps errno, and errno is ENOMEM after a refusal.
 *
 * Locks: none.
 */
#define _GNU_SOURCE
#include "malloc.h"

#include <errno.h>
#include <string.h>

#include "arena.h"
#include "kmalloc.h"
#include "libc.h"
#include "memcontrol.h"

/* In the libraries that call us it is a function of glibc; here it is ours. */
#define PUBLIC __attribute__((visibility("default")))
#define HOT PUBLIC __attribute__((aligned(64)))
#define CALLER __builtin_return_address(0)

struct arena arena; /* of this shared object; memcg_copy_arena() */
atomic_int_t malloc_serves;

/* ---- blocks that could not be freed at once ----------------------------------- */

static ATOMIC(void *) put_off; /* a list, linked by the first words */

static void put_off_free(void *p)
{
    void *first = load_relaxed(&put_off);

    do {
        *(void **)p = first;
    } while (!cas_weak_release(&put_off, &first, p));
}

static void free_put_off(void)
{
    void *p = load_relaxed(&put_off) ? exchange_acquire(&put_off, NULL) : NULL;

    while (p) {
        void *next = *(void **)p;

        memcg_free_inside(p);
        p = next;
    }
}

/* ---- allocating ---------------------------------------------------------------- */

/* True if the data plane must not be entered. */
static bool is_closed(void) { return !load_acquire(&malloc_serves) || memcg_is_outside(); }

static void *or_enomem(void *p)
{
    if (unlikely(!p))
        errno = ENOMEM;
    return p;
}

/* A thread that runs no Python code may have to charge another group than before. */
static inline void follow_pool(void)
{
    static __thread unsigned seen MEMCG_TLS_MODEL;
    unsigned now = load_acquire(&memcg_pool_changes);

    if (unlikely(seen != now)) {
        seen = now;
        memcg_follow_pool();
    }
}

static __attribute__((noinline)) void *malloc_slow(size_t size, const void *caller)
{
    if (unlikely(is_closed()))
        return __libc_malloc(size);
    free_put_off();
    follow_pool();
    return or_enomem(memcg_malloc_c(size, caller));
}

/* In the section of self, which it ends. */
static __attribute__((noinline)) void *
malloc_rarer(size_t size, struct thread *self, const struct heap_slot *slot, const void *caller)
{
    if (unlikely(load_relaxed(&memcg_pool_changes))) {
        section_end(self);
        follow_pool();
        return or_enomem(memcg_malloc_c(size, caller));
    }
    return or_enomem(malloc_past_sheaf_c(size, self, slot, caller));
}

/* As memcg_malloc_fast(), but for malloc's callers. */
static inline void *malloc_fast(size_t size, const void *caller)
{
    struct thread *self = memcg_self;
    unsigned index;

    if (likely(size - 1 < KMALLOC_TABLE_SIZE))
        index = kmalloc_table[(size - 1) >> 4];
    else if (size - 1 < KMALLOC_MAX_CACHE_SIZE)
        index = kmalloc_index_above(size);
    else
        return malloc_slow(size, caller);
    if (likely(section_begin(self))) {
        struct heap_slot *slot = &self->kmalloc[index];
        void *object = sheaf_pop(slot);

        if (unlikely(!object))
            return malloc_rarer(size, self, slot, caller);
        section_end(self);
        return object;
    }
    return malloc_slow(size, caller);
}

void *malloc_for(size_t size, const void *caller) { return malloc_fast(size, caller); }

HOT void *malloc(size_t size) { return malloc_fast(size, CALLER); }

void *calloc_for(size_t nelem, size_t elsize, const void *caller)
{
    size_t size;

    if (unlikely(__builtin_mul_overflow(nelem, elsize, &size)))
        return or_enomem(NULL);
    if (likely(size <= KMALLOC_MAX_CACHE_SIZE)) {
        void *p = malloc_fast(size, caller);

        return likely(p != NULL) ? memset(p, 0, size) : NULL;
    }
    if (unlikely(is_closed()))
        return __libc_calloc(nelem, elsize);
    follow_pool();
    return or_enomem(memcg_calloc_c(size, caller));
}

PUBLIC void *calloc(size_t nelem, size_t elsize) { return calloc_for(nelem, elsize, CALLER); }

void *memalign_for(size_t align, size_t size, const void *caller)
{
    if (align <= 16)
        return malloc_fast(size, caller);
    if (unlikely(is_closed()))
        return __libc_memalign(align, size);
    follow_pool();
    if (align & (align - 1)) /* as glibc, which takes the next power of two */
        align = align > SIZE_MAX / 2 ? 0 : (size_t)1 << (64 - __builtin_clzll(align));
    return or_enomem(align ? memcg_memalign_c(align, size, caller) : NULL);
}

PUBLIC void *memalign(size_t align, size_t size) { return memalign_for(align, size, CALLER); }

PUBLIC void *aligned_alloc(size_t align, size_t size) { return memalign_for(align, size, CALLER); }

PUBLIC int posix_memalign(void **p, size_t align, size_t size)
{
    int error = errno;
    void *block;

    if (align % sizeof(void *) || !align || align & (align - 1))
        return EINVAL;
    block = memalign_for(align, size, CALLER);
    errno = error;
    if (!block)
        return ENOMEM;
    *p = block;
    return 0;
}

PUBLIC void *valloc(size_t size) { return memalign_for(PAGE_SIZE, size, CALLER); }

PUBLIC void *pvalloc(size_t size)
{
    return memalign_for(PAGE_SIZE, size > SIZE_MAX - PAGE_SIZE ? size : ALIGN_UP(size, PAGE_SIZE),
                        CALLER);
}

/* ---- freeing --------------------------------------------------------------------- */

static __attribute__((noinline)) void free_slow(void *p)
{
    int error = errno;

    if (memcg_is_outside())
        put_off_free(p);
    else
        memcg_free(p);
    errno = error;
}

/* In the section of self, which it ends. */
static __attribute__((noinline)) void free_rarer(void *p, struct thread *self, struct slab *slab)
{
    int error = errno;

    free_past_sheaf(p, self, slab);
    errno = error;
}

static inline void free_fast(void *p)
{
    struct thread *self = memcg_self;

    if (unlikely(!arena_contains(p))) {
        __libc_free(p);
        return;
    }
    if (likely(section_begin(self))) {
        struct slab *slab = page_to_slab(arena_page(p));

        if (likely(slab != NULL) && likely(sheaf_push(self, slab, p)))
            section_end(self);
        else
            free_rarer(p, self, slab);
        return;
    }
    free_slow(p);
}

void free_block(void *p) { free_fast(p); }

HOT void free(void *p) { free_fast(p); }

/* glibc had it until 2.26. */
PUBLIC void cfree(void *p) { free_fast(p); }

/* ---- resizing -------------------------------------------------------------------- */

/* A block of glibc's that grows moves to us, so that the growth is charged. */
#define FOREIGN_KEEP 1024 /* bytes up to which it grows in place */

static void *foreign_realloc(void *p, size_t size, const void *caller)
{
    size_t old;
    void *q;

    if (is_closed() || size <= FOREIGN_KEEP)
        return __libc_realloc(p, size);
    old = libc_usable_size(p);
    if (!old || size <= old)
        return __libc_realloc(p, size);
    follow_pool();
    q = or_enomem(memcg_malloc_c(size, caller));
    if (!q)
        return NULL;
    memcpy(q, p, old);
    __libc_free(p);
    return q;
}

/* Called from outside a section with a block of ours: it cannot be resized, but read. */
static void *realloc_outside(void *p, size_t size)
{
    size_t old = memcg_usable_size(p);
    void *q = size <= old ? p : __libc_malloc(size);

    if (q && q != p) {
        memcpy(q, p, old);
        put_off_free(p);
    }
    return q;
}

void *realloc_for(void *p, size_t size, const void *caller)
{
    enum resize resize;
    size_t old = 0;
    void *q;

    if (!p)
        return malloc_fast(size, caller);
    if (unlikely(!size)) {
        free_fast(p);
        return NULL;
    }
    if (unlikely(!arena_contains(p)))
        return foreign_realloc(p, size, caller);
    if (unlikely(memcg_is_outside()))
        return realloc_outside(p, size);
    follow_pool();
    resize = memcg_resize(p, size, &old);
    if (unlikely(resize == RESIZE_ELSE))
        return or_enomem(memcg_realloc_c(p, size, caller));
    if (resize == RESIZE_STAYS)
        return p;
    q = malloc_fast(size, caller);
    if (unlikely(!q))
        return size <= old ? p : NULL;
    memcpy(q, p, size < old ? size : old);
    free_fast(p);
    return q;
}

PUBLIC void *realloc(void *p, size_t size) { return realloc_for(p, size, CALLER); }

PUBLIC void *reallocarray(void *p, size_t nelem, size_t elsize)
{
    size_t size;

    if (unlikely(__builtin_mul_overflow(nelem, elsize, &size)))
        return or_enomem(NULL);
    return realloc_for(p, size, CALLER);
}

/* ---- figures --------------------------------------------------------------------- */

PUBLIC size_t malloc_usable_size(void *p)
{
    return arena_contains(p) ? memcg_usable_size(p) : p ? libc_usable_size(p) : 0;
}

/* Gives back what glibc and we hold and do not use. */
PUBLIC int malloc_trim(size_t pad)
{
    int trimmed = libc_trim(pad);

    return (!is_closed() && memcg_trim() > 0) | trimmed;
}
