/* SPDX-License-Identifier: Apache-2.0 */
/*
 * reclaim.c - gives back what groups hold and do not use: empty slabs, stock, objects that were
 * freed and still wait.
 *
 * Kernel: try_to_free_mem_cgroup_pages, drain_all_stock (mm/memcontrol.c), kmem_cache_shrink.
 * Locks: all threads are stolen, or those that hold something; groups_lock for the tree.
 */
#include "reclaim.h"

#include <time.h>

#include "page_alloc.h"
#include "page_run.h"
#include "shared.h"

size_t mem_cgroup_reclaim(struct mem_cgroup *memcg)
{
    struct thread *t;
    struct heap *heap;
    size_t bytes = 0;

    if (thread_is_forking())
        return 0;
    thread_steal_all();
    for_each_thread(t)
    {
        thread_collect(t);
        hlist_for_each_entry(heap, &t->heaps, node)
        {
            /* shared slabs are charged to no group, but they take pages */
            if (heap->memcg ? !mem_cgroup_is_descendant(heap->memcg, memcg)
                            : memcg != &root_mem_cgroup)
                continue;
            bytes += heap_shrink(heap, NULL) << PAGE_SHIFT;
            bytes += heap_drain_stock(heap);
        }
    }
    thread_release_all();
    return bytes;
}

bool request_retry(struct request *req)
{
    if (!req->want_reclaim)
        return false;
    mem_cgroup_reclaim(req->want_reclaim);
    req->want_reclaim = NULL;
    req->reclaimed = true;
    return true;
}

size_t cache_shrink_stolen(struct kmem_cache *s)
{
    struct thread *t;
    struct heap *heap;
    long before = load_plain(&s->total_pages);

    assert_walker();
    for_each_thread(t)
    {
        thread_collect(t);
        hlist_for_each_entry(heap, &t->heaps, node) heap_shrink(heap, s);
    }
    return (size_t)(before - load_plain(&s->total_pages));
}

size_t memcg_trim(void)
{
    struct thread *t;
    struct heap *heap;
    size_t bytes;

    thread_steal_all();
    for_each_thread(t)
    {
        thread_collect(t);
        hlist_for_each_entry(heap, &t->heaps, node)
        {
            heap_shrink(heap, NULL);
            heap_drain_stock(heap);
        }
    }
    bytes = page_trim(0);
    thread_release_all();
    return bytes;
}

/* ---- what was freed and is still charged ----
 *
 * An object that another thread frees waits for its owner, and one that the owner frees waits in a
 * sheaf.  A thread that never runs again would keep both, with their slabs, for ever.  So a reader
 * of a figure collects first.  It steals only the threads that hold something of the subtree; a
 * racy look shows which ones do (heap_holds_free()).  So a second reader finds nothing and disturbs
 * no thread. */

/* walker_mutex held.  It is racy as heap_holds_free() is.  Heaps are freed only under
 * walker_mutex. */
static racy bool thread_holds_free(const struct thread *t, const struct mem_cgroup *top)
{
    const struct heap *heap = load_acquire(&t->heap);

    assert_walker();
    return load_relaxed(&t->remote_slabs) || ((*(const volatile uint64_t *)&t->shared_used ||
                                               *(struct page_run *const volatile *)&heap->kept) &&
                                              mem_cgroup_is_descendant(heap->memcg, top));
}

/* walker_mutex held.  Marks the threads that hold something as wanted. *any: there is one.  Returns
 * true if there is one besides this thread. */
static bool want_threads(struct mem_cgroup *top, bool *any)
{
    struct thread *t;
    struct heap *heap;
    bool others = false;

    assert_walker();
    for_each_thread(t) t->wanted = thread_holds_free(t, top);
    mutex_lock(&groups_lock);
    for (struct mem_cgroup *memcg = top; memcg; memcg = next_descendant(memcg, top))
        hlist_for_each_entry(heap, &memcg->heaps, memcg_node) if (!heap->thread->wanted)
            heap->thread->wanted = heap_holds_free(heap);
    mutex_unlock(&groups_lock);
    *any = false;
    for_each_thread(t)
    {
        *any |= t->wanted;
        others |= t->wanted && t != memcg_self;
    }
    return others;
}

/* The wanted threads are stolen. */
static void collect_stolen(struct mem_cgroup *top)
{
    struct thread *t;
    struct heap *heap;
    struct heap *list = NULL;

    assert_walker();
    for_each_thread(t)
    {
        if (!t->wanted)
            continue;
        thread_collect(t);
        runs_drain(load_plain(&t->heap));
    }
    /* first a list, because the end of a slab may free a stub under groups_lock */
    mutex_lock(&groups_lock);
    for (struct mem_cgroup *memcg = top; memcg; memcg = next_descendant(memcg, top))
        hlist_for_each_entry(heap, &memcg->heaps,
                             memcg_node) if (heap->thread->wanted && heap_holds_free(heap))
        {
            heap->collect_next = list;
            list = heap;
        }
    mutex_unlock(&groups_lock);
    for (; list; list = list->collect_next)
        heap_give_back(list);
}

/* How long a reader leaves other threads alone: as a multiple of its walk's time, so that they
 * stand still for a fifth of the time; and at most, in ns, because a walk may have waited for a
 * processor. */
#define COLLECT_PAUSE 4
#define COLLECT_PAUSE_MAX 5000000
uint64_t collect_not_before; /* ns; walker_mutex */

static uint64_t now_ns(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

void mem_cgroup_collect(struct mem_cgroup *memcg)
{
    uint64_t begin, end;
    bool any, others;

    if (thread_is_forking()) /* this thread is the walker already */
        return;
    for (;;) {
        walker_lock();
        others = want_threads(memcg, &any);
        begin = others ? now_ns() : 0;
        end = collect_not_before;
        if (!any || begin >= end || !others)
            break;
        walker_unlock();
        nanosleep(&(struct timespec){ .tv_nsec = (long)(end - begin) }, NULL);
    }
    if (!any) {
        walker_unlock();
        return;
    }
    if (others)
        thread_steal_wanted(); /* this thread is in no section, so it need not be stolen */
    collect_stolen(memcg);
    if (others) {
        end = now_ns();
        begin = COLLECT_PAUSE * (end - begin);
        collect_not_before = end + (begin < COLLECT_PAUSE_MAX ? begin : COLLECT_PAUSE_MAX);
    }
    thread_release_all();
}
