/* SPDX-License-Identifier: Apache-2.0 */
/*
 * walk.c - every live block of a group, and figures of the whole.
 *
 * Kernel: none; ours.  Locks: all threads are stolen while fn runs.
 */
#include "memcg.h"

#include "debug.h"
#include "kmem_cache.h"
#include "page_alloc.h"
#include "page_run.h"
#include "shared.h"

/* True if objcg is charged to memcg, or was until memcg went offline. */
static bool is_of(const struct obj_cgroup *objcg, const struct mem_cgroup *memcg)
{
    return load_plain(&objcg->memcg) == memcg || objcg == memcg->objcg;
}

/* The map of free objects has a bit for each: at most 4096 (64 KiB / 16). */
static int walk_slab(struct mem_cgroup *memcg, struct slab *slab, memcg_block_fn fn, void *arg)
{
    uint64_t free_bits[64] = { 0 };
    char *object;
    int stop = 0;

    if (!slab->shared && !is_of(slab->cache->objcg, memcg))
        return 0;
    for (void *p = slab->freelist; p; p = get_freepointer(p)) {
        size_t i = (size_t)((char *)p - slab->base) / slab->size;

        free_bits[i / 64] |= 1ULL << (i % 64);
    }
    for (uint32_t i = 0; i < load_plain(&slab->carved) && !stop; i++) {
        if (free_bits[i / 64] >> (i % 64) & 1)
            continue;
        if (slab->shared && !is_of(slab_owner(slab, i)->objcg, memcg))
            continue;
        object = slab->base + (size_t)i * slab->size;
        stop = fn(arg, object, memcg_usable_size(object), slab->cache);
    }
    return stop;
}

void mem_cgroup_for_each_block(struct mem_cgroup *memcg, memcg_block_fn fn, void *arg)
{
    struct thread *t;
    struct kmem_cache *s;
    struct slab *slab;
    struct page_run *run;

    thread_steal_all();
    for_each_thread(t)
    {
        struct heap *heap = heap_lookup(t, memcg); /* an offline group's heaps are dropped */

        thread_collect(t);
        if (heap)
            heap_flush(heap, NULL);
    }
    hlist_for_each_entry(s, &all_caches, all_node) hlist_for_each_entry(
        slab, &s->slabs, cache_node) if (walk_slab(memcg, slab, fn, arg)) goto stop;
    hlist_for_each_entry(
        run, &all_runs,
        node) if (run->state != RUN_KEPT && is_of(run->objcg, memcg) &&
                  fn(arg, run->slab.base, memcg_usable_size(run->slab.base), NULL)) goto stop;
stop:
    thread_release_all();
}

/* ---- the whole ---- */

static const char *__find_invalid(void)
{
    struct kmem_cache *s;
    struct thread *t;
    struct heap *heap;

    for_each_thread(t)
        hlist_for_each_entry(heap, &t->heaps, node) if (!heap_is_valid(heap)) return "heap";
    hlist_for_each_entry(s, &all_caches, all_node) if (!cache_is_valid(s)) return "cache";
    return pages_are_valid() ? NULL : "pages";
}

const char *memcg_find_invalid(void)
{
    const char *invalid;

    thread_steal_all();
    invalid = __find_invalid();
    thread_release_all();
    return invalid;
}

void memcg_validate(void)
{
    const char *invalid;
    struct thread *t;
    struct kmem_cache *s;
    struct slab *slab;
    struct page_run *run;

    if (!slab_debug)
        return;
    thread_steal_all();
    for_each_thread(t) thread_collect(t);
    if ((invalid = __find_invalid())) {
        fprintf(stderr, "memcg: BUG %s: its lists and counts do not agree\n", invalid);
        abort();
    }
    hlist_for_each_entry(s, &all_caches, all_node) hlist_for_each_entry(slab, &s->slabs, cache_node)
        debug_check_slab(slab);
    hlist_for_each_entry(run, &all_runs, node) debug_check_slab(&run->slab);
    thread_release_all();
}

void memcg_read_global_stat(struct memcg_global_stat *stat)
{
    struct thread *t;
    struct kmem_cache *s;
    struct slab *slab;

    memset(stat, 0, sizeof(*stat));
    thread_steal_all();
    stat->reserved = arena_bytes();
    stat->committed = arena.nr_committed << PAGE_SHIFT;
    stat->pages_in_use = pages_in_use() << PAGE_SHIFT;
    stat->pages_free_dirty = pages_free_dirty() << PAGE_SHIFT;
    stat->metadata = metadata_bytes_in_use();
    for_each_thread(t)
    {
        thread_collect(t);
        stat->nr_threads++;
    }
    hlist_for_each_entry(s, &all_caches, all_node) hlist_for_each_entry(slab, &s->slabs, cache_node)
    {
        stat->nr_slabs++;
        if (slab->shared) {
            stat->slab_shared_bytes += (size_t)slab->nr_pages << PAGE_SHIFT;
            stat->slab_shared_used += (size_t)slab->inuse * slab->size;
        }
    }
    thread_release_all();
}
