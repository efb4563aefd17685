/* SPDX-License-Identifier: Apache-2.0 */
/*
 * doors.c - allocators that libraries bring along, served by the data plane.
 *
 * Such an allocator takes its memory from mmap, so malloc.c never sees a request.  But the library
 * calls it through words in its table of addresses.  src/memcg/integrations/ checks these words and
 * writes the addresses of the functions below into them, and gives us what stood there before: a
 * block that is not ours was made by that.
 *
 * The caller is the library, so survivor.c finds its name.
 *
 * Locks: none.  The originals are written once, before a word that leads here.
 */
#include "malloc.h"

#include <string.h>

#include "arena.h"
#include "memcg.h"

#define PUBLIC __attribute__((visibility("default")))
#define CALLER __builtin_return_address(0)

/* ---- jemalloc, as Rust calls it (tikv-jemallocator) ------------------------------ */

#define JE_LG_ALIGN(flags) ((flags) & 63)
#define JE_ZERO 0x40

/* In the order of memcg_door_jemalloc's words. */
PUBLIC extern struct je {
    void *(*malloc)(size_t size);
    void *(*calloc)(size_t n, size_t size);
    void *(*realloc)(void *p, size_t size);
    void *(*mallocx)(size_t size, int flags);
    void *(*rallocx)(void *p, size_t size, int flags);
    void (*sdallocx)(void *p, size_t size, int flags);
} memcg_door_jemalloc, memcg_door_jemalloc_original;

struct je memcg_door_jemalloc_original;

static void *je_malloc(size_t size) { return malloc_for(size, CALLER); }

static void *je_calloc(size_t n, size_t size) { return calloc_for(n, size, CALLER); }

static void *je_realloc(void *p, size_t size)
{
    if (p && !arena_contains(p))
        return memcg_door_jemalloc_original.realloc(p, size);
    return realloc_for(p, size, CALLER);
}

static void *je_mallocx_for(size_t size, int flags, const void *caller)
{
    size_t align = (size_t)1 << JE_LG_ALIGN(flags);
    void *p;

    if (align <= 16 && flags & JE_ZERO)
        return calloc_for(1, size, caller);
    p = memalign_for(align, size, caller);
    return p && flags & JE_ZERO ? memset(p, 0, size) : p;
}

static void *je_mallocx(size_t size, int flags) { return je_mallocx_for(size, flags, CALLER); }

static void *je_rallocx(void *p, size_t size, int flags)
{
    size_t align = (size_t)1 << JE_LG_ALIGN(flags), old;
    void *q;

    if (!arena_contains(p))
        return memcg_door_jemalloc_original.rallocx(p, size, flags);
    if (align <= 16 && !(flags & JE_ZERO))
        return realloc_for(p, size, CALLER);
    q = je_mallocx_for(size, flags, CALLER);
    if (q) {
        old = memcg_usable_size(p);
        memcpy(q, p, old < size ? old : size);
        free_block(p);
    }
    return q;
}

static void je_sdallocx(void *p, size_t size, int flags)
{
    if (arena_contains(p))
        free_block(p);
    else
        memcg_door_jemalloc_original.sdallocx(p, size, flags);
}

struct je memcg_door_jemalloc = {
    .malloc = je_malloc,
    .calloc = je_calloc,
    .realloc = je_realloc,
    .mallocx = je_mallocx,
    .rallocx = je_rallocx,
    .sdallocx = je_sdallocx,
};

/* ---- DuckDB's default Allocator -------------------------------------------------- */

PUBLIC extern struct duckdb {
    void *(*allocate)(void *unused, uint64_t size);
    void (*free)(void *unused, void *p, uint64_t size);
    void *(*reallocate)(void *unused, void *p, uint64_t old, uint64_t size);
} memcg_door_duckdb, memcg_door_duckdb_original;

struct duckdb memcg_door_duckdb_original;

static void *duckdb_allocate(void *unused, uint64_t size)
{
    (void)unused;
    return malloc_for(size, CALLER);
}

static void duckdb_free(void *unused, void *p, uint64_t size)
{
    if (!p || arena_contains(p))
        free_block(p);
    else
        memcg_door_duckdb_original.free(unused, p, size);
}

static void *duckdb_reallocate(void *unused, void *p, uint64_t old, uint64_t size)
{
    if (p && !arena_contains(p))
        return memcg_door_duckdb_original.reallocate(unused, p, old, size);
    return realloc_for(p, size, CALLER);
}

struct duckdb memcg_door_duckdb = {
    .allocate = duckdb_allocate,
    .free = duckdb_free,
    .reallocate = duckdb_reallocate,
};
