/*
 * walk.c - every live block of a group, and figures of the whole.
 *
 * Kernel: none; ours.  Locks: all threads stolen while fn runs.
 */
#include "inline.h"

/* Charged to memcg now, or, of a group that is offline, before its stub moved on. */
static bool is_of(const struct obj_cgroup *objcg, const struct mem_cgroup *memcg)
{
    return load_plain(&objcg->memcg) == memcg || objcg == memcg->objcg;
}

/* A map of free objects is made in bits: objects <= 4096 (64 KiB / 16). */
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
    int stop = 0;

    thread_steal_all();
    for (struct thread *t = all_threads; t; t = t->next) {
        struct heap *heap = heap_lookup(t, memcg); /* an offline group's are dropped */

        thread_collect(t);
        if (heap)
            heap_flush(heap, NULL);
    }
    for (struct kmem_cache *s = all_caches; s && !stop; s = s->all_next)
        for (struct slab *slab = s->slabs; slab && !stop; slab = slab->cache_next)
            stop = walk_slab(memcg, slab, fn, arg);
    for (struct slab *run = all_runs; run && !stop; run = run->cache_next)
        if (is_of(run->objcg, memcg))
            stop = fn(arg, run->base, memcg_usable_size(run->base), NULL);
    thread_release_all();
}

size_t memcg_trim(void)
{
    size_t bytes;

    thread_steal_all();
    for (struct thread *t = all_threads; t; t = t->next) {
        thread_collect(t);
        for (struct heap *heap = t->heaps; heap; heap = heap->next)
            heap_shrink(heap, NULL);
    }
    bytes = page_trim(0);
    thread_release_all();
    return bytes;
}

void memcg_read_global_stat(struct memcg_global_stat *stat)
{
    memset(stat, 0, sizeof(*stat));
    thread_steal_all();
    stat->reserved = arena_bytes();
    stat->committed = arena.nr_committed << PAGE_SHIFT;
    stat->pages_in_use = pages_in_use() << PAGE_SHIFT;
    stat->pages_free_dirty = pages_free_dirty() << PAGE_SHIFT;
    stat->metadata = metadata_bytes_in_use();
    for (struct thread *t = all_threads; t; t = t->next) {
        thread_collect(t);
        stat->nr_threads++;
    }
    for (struct kmem_cache *s = all_caches; s; s = s->all_next)
        for (struct slab *slab = s->slabs; slab; slab = slab->cache_next) {
            stat->nr_slabs++;
            if (slab->shared) {
                stat->slab_shared_bytes += (size_t)slab->nr_pages << PAGE_SHIFT;
                stat->slab_shared_used += (size_t)slab->inuse * slab->size;
            }
        }
    thread_release_all();
}
