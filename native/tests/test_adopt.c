/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_adopt.c - slabs without an owner: others free into them, and adopt them meanwhile.
 *
 * A thread reads that a slab has no owner, and waits for the cache's lock, while another adopts the
 * slab under that lock.  The test holds the lock until both wait for it.  Which of them gets it
 * first is left to the system, so each case happens in some of the rounds.
 */
#include "control.h"

enum { ROUNDS = 60, SIZE = 256, N = 12 }; /* of one slab, which is not full */
static void *block[N];
static atomic_int_t waiting, released;

static void *makes(void *arg)
{
    memcg_set_current(arg);
    for (int i = 0; i < N; i++)
        CHECK((block[i] = memcg_malloc(SIZE)));
    memcg_set_current(NULL);
    return NULL;
}

/* Both threads have entered once before they wait, so what is left takes no other lock. */
static void wait_for_the_lock(void)
{
    memcg_free(memcg_malloc(64));
    add_relaxed(&waiting, 1);
    while (!load_relaxed(&released))
        sched_yield();
}

static void *frees(void *arg)
{
    wait_for_the_lock();
    for (int i = 0; i < N; i++)
        memcg_free(block[i]);
    return arg;
}

static void *adopts(void *arg)
{
    void *p[N];

    memcg_set_current(arg);
    wait_for_the_lock();
    for (int i = 0; i < N; i++) {
        CHECK((p[i] = memcg_malloc(SIZE)));
        memset(p[i], i, SIZE);
    }
    for (int i = 0; i < N; i++) {
        CHECK(*(char *)p[i] == i);
        memcg_free(p[i]);
    }
    memcg_set_current(NULL);
    return NULL;
}

/* The freed objects and the adopter's are counted once each, and the slab's list is whole. */
static void a_slab_is_adopted_while_another_thread_frees_into_it(void)
{
    struct mem_cgroup *g = group_new(mem_cgroup_root());
    struct kmem_cache *root = kmalloc_cache(kmalloc_index(SIZE)), *child;
    pthread_t maker, t[2];

    child_create(g, root);
    child = cache_from_memcg_idx(root, mem_cgroup_id(g));
    for (int round = 0; round < ROUNDS; round++) {
        start(&maker, makes, g);
        pthread_join(maker, NULL);
        CHECK(virt_to_slab(block[0])->cache == child);
        CHECK(!load_plain(&virt_to_slab(block[0])->owner));
        store_relaxed(&waiting, 0);
        store_relaxed(&released, 0);
        start(&t[0], frees, NULL);
        start(&t[1], adopts, g);
        while (load_relaxed(&waiting) < 2)
            sched_yield();
        pthread_mutex_lock(&child->lock.lock);
        store_relaxed(&released, 1);
        for (int i = 0; i < 500; i++) /* both reach the lock, or come later, which is right too */
            sched_yield();
        pthread_mutex_unlock(&child->lock.lock);
        for (int i = 0; i < 2; i++)
            pthread_join(t[i], NULL);
        CHECK(!memcg_find_invalid());
        mem_cgroup_reclaim(g);
        CHECK(current_of(g) == 0);
    }
    group_close(g);
    check_nothing_is_left();
}

/* The free of the last object gives the slab back, and holds the stub meanwhile. */
static void a_free_into_a_slab_without_an_owner_keeps_no_reference(void)
{
    struct mem_cgroup *g = group_new(mem_cgroup_root());
    struct obj_cgroup *objcg = g->objcg;
    pthread_t maker;
    long refs;

    child_create(g, kmalloc_cache(kmalloc_index(SIZE)));
    refs = load_plain(&objcg->refs);
    start(&maker, makes, g);
    pthread_join(maker, NULL);
    for (int i = 0; i < N; i++) {
        CHECK(!load_plain(&virt_to_slab(block[i])->owner));
        memcg_free(block[i]);
        CHECK(load_plain(&objcg->refs) == refs);
    }
    group_close(g);
    check_nothing_is_left();
}

int main(void)
{
    CHECK(memcg_init(NULL) == 0);
    memcg_set_promote_bytes(SIZE_MAX);
    RUN(a_slab_is_adopted_while_another_thread_frees_into_it);
    RUN(a_free_into_a_slab_without_an_owner_keeps_no_reference);
    return DONE();
}
