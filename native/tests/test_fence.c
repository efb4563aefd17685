/* SPDX-License-Identifier: Apache-2.0 */
/* test_fence.c - membarrier is missing, or is forbidden later by a seccomp filter. */
#include <linux/filter.h>
#include <linux/membarrier.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../section.h"
#include "control.h"

#ifdef __SANITIZE_THREAD__
enum { WALKS = 50, PAIRS = 10000 };
#else
enum { WALKS = 500, PAIRS = 200000 };
#endif
enum { THREADS = 3, SLOTS = 4 };
static ATOMIC(void *) slots[SLOTS];
static atomic_int_t over, pairs;

/* Most blocks are freed at once.  So there are always empty slabs, and a walker takes them. */
static void *churn(void *arg)
{
    unsigned seed = (unsigned)(uintptr_t)arg;

    while (!load_relaxed(&over)) {
        size_t *p = memcg_malloc_fast(64);

        p[0] = p[7] = (size_t)p;
        if (rand_r(&seed) % 64 == 0)
            p = exchange_acq_rel(&slots[rand_r(&seed) % SLOTS], p);
        CHECK(!p || (p[0] == (size_t)p && p[7] == (size_t)p));
        memcg_free_fast(p);
        add_relaxed(&pairs, 1);
        if (rand_r(&seed) % 64 == 0)
            memcg_free_fast(exchange_acq_rel(&slots[rand_r(&seed) % SLOTS], NULL));
    }
    return NULL;
}

static void walk_while_others_allocate(void)
{
    pthread_t t[THREADS];
    struct kmem_cache_info info;

    store_plain(&pairs, 0);
    store_plain(&over, 0);
    for (uintptr_t i = 0; i < THREADS; i++)
        start(&t[i], churn, (void *)i);
    for (int i = 0; i < WALKS || load_relaxed(&pairs) < PAIRS; i++) {
        kmem_cache_read_info(kmalloc_cache(3), &info);
        CHECK(info.active_objs <= SLOTS + 2 * THREADS);
        kmem_cache_shrink(kmalloc_cache(3));
    }
    store_relaxed(&over, 1);
    for (int i = 0; i < THREADS; i++)
        pthread_join(t[i], NULL);
    for (int i = 0; i < SLOTS; i++) {
        memcg_free(load_plain(&slots[i]));
        store_plain(&slots[i], NULL);
    }
    check_nothing_is_left();
}

/*
 * The protocol alone.  In every section the owner says that it is inside.  After the walker has
 * stolen all threads, it must see none inside.  Stores that miss the cache are made first, so that
 * `busy` waits in the store buffer while `stolen` is read.
 */
static atomic_int_t inside;
static atomic_u8_t far[1 << 25];

static void *owner(void *arg)
{
    unsigned seed = 1;

    thread_leave(thread_enter());
    while (!load_relaxed(&over)) {
        for (int i = 0; i < 8; i++)
            store_relaxed(&far[rand_r(&seed) % sizeof(far)], 1);
        struct thread *self = memcg_self;
        if (!section_begin(self)) /* begins on the fast path, or on the slow one */
            self = thread_enter();
        for (int i = 0; i < 50; i++)
            store_relaxed(&inside, 1);
        store_relaxed(&inside, 0);
        thread_leave(self);
        add_relaxed(&pairs, 1);
    }
    return arg;
}

static void no_thread_is_inside_while_all_are_stolen(void)
{
    pthread_t t;

    memcg_free(memcg_malloc(1));
    store_plain(&pairs, 0);
    store_plain(&over, 0);
    start(&t, owner, NULL);
    for (int i = 0; i < 2 * WALKS || load_relaxed(&pairs) < PAIRS / 50; i++) {
        thread_steal_all();
        for (int k = 0; k < 200; k++)
            CHECK(!load_relaxed(&inside));
        thread_release_all();
    }
    store_relaxed(&over, 1);
    pthread_join(t, NULL);
}

static void forbid_membarrier(void)
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_membarrier, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = { sizeof(filter) / sizeof(filter[0]), filter };

    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program))
        fprintf(stderr, "test_fence.c: no seccomp here: forbidding is not tested\n");
}

static void in_a_child(void (*before)(void), void (*after)(void))
{
    int status;
    pid_t pid = fork();

    if (!pid) {
        if (before)
            before();
        CHECK(memcg_init(NULL) == 0);
        memcg_free(memcg_malloc(1));
        if (after)
            after();
        no_thread_is_inside_while_all_are_stolen();
        walk_while_others_allocate();
        _exit(0);
    }
    CHECK(waitpid(pid, &status, 0) == pid && status == 0);
}

static bool has_membarrier(void)
{
    long commands = syscall(SYS_membarrier, MEMBARRIER_CMD_QUERY, 0, 0);

    return commands >= 0 && commands & MEMBARRIER_CMD_PRIVATE_EXPEDITED;
}

/* A walk needs no fence of the other threads where the kernel has one for them. */
static void sections_are_slow_only_without_membarrier(void)
{
    memcg_synchronize();
    CHECK(section_is_slow(SLOW_NO_MEMBARRIER) == !has_membarrier());
    CHECK(stolen_idle() == (has_membarrier() ? 0 : STOLEN_SLOW));
}

static void forbid_it_later(void)
{
    forbid_membarrier();
#ifndef __SANITIZE_THREAD__ /* its builds call no membarrier in a walk */
    sections_are_slow_only_without_membarrier();
#endif
}

static void with_membarrier(void) { in_a_child(NULL, sections_are_slow_only_without_membarrier); }

static void without_membarrier_from_the_start(void)
{
    in_a_child(forbid_membarrier, sections_are_slow_only_without_membarrier);
}

static void with_membarrier_forbidden_later(void) { in_a_child(NULL, forbid_it_later); }

int main(void)
{
    RUN(with_membarrier);
    RUN(without_membarrier_from_the_start);
    RUN(with_membarrier_forbidden_later);
    return DONE();
}
