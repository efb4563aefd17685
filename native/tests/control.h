/* SPDX-License-Identifier: Apache-2.0 */
/*
 * control.h - a control plane on one page, for tests: ids, child caches, the worker.
 *
 * `control_lock` stands for memcg_slab_mutex and activate_kmem_mutex together.
 */
#ifndef MEMCG_TEST_CONTROL_H
#define MEMCG_TEST_CONTROL_H

#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../kmalloc.h"
#include "../kmem_cache.h"
#include "../charge.h"
#include "../debug.h"
#include "../page_alloc.h"
#include "../reclaim.h"
#include "test.h"

#define MAX_IDS 16384
static pthread_mutex_t control_lock = PTHREAD_MUTEX_INITIALIZER;
static uint8_t id_used[MAX_IDS];
static struct kmem_cache *user_roots[8]; /* treated as the size classes are */
static int nr_user_roots;
static int events_seen[MEMCG_EVENT_RELEASE + 1];

static inline int nr_roots(void) { return kmalloc_nr_caches() + nr_user_roots; }
static inline struct kmem_cache *root_at(int i)
{
    return i < kmalloc_nr_caches() ? kmalloc_cache(i) : user_roots[i - kmalloc_nr_caches()];
}

/* What the groups below an online group cost it. A closed one counts until it is freed. */
static inline int64_t cost_below(struct mem_cgroup *memcg)
{
    int64_t bytes = 0;

    mutex_lock(&groups_lock);
    for (struct mem_cgroup *m = memcg; m;) {
        if (!hlist_empty(&m->children)) {
            m = hlist_first_entry(&m->children, struct mem_cgroup, sibling);
        } else {
            while (m != memcg && !m->sibling.next)
                m = m->parent;
            m = m == memcg ? NULL : hlist_next_entry(m, sibling);
        }
        bytes += m ? (int64_t)MEMCG_GROUP_BYTES : 0;
    }
    mutex_unlock(&groups_lock);
    return bytes;
}

/* This and the next function leave out what the groups below cost. */
static inline int64_t usage_of_group(struct mem_cgroup *memcg)
{
    struct mem_cgroup_stat stat;

    mem_cgroup_read_stat(memcg, &stat);
    return stat.usage - cost_below(memcg);
}

static inline int64_t current_of(struct mem_cgroup *memcg)
{
    struct mem_cgroup_stat stat;

    mem_cgroup_read_stat(memcg, &stat);
    return stat.current - cost_below(memcg);
}

/* NULL: a limit was met. */
static inline struct mem_cgroup *group_try_new(struct mem_cgroup *parent)
{
    struct mem_cgroup *memcg = mem_cgroup_alloc(parent);
    int id = 0;

    if (!memcg)
        return NULL;
    css_get(parent);
    pthread_mutex_lock(&control_lock);
    while (id_used[id])
        CHECK(++id < MAX_IDS);
    id_used[id] = 1;
    for (int i = 0; i < nr_roots(); i++)
        CHECK(!memcg_update_cache_size(root_at(i), id + 1));
    mem_cgroup_set_id(memcg, id);
    pthread_mutex_unlock(&control_lock);
    return memcg;
}

static inline struct mem_cgroup *group_new(struct mem_cgroup *parent)
{
    struct mem_cgroup *memcg = group_try_new(parent);

    CHECK(memcg);
    return memcg;
}

/* control_lock held. */
static inline void __child_destroy_if_empty(struct kmem_cache *child)
{
    struct mem_cgroup *memcg = child->memcg;

    if (kmem_cache_shutdown(child))
        return;
    CHECK(cache_from_memcg_idx(child->root, mem_cgroup_id(memcg)) == child);
    memcg_cache_publish(child->root, mem_cgroup_id(memcg), NULL);
    memcg_synchronize();
    kmem_cache_free_struct(child);
    css_put(memcg);
}

static inline void child_create(struct mem_cgroup *memcg, struct kmem_cache *root)
{
    struct kmem_cache *child;

    pthread_mutex_lock(&control_lock);
    if (mem_cgroup_online(memcg) && !cache_from_memcg_idx(root, mem_cgroup_id(memcg))) {
        child = kmem_cache_create_child(memcg, root);
        CHECK(child);
        memcg_cache_publish(root, mem_cgroup_id(memcg), child);
    }
    pthread_mutex_unlock(&control_lock);
}

/* Takes the group offline, destroys its children or marks them dead, drops the creator's
 * reference. */
static inline void group_close(struct mem_cgroup *memcg)
{
    pthread_mutex_lock(&control_lock);
    mem_cgroup_offline(memcg);
    for (int i = 0; i < nr_roots(); i++) {
        struct kmem_cache *child = cache_from_memcg_idx(root_at(i), mem_cgroup_id(memcg));

        if (!child)
            continue;
        kmem_cache_set_dead(child);
        __child_destroy_if_empty(child);
    }
    pthread_mutex_unlock(&control_lock);
    css_put(memcg);
}

static inline void handle_event(const struct memcg_event *event)
{
    struct mem_cgroup *parent;

    events_seen[event->kind]++;
    if (event->kind == MEMCG_EVENT_CREATE) {
        child_create(event->memcg, event->cache);
        memcg_create_done(event->cache, event->memcg);
        css_put(event->memcg);
    } else if (event->kind == MEMCG_EVENT_EMPTY) {
        pthread_mutex_lock(&control_lock);
        __child_destroy_if_empty(event->cache);
        pthread_mutex_unlock(&control_lock);
        css_put(event->memcg);
    } else if (event->kind == MEMCG_EVENT_HIGH) {
        mem_cgroup_reclaim(event->memcg);
        mem_cgroup_high_done(event->memcg);
        css_put(event->memcg);
    } else if (event->kind == MEMCG_EVENT_RELEASE) {
        pthread_mutex_lock(&control_lock);
        id_used[mem_cgroup_id(event->memcg)] = 0;
        pthread_mutex_unlock(&control_lock);
        parent = mem_cgroup_parent(event->memcg);
        mem_cgroup_free(event->memcg);
        css_put(parent);
    }
}

/* Does the worker's part; returns how many events there were. */
static inline int work(void)
{
    struct memcg_event event;
    int n = 0;

    for (; memcg_next_event(&event); n++)
        handle_event(&event);
    return n;
}

/* After everything was freed and closed: nothing is charged, no slab or page is left. */
static inline void check_nothing_is_left(void)
{
    struct memcg_global_stat stat;

    work();
    memcg_trim();
    mem_cgroup_reclaim(mem_cgroup_root());
    CHECK(usage_of_group(mem_cgroup_root()) == 0);
    CHECK(current_of(mem_cgroup_root()) == 0);
    CHECK(page_counter_underflows() == 0);
    memcg_read_global_stat(&stat);
    CHECK(stat.nr_slabs == 0 && stat.pages_in_use == 0 && stat.slab_shared_used == 0);
}

static inline void start(pthread_t *thread, void *(*fn)(void *), void *arg)
{
    CHECK(!pthread_create(thread, NULL, fn, arg));
}

/* Frees the blocks in a child process, one after the other. True if the process was stopped. */
static inline bool dies(void *const *blocks, int nr)
{
    int status;
    pid_t pid = fork();

    if (!pid) {
        setrlimit(RLIMIT_CORE, &(struct rlimit){ 0, 0 });
        signal(SIGABRT, SIG_DFL);
        CHECK(freopen("/dev/null", "w", stderr));
        for (int i = 0; i < nr; i++)
            memcg_free_fast(blocks[i]);
        _exit(0);
    }
    CHECK(waitpid(pid, &status, 0) == pid);
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT;
}

#endif
