/* SPDX-License-Identifier: Apache-2.0 */
/* test_kmem_cache.c - caches: wrong frees, creation and end, lookups that race with writers. */
#include "control.h"

static void frees_of_what_is_no_live_object_fail(void)
{
    struct kmem_cache *s = kmem_cache_create_root(100, 64, 0),
                      *other = kmem_cache_create_root(100, 64, 0);
    char *p = kmem_cache_alloc_fast(s), *q = kmem_cache_alloc_fast(s), *foreign = memcg_malloc(100);
    char *run = memcg_malloc(100000);
    int on_stack = 0;
    void *start_of;

    CHECK((uintptr_t)p % 64 == 0 && kmem_cache_size(s) == 128 && kmem_cache_object_size(s) == 100);
    CHECK(kmem_cache_free_fast(s, p + 16) == -EINVAL &&
          kmem_cache_free_fast(s, &on_stack) == -EINVAL);
    CHECK(kmem_cache_free_fast(s, foreign) == -EINVAL && kmem_cache_free_fast(other, p) == -EINVAL);
    CHECK(kmem_cache_free_fast(s, run) == -EINVAL &&
          kmem_cache_free_fast(s, run + 5000) == -EINVAL);
    CHECK(kmem_cache_free_fast(s, NULL) == -EINVAL);
    CHECK(kmem_cache_free_fast(s, p + 128 * 40) == -EINVAL ||
          kmem_cache_free_fast(s, p + 128 * 40) == -EALREADY);
    CHECK(kmem_cache_free_fast(s, p) == 0 && kmem_cache_free_fast(s, p) == -EALREADY);
    CHECK(kmem_cache_free_fast(s, q) == 0 && kmem_cache_free_fast(s, p) == -EALREADY);
    CHECK(kmem_cache_of(q + 5, &start_of) == s && start_of == q);
    CHECK(!kmem_cache_of(run, NULL) && !kmem_cache_of(&on_stack, NULL));
    memcg_free(foreign);
    memcg_free(run);
    CHECK(kmem_cache_shutdown(s) == 0 && kmem_cache_shutdown(other) == 0);
    kmem_cache_free_struct(s);
    kmem_cache_free_struct(other);
    check_nothing_is_left();
}

static void geometry_suits_every_size_and_alignment(void)
{
    CHECK(!kmem_cache_create_root(0, 16, 0) && !kmem_cache_create_root(8, 24, 0));
    CHECK(!kmem_cache_create_root(SIZE_MAX, 16, 0) &&
          !kmem_cache_create_root(16, (size_t)1 << 30, 0));
    for (size_t size = 1; size < 10 << 20; size = size * 5 / 2 + 1)
        for (size_t align = 1; align <= 65536; align *= 16) {
            struct kmem_cache *s = kmem_cache_create_root(size, align, KMEM_CACHE_ZERO);
            unsigned char *p[20];

            CHECK(s);
            for (int i = 0; i < 20; i++) {
                p[i] = kmem_cache_alloc_fast(s);
                CHECK(p[i] && (uintptr_t)p[i] % align == 0);
                /* all but the free pointer */
                CHECK(size < 16 || (p[i][size - 1] == 0 && p[i][8] == 0));
                memset(p[i], 1, size);
            }
            for (int i = 0; i < 20; i++)
                CHECK(p[i][0] == 1 && p[i][size - 1] == 1 && kmem_cache_free_fast(s, p[i]) == 0);
            kmem_cache_shrink(s);
            CHECK(kmem_cache_nr_pages(s) == 0 && kmem_cache_shutdown(s) == 0);
            kmem_cache_free_struct(s);
        }
    check_nothing_is_left();
}

/* From a successful shutdown to the end no thread gets an object. */
static void a_cache_that_was_shut_down_serves_nothing(void)
{
    struct mem_cgroup *g = group_new(mem_cgroup_root());
    struct kmem_cache *root = kmalloc_cache(kmalloc_index(64)), *child;
    struct kmem_cache *s = kmem_cache_create_root(64, 16, 0);
    void *p;

    child_create(g, root);
    child = cache_from_memcg_idx(root, mem_cgroup_id(g));
    memcg_set_current(g);
    p = memcg_malloc(64);
    CHECK(kmem_cache_of(p, NULL) == child && kmem_cache_shutdown(child) == -EBUSY);
    memcg_free(p);
    p = memcg_malloc(64);
    CHECK(kmem_cache_of(p, NULL) == child); /* shutdown was refused, so the cache still serves */
    memcg_free(p);
    CHECK(kmem_cache_shutdown(child) == 0);
    p = memcg_malloc(64);
    CHECK(kmem_cache_of(p, NULL) == root && kmem_cache_nr_pages(child) == 0);
    memcg_free(p);
    memcg_set_current(NULL);
    CHECK(kmem_cache_shutdown(s) == 0 && !kmem_cache_alloc_fast(s));
    kmem_cache_free_struct(s);
    group_close(g);
    check_nothing_is_left();
}

static void a_dead_cache_posts_an_event_when_it_is_empty(void)
{
    struct mem_cgroup *g = group_new(mem_cgroup_root());
    struct kmem_cache *root = kmalloc_cache(kmalloc_index(64));
    enum { N = 1000 };
    void *p[N];

    child_create(g, root);
    memcg_set_current(g);
    for (int i = 0; i < N; i++)
        p[i] = memcg_malloc_fast(64);
    memcg_set_current(NULL);
    CHECK(work() == 0);
    group_close(g);
    CHECK(work() == 0 && kmem_cache_nr_pages(cache_from_memcg_idx(root, mem_cgroup_id(g))) > 0);
    for (int i = 0; i < N - 1; i++)
        memcg_free_fast(p[i]);
    CHECK(work() == 0);
    events_seen[MEMCG_EVENT_EMPTY] = events_seen[MEMCG_EVENT_RELEASE] = 0;
    memcg_free_fast(p[N - 1]);
    work();
    CHECK(events_seen[MEMCG_EVENT_EMPTY] == 1 && events_seen[MEMCG_EVENT_RELEASE] == 1);
    check_nothing_is_left();
}

/* The struct ends while its EMPTY, or a CREATE for it, is in the queue. */
static void events_of_an_ended_cache_are_dropped(void)
{
    struct mem_cgroup *g = group_new(mem_cgroup_root());
    struct kmem_cache *s = kmem_cache_create_root(64, 16, 0), *child;
    struct memcg_event event;
    void *p;

    CHECK(!memcg_update_cache_size(s, mem_cgroup_id(g) + 1));
    memcg_set_current(g);
    p = kmem_cache_alloc_fast(s); /* a user's cache asks at its first object */
    memcg_set_current(NULL);
    CHECK(css_refs(g) == 2 && kmem_cache_free_fast(s, p) == 0);
    child = kmem_cache_create_child(g, s);
    memcg_cache_publish(s, mem_cgroup_id(g), child);
    memcg_set_current(g);
    p = kmem_cache_alloc_fast(s);
    memcg_set_current(NULL);
    CHECK(kmem_cache_of(p, NULL) == child);
    kmem_cache_set_dead(child);
    CHECK(kmem_cache_free_fast(s, p) == 0 && kmem_cache_shutdown(child) == 0);
    memcg_cache_publish(s, mem_cgroup_id(g), NULL);
    kmem_cache_free_struct(child);
    css_put(g);
    CHECK(kmem_cache_shutdown(s) == 0);
    kmem_cache_free_struct(s);
    CHECK(!memcg_next_event(&event) && css_refs(g) == 1);
    group_close(g);
    CHECK(work() == 1);
    check_nothing_is_left();
}

static void indices_of_ended_caches_are_used_again(void)
{
    struct kmem_cache *s[50];

    for (int round = 0; round < 100; round++) {
        for (int i = 0; i < 50; i++) {
            s[i] = kmem_cache_create_root((size_t)i * 10 + 1, 16, 0);
            CHECK(s[i] && s[i]->index < NR_KMALLOC + 50);
            CHECK(kmem_cache_free_fast(s[i], kmem_cache_alloc_fast(s[i])) == 0);
        }
        for (int i = 0; i < 50; i++) {
            CHECK(kmem_cache_shutdown(s[i]) == 0);
            kmem_cache_free_struct(s[i]);
        }
    }
    check_nothing_is_left();
}

static struct kmem_cache *raced;
static atomic_int_t over;

/* A cache that is looked up is complete: its root and its group are right. */
static void *reader(void *arg)
{
    struct mem_cgroup *g = arg;

    memcg_set_current(g);
    while (!load_relaxed(&over)) {
        void *p = kmem_cache_alloc_fast(raced);
        struct kmem_cache *s = kmem_cache_of(p, NULL);

        CHECK(p && (s == raced || (s->root == raced && s->memcg == g)));
        memset(p, 0xee, 100);
        CHECK(kmem_cache_free_fast(raced, p) == 0);
    }
    memcg_set_current(NULL);
    return NULL;
}

static void lookups_race_with_publish_destroy_and_grow(void)
{
    enum { READERS = 3 };
    struct mem_cgroup *g[READERS];
    pthread_t t[READERS];
    int slots = 8;

    raced = kmem_cache_create_root(100, 16, 0);
    for (int i = 0; i < READERS; i++) {
        g[i] = group_new(mem_cgroup_root());
        CHECK(!memcg_update_cache_size(raced, mem_cgroup_id(g[i]) + 1));
    }
    for (int i = 0; i < READERS; i++)
        start(&t[i], reader, g[i]);
    for (int round = 0; round < 60; round++) {
        int i = round % READERS;

        child_create(g[i], raced);
        if (round % 6 == 0)
            CHECK(!memcg_update_cache_size(raced, slots *= 2));
        sched_yield();
        pthread_mutex_lock(&control_lock);
        __child_destroy_if_empty(cache_from_memcg_idx(raced, mem_cgroup_id(g[i])));
        pthread_mutex_unlock(&control_lock);
        if (round % 10 == 0)
            work(); /* creates children too */
    }
    store_relaxed(&over, 1);
    for (int i = 0; i < READERS; i++)
        pthread_join(t[i], NULL);
    user_roots[nr_user_roots++] = raced;
    for (int i = 0; i < READERS; i++)
        group_close(g[i]);
    work();
    nr_user_roots--;
    CHECK(kmem_cache_shutdown(raced) == 0);
    kmem_cache_free_struct(raced);
    check_nothing_is_left();
}

int main(void)
{
    CHECK(memcg_init(NULL) == 0);
    memcg_set_promote_bytes(SIZE_MAX);
    RUN(frees_of_what_is_no_live_object_fail);
    RUN(geometry_suits_every_size_and_alignment);
    RUN(a_cache_that_was_shut_down_serves_nothing);
    RUN(a_dead_cache_posts_an_event_when_it_is_empty);
    RUN(events_of_an_ended_cache_are_dropped);
    RUN(indices_of_ended_caches_are_used_again);
    RUN(lookups_race_with_publish_destroy_and_grow);
    return DONE();
}
