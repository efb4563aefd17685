/* SPDX-License-Identifier: Apache-2.0 */
/*
 * schemes.c - compares one mutex for all groups with one for each: T threads make and destroy the
 * child caches of G groups. The caches and the work are the real ones.
 *
 * usage: schemes one|each. "THREADS GROUPS TURNS" -> {"wall", "check"}. A turn creates a child of a
 * size class for a group, publishes it, uses it, unpublishes it, and destroys it. Two threads never
 * work on one pair at once, because each has groups of its own. In memcg the one pending item per
 * pair guarantees that.
 */
#include <stdint.h>
#include <time.h>

#include "control.h"

#define MAX_GROUPS 10000

static struct mem_cgroup *groups[MAX_GROUPS];
static pthread_mutex_t mutexes[MAX_GROUPS];
static int nr_groups, nr_made, turns, nr_threads;
static bool each;

static pthread_mutex_t *mutex_of(int group) { return each ? &mutexes[group] : &control_lock; }

static void life_of_child(int group, struct kmem_cache *root)
{
    struct mem_cgroup *memcg = groups[group];
    struct kmem_cache *child;

    pthread_mutex_lock(mutex_of(group));
    child = kmem_cache_create_child(memcg, root);
    CHECK(child && !cache_from_memcg_idx(root, mem_cgroup_id(memcg)));
    memcg_cache_publish(root, mem_cgroup_id(memcg), child);
    pthread_mutex_unlock(mutex_of(group));

    memcg_set_current(memcg);
    memcg_free(memcg_malloc(kmem_cache_size(root)));
    memcg_set_current(NULL);

    pthread_mutex_lock(mutex_of(group));
    CHECK(!kmem_cache_shutdown(child));
    memcg_cache_publish(root, mem_cgroup_id(memcg), NULL);
    kmem_cache_free_struct(child);
    css_put(memcg);
    pthread_mutex_unlock(mutex_of(group));
}

static void *run(void *arg)
{
    int first = (int)(intptr_t)arg;

    for (int i = 0; i < turns / nr_threads; i++) /* each thread has groups of its own */
        life_of_child(first + i % (nr_groups / nr_threads) * nr_threads,
                      kmalloc_cache(i % kmalloc_nr_caches()));
    return NULL;
}

int main(int argc, char **argv)
{
    pthread_t threads[64];
    struct timespec from, to;

    each = argc > 1 && !strcmp(argv[1], "each");
    CHECK(!memcg_init(NULL));
    for (int i = 0; i < MAX_GROUPS; i++)
        pthread_mutex_init(&mutexes[i], NULL);
    while (scanf("%d %d %d", &nr_threads, &nr_groups, &turns) == 3) {
        for (; nr_made < nr_groups; nr_made++)
            groups[nr_made] = group_new(mem_cgroup_root());
        clock_gettime(CLOCK_MONOTONIC, &from);
        for (intptr_t i = 0; i < nr_threads; i++)
            start(&threads[i], run, (void *)i);
        for (int i = 0; i < nr_threads; i++)
            pthread_join(threads[i], NULL);
        clock_gettime(CLOCK_MONOTONIC, &to);
        printf("{\"wall\": %.9f, \"check\": %d}\n",
               (double)(to.tv_sec - from.tv_sec) + (double)(to.tv_nsec - from.tv_nsec) * 1e-9,
               turns);
        fflush(stdout);
    }
    return 0;
}
