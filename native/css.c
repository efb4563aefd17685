/* SPDX-License-Identifier: Apache-2.0 */
/*
 * css.c - a group: its references, its stub, its limits, what is counted for it.
 *
 * Each charge names the group's stub (obj_cgroup), which outlives the group.  The drop of the last
 * css reference posts MEMCG_EVENT_RELEASE.
 *
 * Kernel: mm/memcontrol.c (css, obj_cgroup of 2020), kernel/cgroup.c (css_next_descendant_pre).
 * Locks: groups_lock: children, objcgs and heaps of every group; taken in sections or by a walker.
 */
#include "css.h"

#include "arena.h"
#include "event.h"

struct mutex groups_lock = MUTEX_INITIALIZER;
struct mem_cgroup root_mem_cgroup;
struct mem_cgroup *mem_cgroup_root(void) { return &root_mem_cgroup; }
int mem_cgroup_id(const struct mem_cgroup *m) { return load_relaxed(&m->id); }
struct mem_cgroup *mem_cgroup_parent(const struct mem_cgroup *memcg) { return memcg->parent; }
void mem_cgroup_set_owner(struct mem_cgroup *memcg, void *owner) { memcg->owner = owner; }
void *mem_cgroup_owner(const struct mem_cgroup *memcg) { return memcg->owner; }
const char *mem_cgroup_path(const struct mem_cgroup *memcg) { return memcg->path; }
bool mem_cgroup_online(const struct mem_cgroup *m) { return load_acquire(&m->online); }
long mem_cgroup_nr_caches(const struct mem_cgroup *m) { return load_relaxed(&m->nr_caches); }
long css_refs(const struct mem_cgroup *memcg) { return load_relaxed(&memcg->refs); }
void css_get(struct mem_cgroup *memcg) { add_relaxed(&memcg->refs, 1); }

void mem_cgroup_set_path(struct mem_cgroup *memcg, const char *path)
{
    struct thread *self = thread_enter();

    memcg->path = path;
    publish_add(memcg);
    thread_leave(self);
}

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

void objcg_link(struct obj_cgroup *objcg, struct mem_cgroup *memcg)
{
    assert_locked(&groups_lock);
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

void objcg_get(struct obj_cgroup *objcg) { add_relaxed(&objcg->refs, 1); }

void objcg_put(struct obj_cgroup *objcg)
{
    assert_any_section();
    if (sub_acq_rel(&objcg->refs, 1))
        return;
    mutex_lock(&groups_lock);
    hlist_del(&objcg->node);
    mutex_unlock(&groups_lock);
    metadata_free(objcg, sizeof(*objcg));
}

bool mem_cgroup_is_descendant(const struct mem_cgroup *memcg, const struct mem_cgroup *top)
{
    while (memcg && memcg != top)
        memcg = memcg->parent;
    return memcg != NULL;
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

/* ---- limits and figures ---- */

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

void mem_cgroup_set_has_shrinkers(struct mem_cgroup *memcg)
{
    for (; memcg; memcg = memcg->parent)
        store_relaxed(&memcg->has_shrinkers, 1);
}

bool mem_cgroup_has_shrinkers(const struct mem_cgroup *memcg)
{
    return load_relaxed(&memcg->has_shrinkers);
}

void mem_cgroup_note_event(struct mem_cgroup *memcg, struct mem_cgroup *from,
                           enum mem_cgroup_event_item item, size_t bytes)
{
    add_relaxed(&memcg->events_local[item], 1);
    for (struct mem_cgroup *m = memcg; m; m = m->parent)
        add_relaxed(&m->events[item], 1);
    publish_event(memcg, from, item, bytes);
}

void mem_cgroup_count_event(struct mem_cgroup *memcg, enum mem_cgroup_event_item item)
{
    mem_cgroup_note_event(memcg, NULL, item, 0);
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

int mem_cgroup_vain(const struct mem_cgroup *memcg) { return load_relaxed(&memcg->vain); }

void mem_cgroup_set_collect_after(struct mem_cgroup *memcg, int64_t ns, int vain)
{
    store_relaxed(&memcg->collect_after, ns);
    store_relaxed(&memcg->vain, (uint16_t)(vain < UINT16_MAX ? vain : UINT16_MAX));
}

int mem_cgroup_high_pending(const struct mem_cgroup *memcg)
{
    return load_acquire(&memcg->high_pending);
}

void mem_cgroup_high_done(struct mem_cgroup *memcg) { store_release(&memcg->high_pending, 0); }
