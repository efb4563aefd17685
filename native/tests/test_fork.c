/* SPDX-License-Identifier: Apache-2.0 */
/* test_fork.c - the child of a fork among allocating threads works on its own. */
#include <sys/wait.h>
#include <unistd.h>

#include "control.h"

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
enum { FORKS = 30 };
#else
enum { FORKS = 200 };
#endif
enum { THREADS = 2, SLOTS = 256 };
static ATOMIC(void *) slots[SLOTS];
static struct mem_cgroup *groups[THREADS];
static atomic_int_t over;

static void *churn(void *arg)
{
    unsigned seed = (unsigned)(uintptr_t)arg;

    while (!load_relaxed(&over)) {
        memcg_set_current(groups[(uintptr_t)arg]);
        for (int i = 0; i < 100; i++) {
            char *p = memcg_malloc_fast((size_t)rand_r(&seed) % (i % 20 ? 300 : 80000) + 1);

            *p = 1;
            memcg_free_fast(exchange_acq_rel(&slots[rand_r(&seed) % SLOTS], p));
        }
        memcg_set_current(NULL);
        sched_yield(); /* lets the child run */
        if (rand_r(&seed) % 8 == 0)
            mem_cgroup_reclaim(mem_cgroup_root());
    }
    return NULL;
}

/* Allocates, frees what other threads allocated, makes every walk, ends a group, starts a
 * thread. */
static int child_main(void)
{
    struct mem_cgroup *g;
    struct memcg_global_stat stat;

    memcg_read_global_stat(&stat);
    CHECK(stat.nr_threads <= 2); /* the orphan and this thread */
    for (int i = 0; i < SLOTS; i++) {
        char *p = memcg_malloc_fast((size_t)i * 20 + 1);

        memset(p, 2, (size_t)i * 20 + 1);
        memcg_free_fast(load_plain(&slots[i]));
        store_plain(&slots[i], p);
    }
    g = group_new(groups[0]);
    memcg_set_current(g);
    memcg_free(memcg_malloc(100));
    memcg_set_current(NULL);
    group_close(g);
    memcg_trim();
/* TSan forbids threads here. ASan's allocator may be locked by a thread that the child does not
 * have. */
#if !defined(__SANITIZE_THREAD__) && !defined(__SANITIZE_ADDRESS__)
    pthread_t t;
    store_plain(&over, 0);
    start(&t, churn, (void *)1);
    for (int i = 0; i < 20; i++)
        sched_yield();
    store_relaxed(&over, 1);
    pthread_join(t, NULL);
#endif
    for (int i = 0; i < SLOTS; i++)
        memcg_free_fast(load_plain(&slots[i]));
    work();
    for (int i = 0; i < THREADS; i++)
        group_close(groups[i]);
    mem_cgroup_reclaim(mem_cgroup_root());
    work();
    return 0;
}

static void two_hundred_forks_among_allocating_threads(void)
{
    pthread_t t[THREADS];
    int status;

    memcg_set_promote_bytes(4096);
    for (int i = 0; i < THREADS; i++)
        groups[i] = group_new(mem_cgroup_root());
    for (uintptr_t i = 0; i < THREADS; i++)
        start(&t[i], churn, (void *)i);
    for (int i = 0; i < FORKS; i++) {
        pid_t pid;

        work();
        pthread_mutex_lock(&control_lock); /* the control plane takes its own lock before a fork */
        pid = fork();
        pthread_mutex_unlock(&control_lock);
        if (!pid)
            _exit(child_main());
        CHECK(waitpid(pid, &status, 0) == pid && status == 0);
        memcg_free(memcg_malloc(100));
    }
    store_relaxed(&over, 1);
    for (int i = 0; i < THREADS; i++)
        pthread_join(t[i], NULL);
    for (int i = 0; i < SLOTS; i++)
        memcg_free(load_plain(&slots[i]));
    work();
    for (int i = 0; i < THREADS; i++)
        group_close(groups[i]);
    check_nothing_is_left();
}

static int handlers_ran;
static struct mem_cgroup *tight;

/* It is registered before ours, so as a prepare handler it runs after ours, and otherwise
 * before. */
static void allocating_handler(void)
{
    void *p = memcg_malloc_fast(5000), *q;

    CHECK(p);
    memcg_free_fast(p);
    if (tight) { /* meets a limit, where other requests would reclaim */
        memcg_set_current(tight);
        CHECK(!memcg_malloc(100000));
        q = memcg_malloc(200);
        CHECK(q);
        memcg_free(q);
        memcg_set_current(NULL);
    }
    handlers_ran++;
}

static void *forker(void *arg)
{
    int status;
    pid_t pid = fork(); /* this thread's first call of ours is in a handler */

    if (!pid)
        _exit(handlers_ran == 2 ? 0 : 1);
    CHECK(waitpid(pid, &status, 0) == pid && status == 0 && handlers_ran == 2);
    return arg;
}

static void handlers_of_others_may_allocate(void)
{
    pthread_t t;

    tight = group_new(mem_cgroup_root());
    mem_cgroup_set_limit(tight, MEMCG_MAX, 100);
    handlers_ran = 0;
    start(&t, forker, NULL);
    pthread_join(t, NULL);
    group_close(tight);
    tight = NULL;
    check_nothing_is_left();
}

int main(void)
{
    CHECK(!pthread_atfork(allocating_handler, allocating_handler, allocating_handler));
    CHECK(memcg_init(NULL) == 0);
    memcg_set_promote_bytes(SIZE_MAX);
    RUN(handlers_of_others_may_allocate);
    RUN(two_hundred_forks_among_allocating_threads);
    return DONE();
}
