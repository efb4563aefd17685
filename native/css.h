/* SPDX-License-Identifier: Apache-2.0 */
/*
 * css.h - a group: its references, its stub, its limits, what is counted for it.
 */
#ifndef MEMCG_CSS_H
#define MEMCG_CSS_H

#include "publish.h"

#define MEMCG_RESERVE_MIN ((int64_t)16 << 20)

extern struct mem_cgroup root_mem_cgroup;
extern struct mutex groups_lock; /* the tree, the lists of stubs, the lists of a group's heaps */

/* In a section, or while there is one thread. */
struct obj_cgroup *objcg_alloc(struct mem_cgroup *memcg);
void objcg_link(struct obj_cgroup *objcg, struct mem_cgroup *memcg); /* groups_lock held */
void objcg_get(struct obj_cgroup *objcg);
void objcg_put(struct obj_cgroup *objcg);
bool mem_cgroup_is_descendant(const struct mem_cgroup *memcg,
                              const struct mem_cgroup *top) MEMCG_EXPORT;
/* After it got slots; in a section, or walker_mutex held. */
void mem_cgroup_link_heap(struct heap *heap);
void mem_cgroup_unlink_heap(struct heap *heap); /* its thread is stolen */

/* Counts an event at memcg's own limit. `from` asked for so many bytes; NULL: it is not known. */
void mem_cgroup_note_event(struct mem_cgroup *memcg, struct mem_cgroup *from,
                           enum mem_cgroup_event_item item, size_t bytes);

static inline void memcg_stat_add(struct mem_cgroup *memcg, enum mem_cgroup_kind kind,
                                  int64_t bytes)
{
    add_relaxed(&memcg->stat[kind], bytes);
    if (kind !=
        STAT_SHARED) /* that one is counted on a hot path, and copied with the next charge */
        publish_stat(memcg);
}

/* groups_lock held.  The group after memcg in the tree below top, in which a parent precedes its
 * children; NULL: none.  Kernel: css_next_descendant_pre(). */
static inline struct mem_cgroup *next_descendant(struct mem_cgroup *memcg,
                                                 const struct mem_cgroup *top)
{
    assert_locked(&groups_lock);
    if (!hlist_empty(&memcg->children))
        return hlist_first_entry(&memcg->children, struct mem_cgroup, sibling);
    while (memcg != top && !memcg->sibling.next)
        memcg = memcg->parent;
    return memcg == top ? NULL : hlist_next_entry(memcg, sibling);
}

#endif
