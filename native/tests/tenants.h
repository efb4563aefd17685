/* SPDX-License-Identifier: Apache-2.0 */
/* tenants.h - threads that enter one group after the other, and free what others allocated. */
#ifndef MEMCG_TEST_TENANTS_H
#define MEMCG_TEST_TENANTS_H

#include "control.h"

enum { THREADS = 3, SLOTS = 512 };
static struct mem_cgroup
    *inside; /* inside_lock: the group that threads enter; holds a reference for them */
static pthread_mutex_t inside_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_t tenants[THREADS];
static ATOMIC(void *) slots[SLOTS];
static atomic_int_t over;

static void *tenant(void *arg)
{
    unsigned seed = (unsigned)(uintptr_t)arg;

    while (!load_relaxed(&over)) {
        struct mem_cgroup *g = NULL;

        pthread_mutex_lock(&inside_lock);
        if (inside && css_tryget(inside))
            g = inside;
        pthread_mutex_unlock(&inside_lock);
        memcg_set_current(g);
        for (int i = 0; i < 300; i++) {
            size_t size = (size_t)rand_r(&seed) % (i % 50 ? 400 : 90000) + 8;
            size_t *p = memcg_malloc_fast(size);

            *p = size;
            p = exchange_acq_rel(&slots[rand_r(&seed) % SLOTS], p);
            if (p) {
                CHECK(*p && *p <= memcg_usable_size(p));
                memcg_free_fast(p);
            }
        }
        memcg_set_current(NULL);
        if (g)
            css_put(g);
    }
    return NULL;
}

/* NULL: the threads enter no group from now on.  Some may still be inside the last one. */
static inline void tenants_enter(struct mem_cgroup *g)
{
    pthread_mutex_lock(&inside_lock);
    inside = g;
    pthread_mutex_unlock(&inside_lock);
}

static inline void tenants_start(void)
{
    for (uintptr_t i = 0; i < THREADS; i++)
        start(&tenants[i], tenant, (void *)(i + 1));
}

static inline void tenants_end(void)
{
    store_relaxed(&over, 1);
    for (int i = 0; i < THREADS; i++)
        CHECK(!pthread_join(tenants[i], NULL));
    for (int i = 0; i < SLOTS; i++)
        memcg_free_fast(exchange_acq_rel(&slots[i], NULL));
}

#endif
