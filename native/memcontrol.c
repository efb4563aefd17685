/*
 * memcontrol.c - groups: the tree, their stubs, offline, reclaim, figures.
 *
 * What is charged names the group's stub (obj_cgroup).  Offline points the stub at
 * the parent while all threads are out; what is left of the group's own usage is part
 * of the parent's already, so its own counter is set to nothing.
 *
 * Kernel: mm/memcontrol.c (css, obj_cgroup reparenting of 2020).
 * Locks: groups_lock: children and objcgs of every group; taken in sections.
 */
#include "inline.h"

struct mutex groups_lock = MUTEX_INITIALIZER;
struct mem_cgroup root_mem_cgroup;
static uint32_t next_tag = 2; /* 1: the root */
/* next_tag: groups_lock */

struct mem_cgroup *mem_cgroup_root(void) { return &root_mem_cgroup; }
int mem_cgroup_id(const struct mem_cgroup *m) { return __atomic_load_n(&m->id, __ATOMIC_RELAXED); }
struct mem_cgroup *mem_cgroup_parent(const struct mem_cgroup *memcg) { return memcg->parent; }
void mem_cgroup_set_owner(struct mem_cgroup *memcg, void *owner) { memcg->owner = owner; }
void *mem_cgroup_owner(const struct mem_cgroup *memcg) { return memcg->owner; }
void mem_cgroup_set_path(struct mem_cgroup *memcg, const char *path) { memcg->path = path; }
bool mem_cgroup_online(const struct mem_cgroup *m) { return __atomic_load_n(&m->online, __ATOMIC_ACQUIRE); }
long css_refs(const struct mem_cgroup *memcg) { return __atomic_load_n(&memcg->refs, __ATOMIC_RELAXED); }
void css_get(struct mem_cgroup *memcg) { __atomic_fetch_add(&memcg->refs, 1, __ATOMIC_RELAXED); }

void mem_cgroup_set_id(struct mem_cgroup *memcg, int kmemcg_id)
{
    __atomic_store_n(&memcg->id, kmemcg_id, __ATOMIC_RELEASE);
}

bool css_tryget(struct mem_cgroup *memcg)
{
    long refs = css_refs(memcg);

    while (refs > 0 && mem_cgroup_online(memcg))
        if (__atomic_compare_exchange_n(&memcg->refs, &refs, refs + 1, true, __ATOMIC_ACQUIRE,
                                        __ATOMIC_RELAXED))
            return true;
    return false;
}

void css_put(struct mem_cgroup *memcg)
{
    if (__atomic_sub_fetch(&memcg->refs, 1, __ATOMIC_ACQ_REL) == 0)
        event_post(&memcg->release_event, MEMCG_EVENT_RELEASE, memcg, NULL);
}

/* groups_lock held. */
static void objcg_link(struct obj_cgroup *objcg, struct mem_cgroup *memcg)
{
    objcg->prev = NULL;
    objcg->next = memcg->objcgs;
    if (objcg->next)
        objcg->next->prev = objcg;
    memcg->objcgs = objcg;
    __atomic_store_n(&objcg->memcg, memcg, __ATOMIC_RELEASE);
}

struct obj_cgroup *objcg_alloc(struct mem_cgroup *memcg)
{
    struct obj_cgroup *objcg = metadata_alloc(sizeof(*objcg));

    if (objcg) {
        objcg->refs = 1;
        mutex_lock(&groups_lock);
        objcg_link(objcg, memcg);
        mutex_unlock(&groups_lock);
    }
    return objcg;
}

void objcg_get(struct obj_cgroup *objcg)
{
    __atomic_fetch_add(&objcg->refs, 1, __ATOMIC_RELAXED);
}

void objcg_put(struct obj_cgroup *objcg)
{
    if (__atomic_sub_fetch(&objcg->refs, 1, __ATOMIC_ACQ_REL))
        return;
    mutex_lock(&groups_lock);
    if (objcg->prev)
        objcg->prev->next = objcg->next;
    else
        objcg->memcg->objcgs = objcg->next;
    if (objcg->next)
        objcg->next->prev = objcg->prev;
    mutex_unlock(&groups_lock);
    metadata_free(objcg, sizeof(*objcg));
}

static int memcg_setup(struct mem_cgroup *memcg, struct mem_cgroup *parent)
{
    memset(memcg, 0, sizeof(*memcg));
    page_counter_init(&memcg->counter, parent ? &parent->counter : NULL);
    memcg->parent = parent;
    memcg->id = -1;
    memcg->online = 1;
    memcg->tag = 1;
    memcg->refs = 1;
    memcg->reserve = -1;
    memcg->high = PAGE_COUNTER_MAX;
    memcg->objcg = objcg_alloc(memcg);
    return memcg->objcg ? 0 : -ENOMEM;
}

struct mem_cgroup *mem_cgroup_alloc(struct mem_cgroup *parent)
{
    struct thread *self = thread_enter();
    struct mem_cgroup *memcg = metadata_alloc(sizeof(*memcg));

    if (memcg && memcg_setup(memcg, parent)) {
        metadata_free(memcg, sizeof(*memcg));
        memcg = NULL;
    }
    if (memcg) {
        mutex_lock(&groups_lock);
        memcg->tag = next_tag++;
        memcg->sibling_next = parent->children;
        if (parent->children)
            parent->children->sibling_prev = memcg;
        parent->children = memcg;
        mutex_unlock(&groups_lock);
    }
    thread_leave(self);
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
    struct mem_cgroup *parent;
    struct obj_cgroup *objcg;

    if (!memcg->parent || !__atomic_exchange_n(&memcg->online, 0, __ATOMIC_ACQ_REL))
        return;
    thread_steal_all();
    parent = nearest_online(memcg); /* it cannot hand its stubs on before us */
    for (struct thread *t = all_threads; t; t = t->next) {
        struct heap *heap = heap_lookup(t, memcg);

        thread_collect(t);
        if (t->current == memcg)
            t->current = parent;
        if (heap) {
            bool inside = t->heap == heap;

            heap_drop(heap);
            if (inside)
                thread_set_heap(t, heap_of(t, t->current));
        }
    }
    mutex_lock(&groups_lock);
    while ((objcg = memcg->objcgs)) {
        memcg->objcgs = objcg->next;
        objcg_link(objcg, parent);
    }
    mutex_unlock(&groups_lock);
    /* All threads are out: what is left is the parent's alone (and in its usage already). */
    for (int i = 0; i < NR_STAT; i++) {
        int64_t bytes = __atomic_exchange_n(&memcg->stat[i], 0, __ATOMIC_RELAXED);

        memcg_stat_add(parent, (enum mem_cgroup_kind)i, bytes);
        for (struct mem_cgroup *m = memcg; m != parent; m = m->parent)
            __atomic_fetch_sub(&m->counter.usage, bytes, __ATOMIC_RELAXED);
    }
    thread_release_all();
}

void mem_cgroup_free(struct mem_cgroup *memcg)
{
    struct thread *self;

    mem_cgroup_offline(memcg); /* one that was dropped before it was linked is online still */
    thread_steal_all();        /* the grace period */
    for (struct thread *t = all_threads; t; t = t->next)
        if (t->failure.memcg == memcg || t->failure.limited == memcg)
            t->has_failure = false;
    thread_release_all();
    self = thread_enter();
    mem_cgroup_leave_oom(memcg);
    mutex_lock(&groups_lock);
    if (memcg->sibling_prev)
        memcg->sibling_prev->sibling_next = memcg->sibling_next;
    else
        memcg->parent->children = memcg->sibling_next;
    if (memcg->sibling_next)
        memcg->sibling_next->sibling_prev = memcg->sibling_prev;
    mutex_unlock(&groups_lock);
    objcg_put(memcg->objcg);
    metadata_free(memcg, sizeof(*memcg));
    thread_leave(self);
}

/* ---- limits and figures ---- */

void mem_cgroup_set_limit(struct mem_cgroup *memcg, enum mem_cgroup_limit which, int64_t bytes)
{
    if (which == MEMCG_MAX) {
        __atomic_store_n(&memcg->reclaim_skip, 0, __ATOMIC_RELAXED);
        /* A full barrier on x86: a charge on its way sees this max, or its addition is seen here.
         * Kernel: page_counter_set_max. */
        __atomic_exchange_n(&memcg->counter.max, bytes, __ATOMIC_SEQ_CST);
        if (page_counter_read(&memcg->counter) > bytes)
            mem_cgroup_reclaim(memcg);
    } else {
        __atomic_store_n(which == MEMCG_HIGH ? &memcg->high : &memcg->reserve, bytes,
                         __ATOMIC_RELAXED);
    }
}

int64_t mem_cgroup_get_limit(const struct mem_cgroup *memcg, enum mem_cgroup_limit which)
{
    int64_t max = __atomic_load_n(&memcg->counter.max, __ATOMIC_RELAXED), reserve;

    if (which == MEMCG_MAX)
        return max;
    if (which == MEMCG_HIGH)
        return __atomic_load_n(&memcg->high, __ATOMIC_RELAXED);
    reserve = __atomic_load_n(&memcg->reserve, __ATOMIC_RELAXED);
    if (reserve >= 0 || max == PAGE_COUNTER_MAX)
        return reserve < 0 ? 0 : reserve;
    return max / 8 < MEMCG_RESERVE_MIN ? MEMCG_RESERVE_MIN : max / 8;
}

bool mem_cgroup_is_descendant(const struct mem_cgroup *memcg, const struct mem_cgroup *top)
{
    while (memcg && memcg != top)
        memcg = memcg->parent;
    return memcg != NULL;
}

/* groups_lock held.  Everything charged that is not stock. */
static int64_t subtree_bytes(struct mem_cgroup *memcg)
{
    int64_t bytes = 0;

    for (int i = 0; i < NR_STAT; i++)
        bytes += __atomic_load_n(&memcg->stat[i], __ATOMIC_RELAXED);
    for (struct mem_cgroup *child = memcg->children; child; child = child->sibling_next)
        bytes += subtree_bytes(child);
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
    stat->watermark = __atomic_load_n(&memcg->counter.watermark, __ATOMIC_RELAXED);
    stat->slab_private = __atomic_load_n(&memcg->stat[STAT_PRIVATE], __ATOMIC_RELAXED);
    stat->slab_shared = __atomic_load_n(&memcg->stat[STAT_SHARED], __ATOMIC_RELAXED);
    stat->page_runs = __atomic_load_n(&memcg->stat[STAT_RUNS], __ATOMIC_RELAXED);
    stat->external = __atomic_load_n(&memcg->stat[STAT_EXTERNAL], __ATOMIC_RELAXED);
    stat->overdraft = __atomic_load_n(&memcg->overdraft, __ATOMIC_RELAXED);
    for (int i = 0; i < MEMCG_NR_EVENTS; i++) {
        stat->events[i] = __atomic_load_n(&memcg->events[i], __ATOMIC_RELAXED);
        stat->events_local[i] = __atomic_load_n(&memcg->events_local[i], __ATOMIC_RELAXED);
    }
    thread_leave(self);
}

void mem_cgroup_reset_watermark(struct mem_cgroup *memcg)
{
    __atomic_store_n(&memcg->counter.watermark, page_counter_read(&memcg->counter),
                     __ATOMIC_RELAXED);
}

size_t mem_cgroup_reclaim(struct mem_cgroup *memcg)
{
    size_t bytes = 0;

    if (thread_is_forking())
        return 0;
    thread_steal_all();
    for (struct thread *t = all_threads; t; t = t->next) {
        thread_collect(t);
        for (struct heap *heap = t->heaps; heap; heap = heap->next) {
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
    __atomic_store_n(&memcg->alarmed, alarmed, __ATOMIC_RELAXED);
}

enum mem_cgroup_alarmed mem_cgroup_alarmed(const struct mem_cgroup *memcg)
{
    return __atomic_load_n(&memcg->alarmed, __ATOMIC_RELAXED);
}

int mem_cgroup_high_pending(const struct mem_cgroup *memcg)
{
    return __atomic_load_n(&memcg->high_pending, __ATOMIC_ACQUIRE);
}

void mem_cgroup_high_done(struct mem_cgroup *memcg)
{
    __atomic_store_n(&memcg->high_pending, 0, __ATOMIC_RELEASE);
}

/* ---- this thread ---- */

/* In a section.  What the group has on hand goes back, so that one at rest holds what lives. */
static void set_heap(struct thread *self, struct heap *heap)
{
    shared_flush(self);
    heap_drain_stock(self->heap);
    thread_set_heap(self, heap);
}

void memcg_set_current(struct mem_cgroup *memcg)
{
    struct thread *self = thread_enter();
    struct heap *heap;

    memcg = memcg ? nearest_online(memcg) : &root_mem_cgroup;
    /* the heap may be an ancestor's because the group had no id then */
    if (!self->is_orphan &&
        (memcg != self->current || (!self->stop_depth && self->heap->memcg != memcg))) {
        self->current = memcg;
        if (!self->stop_depth) {
            heap = heap_of(self, memcg);
            if (heap != self->heap)
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
