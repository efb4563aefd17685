/* SPDX-License-Identifier: Apache-2.0 */
/*
 * memcontrol.c - groups: their life, offline, charges from outside, figures; the current group.
 *
 * Each charge names the group's stub (css.c).  Offline points the stub at the parent while all
 * threads are stolen.  What is left of the group's own usage is part of the parent's already, so
 * the group's counter is set to 0.
 *
 * Kernel: mm/memcontrol.c (css, obj_cgroup reparenting of 2020).
 * Locks: groups_lock (css.c): next_tag too.
 */
#include "memcontrol.h"

#include "charge.h"
#include "oom.h"
#include "publish.h"
#include "reclaim.h"
#include "shared.h"

static uint32_t next_tag = 2; /* 1 is the root's */

void mem_cgroup_set_defaults(struct mem_cgroup *memcg)
{
    store_relaxed(&memcg->counter.watermark, 0);
    store_relaxed(&memcg->counter.max, PAGE_COUNTER_MAX);
    store_relaxed(&memcg->high, PAGE_COUNTER_MAX);
    store_relaxed(&memcg->reserve, -1);
    store_relaxed(&memcg->overdraft_limit, -1);
    store_relaxed(&memcg->overdraft, 0);
    store_relaxed(&memcg->oom_group, 0);
    store_relaxed(&memcg->has_shrinkers, 0);
    store_relaxed(&memcg->reclaim_skip, 0);
    store_relaxed(&memcg->refusals, 0);
    store_relaxed(&memcg->high_crossed, 0);
    store_relaxed(&memcg->alarmed, MEMCG_NOT_ALARMED);
    store_relaxed(&memcg->collect_after, 0);
    store_relaxed(&memcg->vain, 0);
    store_relaxed(&memcg->oom_tick, 0);
    for (int i = 0; i < MEMCG_NR_EVENTS; i++) {
        store_relaxed(&memcg->events[i], 0);
        store_relaxed(&memcg->events_local[i], 0);
    }
    memcg->last_oom = (struct last_oom){ 0 };
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
    memcg->sample_every = parent ? parent->sample_every : 0;
    mem_cgroup_set_defaults(memcg);
    memcg->objcg = objcg_alloc(memcg);
    return memcg->objcg ? 0 : -ENOMEM;
}

int mem_cgroup_init(void) { return memcg_setup(&root_mem_cgroup, NULL); }

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

struct mem_cgroup *nearest_online(struct mem_cgroup *memcg)
{
    while (memcg->parent && !load_acquire(&memcg->online))
        memcg = memcg->parent;
    return memcg;
}

void mem_cgroup_reparent(struct mem_cgroup *memcg, struct mem_cgroup *parent,
                         const struct obj_cgroup *but)
{
    struct obj_cgroup *objcg;
    struct hlist_node *next;

    assert_walker();
    mutex_lock(&groups_lock);
    hlist_for_each_entry_safe(objcg, next, &memcg->objcgs, node)
    {
        if (objcg == but)
            continue;
        hlist_del(&objcg->node);
        objcg_link(objcg, parent);
    }
    mutex_unlock(&groups_lock);
    /* All threads are stolen: what is left is charged to the parent alone from now on.  Its usage
     * contains it already. */
    for (int i = 0; i < NR_STAT; i++) {
        int64_t bytes = but && i == STAT_PRIVATE ? 0 : exchange_relaxed(&memcg->stat[i], 0);

        memcg_stat_add(parent, (enum mem_cgroup_kind)i, bytes);
        for (struct mem_cgroup *m = memcg; m != parent; m = m->parent)
            sub_relaxed(&m->counter.usage, bytes);
    }
}

void mem_cgroup_pass_on(struct mem_cgroup *memcg)
{
    struct mem_cgroup *parent = nearest_online(memcg); /* it cannot pass its own stubs on before we
                                                        * are done */
    struct thread *t;

    assert_walker();
    for_each_thread(t)
    {
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
    mem_cgroup_reparent(memcg, parent, NULL);
}

void mem_cgroup_offline(struct mem_cgroup *memcg)
{
    if (!memcg->parent || !exchange_acq_rel(&memcg->online, 0))
        return;
    thread_steal_all();
    mem_cgroup_pass_on(memcg);
    publish_figures(memcg);
    publish_usage(memcg);
    thread_release_all();
}

void mem_cgroup_free(struct mem_cgroup *memcg)
{
    struct thread *t;
    struct mem_cgroup *parent = memcg->parent;
    struct publish_slot *slot;
    struct thread *self;

    mem_cgroup_offline(memcg); /* a group that was dropped before it was linked is still online */
    slot = publish_drop(memcg);
    thread_steal_all(); /* the grace period */
    for_each_thread(t) if (t->failure.memcg == memcg || t->failure.limited == memcg)
        t->has_failure = false;
    thread_release_all();
    self = thread_enter();
    publish_put(slot);
    mem_cgroup_leave_oom(memcg);
    mutex_lock(&groups_lock);
    hlist_del(&memcg->sibling);
    mutex_unlock(&groups_lock);
    objcg_put(memcg->objcg);
    metadata_free(memcg, sizeof(*memcg));
    thread_leave(self);
    mem_cgroup_uncharge(parent, MEMCG_GROUP_BYTES); /* or its heir, if it is offline */
}

/* ---- charges from outside ---- */

int mem_cgroup_try_charge(struct mem_cgroup *memcg, size_t bytes)
{
    struct request req = { .bytes = bytes, .kind = CHARGE_OBJECT };
    int error;

    do {
        struct thread *self = thread_enter();
        struct mem_cgroup *to = load_acquire(&memcg->objcg->memcg);

        error = memcg_charge(to, bytes, &req);
        if (!error)
            memcg_stat_add(to, STAT_EXTERNAL, (int64_t)bytes);
        thread_leave(self);
    } while (error && request_retry(&req));
    return error;
}

/* ---- limits and figures ---- */

static void publish_own_figures(struct mem_cgroup *memcg)
{
    struct thread *self = thread_enter();

    publish_figures(memcg);
    thread_leave(self);
}

void mem_cgroup_set_limit(struct mem_cgroup *memcg, enum mem_cgroup_limit which, int64_t bytes)
{
    if (which == MEMCG_MAX) {
        store_relaxed(&memcg->reclaim_skip, 0);
        /* A full barrier on x86: a charge that is being made sees this max, or its addition is seen
         * here.  Kernel: page_counter_set_max. */
        exchange_seq_cst(&memcg->counter.max, bytes);
        if (page_counter_read(&memcg->counter) > bytes)
            mem_cgroup_reclaim(memcg);
    } else {
        store_relaxed(which == MEMCG_HIGH      ? &memcg->high
                      : which == MEMCG_RESERVE ? &memcg->reserve
                                               : &memcg->overdraft_limit,
                      bytes);
    }
    publish_own_figures(memcg);
}

/* The bytes that are charged and are not stock. */
static int64_t subtree_bytes(struct mem_cgroup *top)
{
    int64_t bytes = 0;

    assert_locked(&groups_lock);
    for (struct mem_cgroup *memcg = top; memcg; memcg = next_descendant(memcg, top))
        for (int i = 0; i < NR_STAT; i++)
            bytes += load_relaxed(&memcg->stat[i]);
    return bytes;
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
    publish_own_figures(memcg);
}

/* ---- the page for other processes ---- */

int memcg_publish(const struct memcg_publish_config *config)
{
    struct mem_cgroup *memcg = &root_mem_cgroup;
    int error;

    thread_steal_all();
    error = publish_begin(config, memcg);
    mutex_lock(&groups_lock);
    while (!error && (memcg = next_descendant(memcg, &root_mem_cgroup)))
        if (!memcg->is_spare)
            publish_add(memcg);
    mutex_unlock(&groups_lock);
    thread_release_all();
    return error;
}

void memcg_unpublish(void)
{
    thread_steal_all();
    publish_end();
    thread_release_all();
}

/* ---- this thread ---- */

/* Gives the old heap's stock and shared objects back, so that a group at rest is charged for what
 * lives. */
static void set_heap(struct thread *self, struct heap *heap)
{
    struct heap *old = load_plain(&self->heap);

    assert_section(self);
    if (self->shared_used) /* mostly there is nothing, which takes no call */
        shared_flush(self);
    if (old->stock || old->kept)
        heap_drain_stock(old);
    thread_set_heap(self, heap);
}

static void set_current(struct thread *self, struct mem_cgroup *memcg)
{
    struct heap *heap;

    memcg = memcg ? nearest_online(memcg) : &root_mem_cgroup;
    /* the heap may be an ancestor's, if the group had no id when it was entered */
    if (!self->is_orphan && (memcg != self->current ||
                             (!self->stop_depth && load_plain(&self->heap)->memcg != memcg))) {
        self->current = memcg;
        if (!self->stop_depth) {
            heap = heap_of(self, memcg);
            if (heap != load_plain(&self->heap))
                set_heap(self, heap);
        }
    }
}

void memcg_set_current(struct mem_cgroup *memcg)
{
    struct thread *self = thread_enter();

    set_current(self, memcg);
    thread_leave(self);
}

/* ---- threads that run no Python code ---- */

typedef bool (*is_member_fn)(void);

static ATOMIC(struct mem_cgroup *) pool_group;
static ATOMIC(is_member_fn) pool_member;
atomic_uint_t memcg_pool_changes;

void memcg_set_pool(bool (*is_member)(void)) { store_release(&pool_member, is_member); }

void memcg_set_pool_group(struct mem_cgroup *memcg)
{
    if (load_relaxed(&pool_group) == memcg)
        return;
    store_release(&pool_group, memcg);
    add_release(&memcg_pool_changes, 1); /* a thread that sees it sees the group too */
}

/* The group cannot be freed between the load and the use: it is replaced before it goes offline, and
 * to go offline it must steal this thread. */
void memcg_follow_pool(void)
{
    is_member_fn is_member = load_acquire(&pool_member);
    struct thread *self;

    if (!is_member || !is_member())
        return;
    self = thread_enter();
    set_current(self, load_acquire(&pool_group));
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
