/*
 * memcontrol.c - groups: the tree, their stubs, offline, reclaim, figures.
 *
 * What is charged names the group's stub (obj_cgroup).  Offline points the stub at
 * the parent while all threads are out; what is left of the group's own usage is part
 * of the parent's already, so its own counter is set to nothing.
 *
 * Kernel: mm/memcontrol.c (css, obj_cgroup reparenting of 2020).
 * Locks: groups_lock: children, objcgs and heaps of every group; taken in sections or by a walker.
 */
#include <time.h>

#include "inline.h"

struct mutex groups_lock = MUTEX_INITIALIZER;
struct mem_cgroup root_mem_cgroup;
static uint32_t next_tag = 2; /* 1: the root */
/* next_tag: groups_lock */

struct mem_cgroup *mem_cgroup_root(void) { return &root_mem_cgroup; }
int mem_cgroup_id(const struct mem_cgroup *m) { return load_relaxed(&m->id); }
struct mem_cgroup *mem_cgroup_parent(const struct mem_cgroup *memcg) { return memcg->parent; }
void mem_cgroup_set_owner(struct mem_cgroup *memcg, void *owner) { memcg->owner = owner; }
void *mem_cgroup_owner(const struct mem_cgroup *memcg) { return memcg->owner; }
void mem_cgroup_set_path(struct mem_cgroup *memcg, const char *path) { memcg->path = path; }
const char *mem_cgroup_path(const struct mem_cgroup *memcg) { return memcg->path; }
bool mem_cgroup_online(const struct mem_cgroup *m) { return load_acquire(&m->online); }
long css_refs(const struct mem_cgroup *memcg) { return load_relaxed(&memcg->refs); }
void css_get(struct mem_cgroup *memcg) { add_relaxed(&memcg->refs, 1); }

void mem_cgroup_set_id(struct mem_cgroup *memcg, int kmemcg_id)
{
    store_release(&memcg->id, kmemcg_id);
}

bool css_tryget(struct mem_cgroup *memcg)
{
    long refs = css_refs(memcg);

    while (refs > 0 && mem_cgroup_online(memcg))
        if (cas_weak_acquire(&memcg->refs, &refs, refs + 1))
            return true;
    return false;
}

void css_put(struct mem_cgroup *memcg)
{
    if (sub_acq_rel(&memcg->refs, 1) == 0)
        event_post(&memcg->release_event, MEMCG_EVENT_RELEASE, memcg, NULL);
}

/* groups_lock held. */
static void objcg_link(struct obj_cgroup *objcg, struct mem_cgroup *memcg)
{
    hlist_add_head(&objcg->node, &memcg->objcgs);
    store_release(&objcg->memcg, memcg);
}

struct obj_cgroup *objcg_alloc(struct mem_cgroup *memcg)
{
    struct obj_cgroup *objcg = metadata_alloc(sizeof(*objcg));

    if (objcg) {
        store_plain(&objcg->refs, 1);
        mutex_lock(&groups_lock);
        objcg_link(objcg, memcg);
        mutex_unlock(&groups_lock);
    }
    return objcg;
}

void objcg_get(struct obj_cgroup *objcg)
{
    add_relaxed(&objcg->refs, 1);
}

void objcg_put(struct obj_cgroup *objcg)
{
    if (sub_acq_rel(&objcg->refs, 1))
        return;
    mutex_lock(&groups_lock);
    hlist_del(&objcg->node);
    mutex_unlock(&groups_lock);
    metadata_free(objcg, sizeof(*objcg));
}

static int memcg_setup(struct mem_cgroup *memcg, struct mem_cgroup *parent)
{
    memset(memcg, 0, sizeof(*memcg));
    page_counter_init(&memcg->counter, parent ? &parent->counter : NULL);
    memcg->parent = parent;
    store_plain(&memcg->id, -1);
    store_plain(&memcg->online, 1);
    memcg->tag = 1;
    store_plain(&memcg->refs, 1);
    store_plain(&memcg->reserve, -1);
    store_plain(&memcg->overdraft_limit, -1);
    store_plain(&memcg->high, PAGE_COUNTER_MAX);
    memcg->objcg = objcg_alloc(memcg);
    return memcg->objcg ? 0 : -ENOMEM;
}

struct mem_cgroup *mem_cgroup_alloc(struct mem_cgroup *parent)
{
    struct thread *self;
    struct mem_cgroup *memcg;

    if (mem_cgroup_try_charge(parent, MEMCG_GROUP_BYTES))
        return NULL;
    self = thread_enter();
    memcg = metadata_alloc(sizeof(*memcg));
    if (memcg && memcg_setup(memcg, parent)) {
        metadata_free(memcg, sizeof(*memcg));
        memcg = NULL;
    }
    if (memcg) {
        mutex_lock(&groups_lock);
        memcg->tag = next_tag++;
        hlist_add_head(&memcg->sibling, &parent->children);
        mutex_unlock(&groups_lock);
    }
    thread_leave(self);
    if (!memcg)
        mem_cgroup_uncharge(parent, MEMCG_GROUP_BYTES);
    return memcg;
}

static struct mem_cgroup *nearest_online(struct mem_cgroup *memcg)
{
    while (memcg->parent && !mem_cgroup_online(memcg))
        memcg = memcg->parent;
    return memcg;
}

void mem_cgroup_offline(struct mem_cgroup *memcg)
{
    struct thread *t;
    struct mem_cgroup *parent;
    struct obj_cgroup *objcg;
    struct hlist_node *next;

    if (!memcg->parent || !exchange_acq_rel(&memcg->online, 0))
        return;
    thread_steal_all();
    parent = nearest_online(memcg); /* it cannot hand its stubs on before us */
    for_each_thread(t) {
        struct heap *heap = heap_lookup(t, memcg);

        thread_collect(t);
        if (t->current == memcg)
            t->current = parent;
        if (heap) {
            bool inside = load_plain(&t->heap) == heap;

            heap_drop(heap);
            if (inside)
                thread_set_heap(t, heap_of(t, t->current));
        }
    }
    mutex_lock(&groups_lock);
    hlist_for_each_entry_safe(objcg, next, &memcg->objcgs, node) {
        hlist_del(&objcg->node);
        objcg_link(objcg, parent);
    }
    mutex_unlock(&groups_lock);
    /* All threads are out: what is left is the parent's alone (and in its usage already). */
    for (int i = 0; i < NR_STAT; i++) {
        int64_t bytes = exchange_relaxed(&memcg->stat[i], 0);

        memcg_stat_add(parent, (enum mem_cgroup_kind)i, bytes);
        for (struct mem_cgroup *m = memcg; m != parent; m = m->parent)
            sub_relaxed(&m->counter.usage, bytes);
    }
    thread_release_all();
}

void mem_cgroup_free(struct mem_cgroup *memcg)
{
    struct thread *t;
    struct mem_cgroup *parent = memcg->parent;
    struct thread *self;

    mem_cgroup_offline(memcg); /* one that was dropped before it was linked is online still */
    thread_steal_all();        /* the grace period */
    for_each_thread(t)
        if (t->failure.memcg == memcg || t->failure.limited == memcg)
            t->has_failure = false;
    thread_release_all();
    self = thread_enter();
    mem_cgroup_leave_oom(memcg);
    mutex_lock(&groups_lock);
    hlist_del(&memcg->sibling);
    mutex_unlock(&groups_lock);
    objcg_put(memcg->objcg);
    metadata_free(memcg, sizeof(*memcg));
    thread_leave(self);
    mem_cgroup_uncharge(parent, MEMCG_GROUP_BYTES); /* of its heir, if it is offline */
}

/* ---- limits and figures ---- */

void mem_cgroup_set_limit(struct mem_cgroup *memcg, enum mem_cgroup_limit which, int64_t bytes)
{
    if (which == MEMCG_MAX) {
        store_relaxed(&memcg->reclaim_skip, 0);
        /* A full barrier on x86: a charge on its way sees this max, or its addition is seen here.
         * Kernel: page_counter_set_max. */
        exchange_seq_cst(&memcg->counter.max, bytes);
        if (page_counter_read(&memcg->counter) > bytes)
            mem_cgroup_reclaim(memcg);
    } else {
        store_relaxed(which == MEMCG_HIGH      ? &memcg->high
                      : which == MEMCG_RESERVE ? &memcg->reserve
                                               : &memcg->overdraft_limit,
                      bytes);
    }
}

int64_t mem_cgroup_get_limit(const struct mem_cgroup *memcg, enum mem_cgroup_limit which)
{
    int64_t max = load_relaxed(&memcg->counter.max), reserve;

    if (which == MEMCG_MAX)
        return max;
    if (which == MEMCG_HIGH)
        return load_relaxed(&memcg->high);
    if (which == MEMCG_OVERDRAFT) {
        int64_t overdraft = load_relaxed(&memcg->overdraft_limit);

        if (overdraft >= 0)
            return overdraft;
    }
    reserve = load_relaxed(&memcg->reserve);
    if (reserve >= 0 || max == PAGE_COUNTER_MAX)
        return reserve < 0 ? 0 : reserve;
    return max / 8 < MEMCG_RESERVE_MIN ? MEMCG_RESERVE_MIN : max / 8;
}

void mem_cgroup_set_oom_group(struct mem_cgroup *memcg, bool on)
{
    store_relaxed(&memcg->oom_group, on);
}

bool mem_cgroup_oom_group(const struct mem_cgroup *memcg)
{
    return load_relaxed(&memcg->oom_group);
}

bool mem_cgroup_is_descendant(const struct mem_cgroup *memcg, const struct mem_cgroup *top)
{
    while (memcg && memcg != top)
        memcg = memcg->parent;
    return memcg != NULL;
}

/* groups_lock held.  The group after memcg in the tree below top, parents first; NULL: none.
 * Kernel: css_next_descendant_pre(). */
static struct mem_cgroup *next_descendant(struct mem_cgroup *memcg, const struct mem_cgroup *top)
{
    if (!hlist_empty(&memcg->children))
        return hlist_first_entry(&memcg->children, struct mem_cgroup, sibling);
    while (memcg != top && !memcg->sibling.next)
        memcg = memcg->parent;
    return memcg == top ? NULL : hlist_next_entry(memcg, sibling);
}

/* groups_lock held.  Everything charged that is not stock. */
static int64_t subtree_bytes(struct mem_cgroup *top)
{
    int64_t bytes = 0;

    for (struct mem_cgroup *memcg = top; memcg; memcg = next_descendant(memcg, top))
        for (int i = 0; i < NR_STAT; i++)
            bytes += load_relaxed(&memcg->stat[i]);
    return bytes;
}

void mem_cgroup_link_heap(struct heap *heap)
{
    struct mem_cgroup *memcg = heap->memcg;

    mutex_lock(&groups_lock);
    hlist_add_head(&heap->memcg_node, &memcg->heaps);
    mutex_unlock(&groups_lock);
}

void mem_cgroup_unlink_heap(struct heap *heap)
{
    mutex_lock(&groups_lock);
    hlist_del(&heap->memcg_node);
    mutex_unlock(&groups_lock);
}

/* ---- what was freed and is charged still ----
 *
 * An object that another thread frees waits for its owner, and one that the owner frees waits in a
 * sheaf; a thread that never runs again would keep both, with their slabs, for ever.  A reader of
 * a figure collects first.  It steals only the threads that hold something of the subtree; a racy look
 * shows which ones do (heap_holds_free()).  So a second reader finds nothing and disturbs nobody.
 */

/* walker_mutex held.  Racy as heap_holds_free() is; heaps go under walker_mutex only. */
static racy bool thread_holds_free(const struct thread *t, const struct mem_cgroup *top)
{
    const struct heap *heap = load_acquire(&t->heap);

    return load_relaxed(&t->remote_slabs) ||
           (*(const volatile uint64_t *)&t->shared_used &&
            mem_cgroup_is_descendant(heap->memcg, top));
}

/* walker_mutex held: marks as wanted.  Tells whether another thread than this one is. */
static bool want_threads(struct mem_cgroup *top, bool *any)
{
    struct thread *t;
    struct heap *heap;
    bool others = false;

    for_each_thread(t)
        t->wanted = thread_holds_free(t, top);
    mutex_lock(&groups_lock);
    for (struct mem_cgroup *memcg = top; memcg; memcg = next_descendant(memcg, top))
        hlist_for_each_entry(heap, &memcg->heaps, memcg_node)
            if (!heap->thread->wanted)
                heap->thread->wanted = heap_holds_free(heap);
    mutex_unlock(&groups_lock);
    *any = false;
    for_each_thread(t) {
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

    for_each_thread(t)
        if (t->wanted)
            thread_collect(t);
    mutex_lock(&groups_lock); /* not while slabs go: a stub may go with one */
    for (struct mem_cgroup *memcg = top; memcg; memcg = next_descendant(memcg, top))
        hlist_for_each_entry(heap, &memcg->heaps, memcg_node)
            if (heap->thread->wanted && heap_holds_free(heap)) {
                heap->collect_next = list;
                list = heap;
            }
    mutex_unlock(&groups_lock);
    for (; list; list = list->collect_next)
        heap_give_back(list);
}

#define COLLECT_PAUSE 4 /* times as long as the walk took: others stand still a fifth of the time */
#define COLLECT_PAUSE_MAX 5000000 /* ns: a walk that waits for a processor takes long */

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

    if (thread_is_forking()) /* it is the walker */
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
        thread_steal_wanted(); /* this thread is in no section */
    collect_stolen(memcg);
    if (others) {
        end = now_ns();
        begin = COLLECT_PAUSE * (end - begin);
        collect_not_before = end + (begin < COLLECT_PAUSE_MAX ? begin : COLLECT_PAUSE_MAX);
    }
    thread_release_all();
}

void mem_cgroup_read_stat(struct mem_cgroup *memcg, struct mem_cgroup_stat *stat)
{
    struct thread *self = thread_enter();

    shared_flush(self);
    stat->usage = page_counter_read(&memcg->counter);
    mutex_lock(&groups_lock);
    stat->current = subtree_bytes(memcg);
    mutex_unlock(&groups_lock);
    stat->watermark = load_relaxed(&memcg->counter.watermark);
    stat->slab_private = load_relaxed(&memcg->stat[STAT_PRIVATE]);
    stat->slab_shared = load_relaxed(&memcg->stat[STAT_SHARED]);
    stat->page_runs = load_relaxed(&memcg->stat[STAT_RUNS]);
    stat->external = load_relaxed(&memcg->stat[STAT_EXTERNAL]);
    stat->overdraft = load_relaxed(&memcg->overdraft);
    for (int i = 0; i < MEMCG_NR_EVENTS; i++) {
        stat->events[i] = load_relaxed(&memcg->events[i]);
        stat->events_local[i] = load_relaxed(&memcg->events_local[i]);
    }
    thread_leave(self);
}

void mem_cgroup_reset_watermark(struct mem_cgroup *memcg)
{
    mem_cgroup_collect(memcg);
    store_relaxed(&memcg->counter.watermark, page_counter_read(&memcg->counter));
}

size_t mem_cgroup_reclaim(struct mem_cgroup *memcg)
{
    struct thread *t;
    struct heap *heap;
    size_t bytes = 0;

    if (thread_is_forking())
        return 0;
    thread_steal_all();
    for_each_thread(t) {
        thread_collect(t);
        hlist_for_each_entry(heap, &t->heaps, node) {
            /* shared slabs are nobody's charge, but take pages */
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

int64_t mem_cgroup_usage(const struct mem_cgroup *memcg)
{
    return page_counter_read(&memcg->counter);
}

void mem_cgroup_set_alarmed(struct mem_cgroup *memcg, enum mem_cgroup_alarmed alarmed)
{
    store_relaxed(&memcg->alarmed, alarmed);
}

enum mem_cgroup_alarmed mem_cgroup_alarmed(const struct mem_cgroup *memcg)
{
    return load_relaxed(&memcg->alarmed);
}

int64_t mem_cgroup_collect_after(const struct mem_cgroup *memcg)
{
    return load_relaxed(&memcg->collect_after);
}

int mem_cgroup_vain(const struct mem_cgroup *memcg)
{
    return load_relaxed(&memcg->vain);
}

void mem_cgroup_set_collect_after(struct mem_cgroup *memcg, int64_t ns, int vain)
{
    store_relaxed(&memcg->collect_after, ns);
    store_relaxed(&memcg->vain, vain);
}

int mem_cgroup_high_pending(const struct mem_cgroup *memcg)
{
    return load_acquire(&memcg->high_pending);
}

void mem_cgroup_high_done(struct mem_cgroup *memcg)
{
    store_release(&memcg->high_pending, 0);
}

/* ---- this thread ---- */

/* In a section.  What the group has on hand goes back, so that one at rest holds what lives. */
static void set_heap(struct thread *self, struct heap *heap)
{
    shared_flush(self);
    heap_drain_stock(load_plain(&self->heap));
    thread_set_heap(self, heap);
}

void memcg_set_current(struct mem_cgroup *memcg)
{
    struct thread *self = thread_enter();
    struct heap *heap;

    memcg = memcg ? nearest_online(memcg) : &root_mem_cgroup;
    /* the heap may be an ancestor's because the group had no id then */
    if (!self->is_orphan &&
        (memcg != self->current || (!self->stop_depth && load_plain(&self->heap)->memcg != memcg))) {
        self->current = memcg;
        if (!self->stop_depth) {
            heap = heap_of(self, memcg);
            if (heap != load_plain(&self->heap))
                set_heap(self, heap);
        }
    }
    thread_leave(self);
}

struct mem_cgroup *memcg_get_current(void)
{
    struct thread *self = thread_enter();
    struct mem_cgroup *memcg = self->current;

    thread_leave(self);
    return memcg;
}

void memcg_stop_kmem_account(void)
{
    struct thread *self = thread_enter();

    if (!self->is_orphan && !self->stop_depth++) {
        set_heap(self, self->root_heap);
    }
    thread_leave(self);
}

void memcg_resume_kmem_account(void)
{
    struct thread *self = thread_enter();

    if (!self->is_orphan && self->stop_depth && !--self->stop_depth)
        set_heap(self, heap_of(self, self->current));
    thread_leave(self);
}

/* ---- start, and the whole ---- */

/* In a section, so that no fork finds the lock of the pages taken. */
void memcg_fit(size_t space)
{
    struct thread *self = thread_enter();

    pages_fit(space);
    thread_leave(self);
}

int memcg_init(const struct memcg_config *config)
{
    static int done; /* the caller serialises the first call */
    int error;

    if (done)
        return 0;
    error = arena_init(config ? config->arena_bytes : 0);
    debug_init(config ? config->debug : 0); /* before there are caches */
    if (!error)
        error = page_alloc_init();
    if (!error)
        error = memcg_setup(&root_mem_cgroup, NULL);
    if (!error)
        error = slab_init();
    if (error)
        return error;
    error = thread_init();
    if (error)
        return error;
    if (config && config->promote_bytes)
        memcg_set_promote_bytes(config->promote_bytes);
    done = 1;
    return 0;
}
