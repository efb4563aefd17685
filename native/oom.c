/* SPDX-License-Identifier: Apache-2.0 */
/*
 * oom.c - the last refusal or alarm at each group's limit or at one below it.
 *
 * A MemoryError may have no text, and a program may have caught and dropped it.  The group still
 * knows.  A record names its groups by their structures.  Before one of those is freed, a copy of
 * its path takes its place.  Small requests past max may be thousands a second.  If they only raise
 * an alarm, one in each tick of the coarse clock (1 to 10 ms) is recorded.
 *
 * Kernel: none; ours (dmesg has the report of oom_kill_process).
 * Locks: oom_lock, a leaf, taken in sections: last_oom of every group.  The groups that it names,
 * and their paths, are not freed under it.
 */
#include "oom.h"

#include <time.h>

static struct mutex oom_lock = MUTEX_INITIALIZER;

static int64_t now_ns(clockid_t clock)
{
    struct timespec now;

    clock_gettime(clock, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static void forget_path(char **path)
{
    assert_locked(&oom_lock);
    free(*path);
    *path = NULL;
}

void mem_cgroup_note_oom(struct mem_cgroup *memcg, struct mem_cgroup *limited, size_t bytes,
                         bool refused)
{
    int64_t tick = now_ns(CLOCK_REALTIME_COARSE);
    struct last_oom last;

    assert_any_section();
    if (!refused && exchange_relaxed(&limited->oom_tick, tick) == tick)
        return;
    last = (struct last_oom){
        .memcg = memcg,
        .limited = limited,
        .bytes = bytes,
        .refused = refused,
        .current = page_counter_read(&limited->counter),
        .max = mem_cgroup_get_limit(limited, MEMCG_MAX),
        .time_ns = now_ns(CLOCK_REALTIME),
    };
    mutex_lock(&oom_lock);
    for (struct mem_cgroup *m = limited; m; m = m->parent) {
        forget_path(&m->last_oom.memcg_path);
        forget_path(&m->last_oom.limited_path);
        m->last_oom = last;
    }
    mutex_unlock(&oom_lock);
}

static char *copy_path(const struct mem_cgroup *memcg, const char *path)
{
    assert_locked(&oom_lock);
    return strdup(memcg ? memcg->path ? memcg->path : "" : path ? path : "?");
}

bool mem_cgroup_last_oom(struct mem_cgroup *memcg, struct memcg_oom *oom)
{
    struct thread *self = thread_enter();
    struct last_oom *last = &memcg->last_oom;

    mutex_lock(&oom_lock);
    *oom = (struct memcg_oom){ .bytes = last->bytes,
                               .current = last->current,
                               .max = last->max,
                               .time_ns = last->time_ns,
                               .refused = last->refused };
    if (last->time_ns) {
        oom->memcg = copy_path(last->memcg, last->memcg_path);
        oom->limited = copy_path(last->limited, last->limited_path);
    }
    mutex_unlock(&oom_lock);
    thread_leave(self);
    return oom->time_ns != 0;
}

void mem_cgroup_leave_oom(struct mem_cgroup *memcg)
{
    assert_any_section();
    mutex_lock(&oom_lock);
    for (struct mem_cgroup *m = memcg; m; m = m->parent) {
        struct last_oom *last = &m->last_oom;

        if (last->memcg == memcg) {
            last->memcg_path = copy_path(memcg, NULL);
            last->memcg = NULL;
        }
        if (last->limited == memcg) {
            last->limited_path = copy_path(memcg, NULL);
            last->limited = NULL;
        }
    }
    forget_path(&memcg->last_oom.memcg_path);
    forget_path(&memcg->last_oom.limited_path);
    mutex_unlock(&oom_lock);
}
