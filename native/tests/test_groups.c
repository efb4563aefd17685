/* SPDX-License-Identifier: Apache-2.0 */
/* test_groups.c - groups, limits, children, threads and fork over the whole data plane. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../kmalloc.h"
#include "../kmem_cache.h"
#include "test.h"

static int next_id;

static struct mem_cgroup *group_new(struct mem_cgroup *parent)
{
    struct mem_cgroup *memcg = mem_cgroup_alloc(parent);

    CHECK(memcg);
    for (int i = 0; i < kmalloc_nr_caches(); i++)
        CHECK(!memcg_update_cache_size(kmalloc_cache(i), next_id + 1));
    mem_cgroup_set_id(memcg, next_id++);
    return memcg;
}

static int64_t usage(struct mem_cgroup *memcg)
{
    struct mem_cgroup_stat stat;

    mem_cgroup_read_stat(memcg, &stat);
    return stat.usage;
}

static int64_t current(struct mem_cgroup *memcg)
{
    struct mem_cgroup_stat stat;

    mem_cgroup_read_stat(memcg, &stat);
    return stat.current;
}

static void blocks_of_every_size_keep_their_bytes(void)
{
    enum { N = 2000 };
    static unsigned char *block[N];
    static size_t size[N];
    unsigned seed = 1;

    for (int round = 0; round < 20 * N; round++) {
        int i = rand_r(&seed) % N;

        if (block[i]) {
            for (size_t k = 0; k < size[i]; k += 97)
                CHECK(block[i][k] == (unsigned char)i);
            if (rand_r(&seed) & 1) {
                memcg_free_fast(block[i]);
                block[i] = NULL;
                continue;
            }
        }
        size[i] = rand_r(&seed) % (round % 50 ? 2000u : 100000u) + 1;
        block[i] = memcg_realloc(block[i], size[i]);
        CHECK(block[i] && memcg_usable_size(block[i]) >= size[i]);
        CHECK((uintptr_t)block[i] % 16 == 0);
        memset(block[i], i, size[i]);
    }
    for (int i = 0; i < N; i++) {
        memcg_free(block[i]);
        block[i] = NULL;
    }
    mem_cgroup_reclaim(mem_cgroup_root());
    CHECK(usage(mem_cgroup_root()) == 0);
}

static void a_small_groups_charges_return_to_zero(void)
{
    struct mem_cgroup *g = group_new(mem_cgroup_root());
    void *p[1000];

    memcg_set_current(g);
    for (int i = 0; i < 1000; i++)
        CHECK((p[i] = memcg_malloc((size_t)i + 1)));
    CHECK(current(g) >= 500500);
    CHECK(current(mem_cgroup_root()) >= current(g));
    for (int i = 0; i < 1000; i++)
        memcg_free(p[i]);
    CHECK(current(g) == 0);
    memcg_set_current(NULL);
    CHECK(usage(g) == 0);
    mem_cgroup_offline(g);
    mem_cgroup_free(g);
}

static void promotion_asks_once_and_the_child_serves(void)
{
    struct mem_cgroup *g = group_new(mem_cgroup_root());
    struct kmem_cache *root = kmalloc_cache(kmalloc_index(64)), *child;
    struct memcg_event event;
    void *p[4000], *object;
    int n = 0;

    while (memcg_next_event(&event)) /* events of earlier tests' groups */
        ;
    memcg_set_promote_bytes(65536);
    memcg_set_current(g);
    for (int i = 0; i < 2000; i++)
        p[i] = memcg_malloc(64);
    while (memcg_next_event(&event)) {
        n++;
        CHECK(event.kind == MEMCG_EVENT_CREATE && event.cache == root && event.memcg == g);
    }
    CHECK(n == 1);
    memcg_set_promote_bytes(SIZE_MAX);
    child = kmem_cache_create_child(g, root);
    memcg_cache_publish(root, mem_cgroup_id(g), child);
    memcg_create_done(root, g);
    css_put(g);
    for (int i = 2000; i < 4000; i++)
        p[i] = memcg_malloc_fast(64);
    CHECK(kmem_cache_of(p[3999], &object) == child && object == p[3999]);
    CHECK(kmem_cache_of(p[0], NULL) == root);
    memcg_set_current(NULL);
    mem_cgroup_offline(g);
    CHECK(usage(g) == 0);
    kmem_cache_set_dead(child);
    for (int i = 0; i < 4000; i++)
        memcg_free(p[i]);
    CHECK(memcg_next_event(&event) && event.kind == MEMCG_EVENT_EMPTY && event.cache == child);
    css_put(g); /* the event's reference */
    CHECK(kmem_cache_shutdown(child) == 0);
    memcg_cache_publish(root, mem_cgroup_id(g), NULL);
    kmem_cache_free_struct(child);
    css_put(g); /* the child's reference */
    css_put(g);
    CHECK(memcg_next_event(&event) && event.kind == MEMCG_EVENT_RELEASE && event.memcg == g);
    mem_cgroup_free(g);
    mem_cgroup_reclaim(mem_cgroup_root());
    CHECK(usage(mem_cgroup_root()) == 0);
}

static struct mem_cgroup *limited;
static atomic_s64_t held; /* bytes that the hogs hold; never more than was charged */

static void *hog(void *arg)
{
    void *p[65]; /* one more than fits */

    (void)arg;
    memcg_set_current(limited);
    for (int round = 0; round < 200; round++) {
        int n = 0;

        while (n < 65 && (p[n] = memcg_malloc(65536))) {
            n++;
            CHECK(add_seq_cst(&held, 65536) <= 4 << 20);
        }
        while (n) {
            sub_seq_cst(&held, 65536);
            memcg_free(p[--n]);
        }
    }
    memcg_set_current(NULL);
    return NULL;
}

static void four_threads_never_pass_a_limit(void)
{
    pthread_t t[4];
    struct mem_cgroup_stat stat;

    limited = group_new(mem_cgroup_root());
    mem_cgroup_set_limit(limited, MEMCG_MAX, 4 << 20);
    for (int i = 0; i < 4; i++)
        pthread_create(&t[i], NULL, hog, NULL);
    for (int i = 0; i < 4; i++)
        pthread_join(t[i], NULL);
    /* usage and watermark may contain a charge that is about to be undone; `held` does not */
    mem_cgroup_read_stat(limited, &stat);
    CHECK(stat.usage == 0);
    CHECK(stat.events[MEMCG_EV_FAIL] > 0);
    mem_cgroup_offline(limited);
    mem_cgroup_free(limited);
}

enum { RING = 256, ITEMS = 20000 };
static ATOMIC(void *) ring[RING];

static void *consumer(void *arg)
{
    (void)arg;
    for (int i = 0; i < ITEMS; i++) {
        void *p;

        while (!(p = exchange_acquire(&ring[i % RING], NULL)))
            sched_yield();
        CHECK(*(int *)p == i);
        memcg_free_fast(p);
    }
    return NULL;
}

static void *producer(void *arg)
{
    memcg_set_current(arg);
    for (int i = 0; i < ITEMS; i++) {
        int *p = memcg_malloc_fast(64);

        *p = i;
        while (load_relaxed(&ring[i % RING]))
            sched_yield();
        store_release(&ring[i % RING], p);
    }
    memcg_set_current(NULL);
    return NULL;
}

static void remote_frees_come_home_also_after_thread_exit(void)
{
    struct mem_cgroup *groups[2] = { NULL, group_new(mem_cgroup_root()) };
    struct mem_cgroup_stat stat;

    for (int k = 0; k < 2; k++) {
        pthread_t a, b;

        pthread_create(&a, NULL, producer, groups[k]);
        pthread_create(&b, NULL, consumer, NULL);
        pthread_join(a, NULL);
        pthread_join(b, NULL);
    }
    CHECK(usage(groups[1]) == 0);
    mem_cgroup_reclaim(mem_cgroup_root());
    mem_cgroup_read_stat(mem_cgroup_root(), &stat);
    CHECK(stat.usage == stat.external); /* what its groups cost */
}

static void a_users_cache_rejects_wrong_frees(void)
{
    struct kmem_cache *s = kmem_cache_create_root(100, 64, 0);
    char *p = kmem_cache_alloc(s), *q = memcg_malloc(100);
    struct memcg_event event;

    while (memcg_next_event(&event)) /* events of earlier tests' groups */
        css_put(event.memcg);
    CHECK((uintptr_t)p % 64 == 0 && kmem_cache_size(s) == 128);
    CHECK(kmem_cache_free(s, p + 1) == -EINVAL && kmem_cache_free(s, q) == -EINVAL);
    CHECK(kmem_cache_shutdown(s) == -EBUSY);
    CHECK(kmem_cache_free(s, p) == 0);
    p = kmem_cache_alloc(s);
    q = (memcg_free(q), kmem_cache_alloc(s));
    CHECK(kmem_cache_free(s, p) == 0 && kmem_cache_free(s, p) == -EALREADY);
    CHECK(kmem_cache_free(s, q) == 0);
    CHECK(kmem_cache_shutdown(s) == 0);
    kmem_cache_free_struct(s);
    CHECK(!memcg_next_event(&event));
}

static void small_requests_pass_a_full_group_and_large_ones_do_not(void)
{
    struct mem_cgroup *g = group_new(mem_cgroup_root());
    struct mem_cgroup_stat stat;
    struct memcg_failure failure;
    void *p;

    mem_cgroup_set_limit(g, MEMCG_MAX, 1000);
    mem_cgroup_set_limit(g, MEMCG_RESERVE, 3000);
    memcg_set_current(g);
    CHECK(!memcg_malloc(65536) && memcg_last_failure(&failure) && failure.limited == g);
    CHECK((p = memcg_malloc(2000)));
    CHECK(!memcg_malloc(4000));
    void *q = memcg_malloc(1024), *r = memcg_malloc(1024), *s = memcg_malloc(1024);
    CHECK(q && r && s);
    mem_cgroup_read_stat(g, &stat);
    CHECK(stat.events[MEMCG_EV_RESERVE] && stat.events[MEMCG_EV_OVERDRAFT] && stat.overdraft > 0);
    memcg_free(p), memcg_free(q), memcg_free(r), memcg_free(s);
    memcg_set_current(NULL);
    CHECK(usage(g) == 0);
}

static atomic_int_t forking_over;

static void *churn(void *arg)
{
    while (!load_relaxed(&forking_over))
        memcg_free(memcg_malloc(200)), memcg_free(memcg_malloc(70000));
    return arg;
}

static void a_fork_among_threads_can_allocate(void)
{
    pthread_t t[2];
    int status;

    for (int i = 0; i < 2; i++)
        pthread_create(&t[i], NULL, churn, NULL);
    for (int i = 0; i < 20; i++) {
        pid_t pid = fork();

        if (!pid) {
            memcg_free(memcg_malloc(200));
            memcg_free(memcg_malloc(70000));
            memcg_synchronize();
            _exit(0);
        }
        CHECK(waitpid(pid, &status, 0) == pid && status == 0);
    }
    store_relaxed(&forking_over, 1);
    for (int i = 0; i < 2; i++)
        pthread_join(t[i], NULL);
}

static void a_group_reads_no_foreign_bytes(void)
{
    struct mem_cgroup *g = group_new(mem_cgroup_root());

    for (size_t size = 16; size < 200000; size = size * 3) {
        char *p = memcg_malloc(size), *q;

        memset(p, 'x', size);
        memcg_free(p);
        mem_cgroup_reclaim(mem_cgroup_root());
        memcg_set_current(g);
        q = memcg_malloc(size);
        for (size_t i = 8; i < size; i++)
            CHECK(q[i] != 'x');
        memcg_free(q);
        memcg_set_current(NULL);
    }
}

static double pair_ns(bool ours)
{
    struct timespec a, b;
    enum { N = 20000000 };

    clock_gettime(CLOCK_MONOTONIC, &a);
    for (int i = 0; i < N; i++) {
        void *p = ours ? memcg_malloc_fast(64) : malloc(64);

        __asm__ volatile("" : : "r"(p) : "memory");
        ours ? memcg_free_fast(p) : free(p);
    }
    clock_gettime(CLOCK_MONOTONIC, &b);
    return ((double)(b.tv_sec - a.tv_sec) * 1e9 + (double)(b.tv_nsec - a.tv_nsec)) / N;
}

int main(int argc, char **argv)
{
    (void)argv;
    CHECK(memcg_init(NULL) == 0);
    memcg_set_promote_bytes(SIZE_MAX);
    RUN(blocks_of_every_size_keep_their_bytes);
    RUN(a_small_groups_charges_return_to_zero);
    RUN(promotion_asks_once_and_the_child_serves);
    RUN(four_threads_never_pass_a_limit);
    RUN(remote_frees_come_home_also_after_thread_exit);
    RUN(a_users_cache_rejects_wrong_frees);
    RUN(small_requests_pass_a_full_group_and_large_ones_do_not);
    RUN(a_group_reads_no_foreign_bytes);
    RUN(a_fork_among_threads_can_allocate);
    if (argc > 1)
        printf("64-byte pair: memcg %.1f ns, libc %.1f ns\n", pair_ns(true), pair_ns(false));
    return DONE();
}
