/* SPDX-License-Identifier: Apache-2.0 */
/* test_charge.c - limits under threads, reserve, overdraft, alarms, stock. */
#include "control.h"

enum { THREADS = 4 };
static struct mem_cgroup *top, *leaf[THREADS];
static atomic_s64_t held_top, held_leaf[THREADS]; /* bytes that are granted and not given back
                                                   * yet */
#define TOP_MAX ((int64_t)6 << 20)
#define LEAF_MAX ((int64_t)2 << 20)

static void *hog(void *arg)
{
    uintptr_t me = (uintptr_t)arg;
    unsigned seed = (unsigned)me;
    enum { N = 64 };
    void *p[N];
    int64_t size[N];

    memcg_set_current(leaf[me % 2]);
    for (int round = 0; round < 100; round++) {
        int n = 0;

        for (; n < N; n++) {
            size[n] = (int64_t)(16 + (size_t)rand_r(&seed) % 16) * (int64_t)PAGE_SIZE;
            p[n] = memcg_malloc((size_t)size[n]);
            if (!p[n])
                break;
            CHECK(add_seq_cst(&held_top, size[n]) <= TOP_MAX);
            CHECK(add_seq_cst(&held_leaf[me % 2], size[n]) <= LEAF_MAX * 2);
        }
        while (n-- > 0) {
            sub_seq_cst(&held_leaf[me % 2], size[n]);
            sub_seq_cst(&held_top, size[n]);
            memcg_free(p[n]);
        }
    }
    memcg_set_current(NULL);
    return NULL;
}

static void threads_never_pass_a_limit_at_any_level(void)
{
    pthread_t t[THREADS];
    struct mem_cgroup_stat stat;

    top = group_new(mem_cgroup_root());
    for (int i = 0; i < 2; i++) {
        leaf[i] = group_new(top);
        mem_cgroup_set_limit(leaf[i], MEMCG_MAX, LEAF_MAX * 2);
    }
    mem_cgroup_set_limit(top, MEMCG_MAX, TOP_MAX);
    for (uintptr_t i = 0; i < THREADS; i++)
        start(&t[i], hog, (void *)i);
    for (int i = 0; i < THREADS; i++)
        pthread_join(t[i], NULL);
    mem_cgroup_read_stat(top, &stat);
    CHECK(stat.usage == cost_below(top) && stat.watermark <= TOP_MAX &&
          stat.watermark > TOP_MAX / 2);
    CHECK(stat.events[MEMCG_EV_FAIL] > 0 &&
          stat.events_local[MEMCG_EV_FAIL] <= stat.events[MEMCG_EV_FAIL]);
    CHECK(stat.events[MEMCG_EV_RESERVE] == 0);
    for (int i = 0; i < 2; i++)
        group_close(leaf[i]);
    group_close(top);
    check_nothing_is_left();
}

static struct mem_cgroup *alarm_memcg, *alarm_limited;
static int alarms;

static void on_alarm(struct mem_cgroup *memcg, struct mem_cgroup *limited, size_t bytes,
                     enum memcg_outcome outcome, unsigned refusals)
{
    CHECK((outcome == MEMCG_REFUSED_AT_CEILING) == (refusals > 0));
    alarm_memcg = memcg;
    alarm_limited = limited;
    alarms += bytes > 0 && outcome == MEMCG_CHARGED;
}

static struct mem_cgroup_stat stat_of(struct mem_cgroup *memcg)
{
    struct mem_cgroup_stat stat;

    mem_cgroup_read_stat(memcg, &stat);
    return stat;
}

static struct mem_cgroup *refusable;

static bool only_once(struct mem_cgroup *memcg, size_t bytes, enum memcg_bound bound)
{
    CHECK(bytes == 1000 && bound == MEMCG_AT_RESERVE);
    CHECK(!refusable || memcg == refusable);
    memcg = refusable;
    refusable = NULL;
    return memcg;
}

static void large_requests_are_refused_and_small_ones_are_forced(void)
{
    struct mem_cgroup *up = group_new(mem_cgroup_root()), *g = group_new(up);
    struct memcg_failure failure;
    struct kmem_cache *s = kmem_cache_create_root(100, 16, 0);
    void *p[4000];
    void *object[100];
    int n = 0, m, objects = 0;

    work();
    alarms = 0;
    memcg_set_alarm(on_alarm);
    mem_cgroup_set_limit(up, MEMCG_MAX, 100000);
    mem_cgroup_set_limit(up, MEMCG_RESERVE, 50000);
    mem_cgroup_set_limit(up, MEMCG_OVERDRAFT, 4 << 20);
    memcg_set_current(g);
    while (stat_of(up).usage < 99000)
        p[n++] = memcg_malloc(1000);
    CHECK(alarms == 0 && stat_of(up).events[MEMCG_EV_RESERVE] == 0);
    CHECK(!memcg_malloc(65536) && alarms == 0); /* large: refused, and the failure is recorded */
    CHECK(memcg_last_failure(&failure) && failure.memcg == g && failure.limited == up);
    CHECK(failure.bytes == 65536 && failure.max == 100000 && failure.current <= 100000);
    CHECK(!memcg_last_failure(&failure));
    while ((object[objects] = kmem_cache_alloc(s))) /* takes the rest */
        objects++;
    CHECK(memcg_last_failure(&failure) && alarms == 0 && stat_of(up).usage <= 100000);
    CHECK((p[n++] = memcg_malloc(20000)) && alarms == 1); /* charged to the reserve */
    CHECK(alarm_memcg == g && alarm_limited == up && !memcg_last_failure(&failure));
    CHECK(stat_of(up).events_local[MEMCG_EV_RESERVE] == 1 && stat_of(up).events[MEMCG_EV_OOM] == 3);
    CHECK(stat_of(g).events[MEMCG_EV_RESERVE] == 0); /* the limit is the parent's */
    while ((p[n] = memcg_malloc(2000)))
        n++;
    CHECK(stat_of(up).usage <= 150000 && stat_of(up).events[MEMCG_EV_OVERDRAFT] == 0);
    for (m = 0; m < 100; m++)
        CHECK((p[n++] = memcg_malloc(1024)));
    CHECK(stat_of(up).usage > 150000 && stat_of(up).overdraft == stat_of(up).usage - 150000);
    CHECK(stat_of(up).events[MEMCG_EV_OVERDRAFT] > 0);
    memcg_set_refusal(only_once);
    refusable = g;
    while ((p[n] = memcg_malloc(1000)) && n < 3000)
        n++;
    CHECK(n < 3000 && !refusable && memcg_last_failure(&failure) && failure.limited == up);
    CHECK((p[n++] = memcg_malloc(1000)));
    memcg_set_refusal(NULL);
    while (n)
        memcg_free(p[--n]);
    CHECK((p[0] = memcg_malloc(65536))); /* max is no longer met */
    memcg_free(p[0]);
    memcg_set_current(NULL);
    memcg_set_alarm(NULL);
    CHECK(objects > 0 && kmem_cache_shutdown(s) == -EBUSY);
    while (objects)
        CHECK(kmem_cache_free(s, object[--objects]) == 0);
    CHECK(kmem_cache_shutdown(s) == 0);
    kmem_cache_free_struct(s);
    group_close(g);
    group_close(up);
    check_nothing_is_left();
}

/* max is 1 MiB, reserve and overdraft are 256 KiB each. One request is refused, and then a grant is
 * used. Each grant is half of the one before, until usage was below max. */
static struct mem_cgroup *ended;

static void on_oom_group(struct mem_cgroup *memcg, struct mem_cgroup *limited, unsigned refusals)
{
    CHECK(refusals >= MEMCG_OOM_REFUSALS && memcg != limited);
    ended = limited;
}

static void at_the_ceiling_one_is_refused_and_then_a_grant_is_given(void)
{
    struct mem_cgroup *up = group_new(mem_cgroup_root()), *g = group_new(up);
    int64_t ceiling = (1 << 20) + 2 * (256 << 10), granted, before;
    static void *p[40000];
    int n = 0, refusals;

    mem_cgroup_set_limit(up, MEMCG_MAX, 1 << 20);
    mem_cgroup_set_limit(up, MEMCG_RESERVE, 256 << 10);
    CHECK(mem_cgroup_get_limit(up, MEMCG_OVERDRAFT) == 256 << 10); /* as much as the reserve */
    memcg_set_oom_group_fn(on_oom_group);
    memcg_set_current(g);
    for (int round = 0; round < 2; round++) {
        while ((p[n] = memcg_malloc(1000)))
            n++;
        CHECK(stat_of(up).usage > ceiling - (64 << 10) &&
              stat_of(up).usage <= ceiling + (4 << 10)); /* the last grant may be overdrawn */
        for (refusals = 1, granted = 256 << 10; refusals < 80; refusals++) {
            before = stat_of(up).usage;
            CHECK((p[n++] = memcg_malloc(1000))); /* never two refusals in a row */
            while ((p[n] = memcg_malloc(1000)))
                n++;
            CHECK(stat_of(up).usage - before >= granted - (64 << 10));
            CHECK(stat_of(up).usage - before <= granted + (64 << 10));
            granted = granted > 8 << 10 ? granted / 2 : 4 << 10;
            CHECK(!ended);
        }
        CHECK(stat_of(up).usage <= ceiling + (2 << 20));
        CHECK(stat_of(up).events[MEMCG_EV_FAIL] >= 80);
        while (n)
            memcg_free(p[--n]);
        CHECK((p[0] = memcg_malloc(1000)));
        memcg_free(p[0]);
    }
    mem_cgroup_set_oom_group(g, true); /* between the group that asks and the one that is full */
    for (refusals = 0; refusals < MEMCG_OOM_REFUSALS; refusals++) {
        CHECK(!ended);
        while ((p[n] = memcg_malloc(1000)))
            n++;
    }
    CHECK(ended == up);
    ended = NULL;
    mem_cgroup_set_oom_group(g, false);
    mem_cgroup_set_oom_group(mem_cgroup_root(), true); /* above the limit, so it does not count */
    CHECK((p[n++] = memcg_malloc(1000)));
    while ((p[n] = memcg_malloc(1000)))
        n++;
    CHECK(!ended);
    mem_cgroup_set_oom_group(mem_cgroup_root(), false);
    memcg_set_oom_group_fn(NULL);
    while (n)
        memcg_free(p[--n]);
    memcg_set_current(NULL);
    group_close(g);
    group_close(up);
    check_nothing_is_left();
}

static enum memcg_requester requesting;

static enum memcg_requester asks(void) { return requesting; }

/* Unheard requesters get the reserve, fragile ones all they ask for; both raise the alarm. */
static void the_requester_decides_what_becomes_of_a_refusal(void)
{
    struct mem_cgroup *g = group_new(mem_cgroup_root());
    struct memcg_failure failure;
    void *p[3] = { NULL };

    mem_cgroup_set_limit(g, MEMCG_MAX, 100000);
    mem_cgroup_set_limit(g, MEMCG_RESERVE, 200000);
    memcg_set_current(g);
    alarms = 0;
    memcg_set_alarm(on_alarm);
    memcg_set_requester(asks);
    requesting = MEMCG_REQUESTER_ANY;
    CHECK(!memcg_malloc(150000) && memcg_last_failure(&failure) && alarms == 0);
    requesting = MEMCG_REQUESTER_UNHEARD;
    CHECK((p[0] = memcg_malloc(150000)) && alarms == 1);
    CHECK(!memcg_malloc(200000) && memcg_last_failure(&failure) && alarms == 1);
    requesting = MEMCG_REQUESTER_FRAGILE;
    CHECK((p[1] = memcg_malloc(200000)) && alarms == 2 && !memcg_last_failure(&failure));
    CHECK((p[2] = memcg_malloc(20000)) && alarms == 3); /* not large, but past the reserve */
    CHECK(stat_of(g).events[MEMCG_EV_OVERDRAFT] == 2 && stat_of(g).events[MEMCG_EV_FAIL] == 2);
    CHECK(stat_of(g).usage > 370000);
    for (int i = 0; i < 3; i++)
        memcg_free(p[i]);
    memcg_set_requester(NULL);
    memcg_set_alarm(NULL);
    memcg_set_current(NULL);
    group_close(g);
    check_nothing_is_left();
}

/* At the ceiling unheard requesters are passed over for some bytes, which counts as refusals.  A thread
 * that has slept is passed over again. */
static unsigned passed_over;

static void count_passed_over(struct mem_cgroup *memcg, struct mem_cgroup *limited, size_t bytes,
                              enum memcg_outcome outcome, unsigned refusals)
{
    CHECK(memcg == limited && bytes == 1000);
    CHECK((refusals > 0) == (outcome == MEMCG_PASSED_OVER || outcome == MEMCG_REFUSED_AT_CEILING));
    passed_over += outcome == MEMCG_PASSED_OVER;
}

static void at_the_ceiling_the_unheard_are_passed_over(void)
{
    struct mem_cgroup *g = group_new(mem_cgroup_root());
    int64_t ceiling = 3 * (256 << 10), before;
    static void *p[4000];
    int n = 0;

    mem_cgroup_set_limit(g, MEMCG_MAX, 256 << 10);
    mem_cgroup_set_limit(g, MEMCG_RESERVE, 256 << 10);
    memcg_set_current(g);
    memcg_set_alarm(count_passed_over);
    memcg_set_requester(asks);
    requesting = MEMCG_REQUESTER_UNHEARD;
    while ((p[n] = memcg_malloc(1000)))
        n++;
    before = stat_of(g).usage;
    CHECK(before > ceiling + MEMCG_UNHEARD - (32 << 10) &&
          before <= ceiling + MEMCG_UNHEARD + (32 << 10));
    CHECK(passed_over == 1 && stat_of(g).events[MEMCG_EV_FAIL] == 1);
    while ((p[n] = memcg_malloc(1000))) /* the grant alone */
        n++;
    CHECK(stat_of(g).usage - before <= (MEMCG_GRANT >> passed_over) + (64 << 10));
    memcg_has_slept();
    before = stat_of(g).usage;
    while ((p[n] = memcg_malloc(1000)))
        n++;
    CHECK(stat_of(g).usage - before > MEMCG_UNHEARD / 2);
    memcg_set_requester(NULL);
    memcg_set_alarm(NULL);
    while (n)
        memcg_free(p[--n]);
    memcg_set_current(NULL);
    group_close(g);
    check_nothing_is_left();
}

/* Stock and empty slabs of other threads are given back before an alarm is posted, also many times
 * in a row. */
static atomic_int_t stage;

static void *idle_holder(void *arg)
{
    memcg_set_current(arg);
    for (int round = 0; round < 200; round++) {
        void *p = memcg_malloc(16); /* takes 32 KiB of stock, and nothing more */

        memcg_free(p);
        store_release(&stage, 1);
        while (load_acquire(&stage))
            sched_yield();
    }
    memcg_set_current(NULL);
    return NULL;
}

static void stock_gives_way_before_an_alarm_every_time(void)
{
    struct mem_cgroup *g = group_new(mem_cgroup_root());
    pthread_t t;
    void *p[100];

    mem_cgroup_set_limit(g, MEMCG_MAX, 100000);
    alarms = 0;
    memcg_set_alarm(on_alarm);
    start(&t, idle_holder, g);
    for (int round = 0; round < 200; round++) {
        int n = 0;

        while (!load_acquire(&stage))
            sched_yield();
        memcg_set_current(g);
        while (n < 92) /* 94,208 bytes: all but the other thread's stock */
            CHECK((p[n++] = memcg_malloc(1024)));
        while (n)
            memcg_free(p[--n]);
        memcg_set_current(NULL);
        store_release(&stage, 0);
    }
    pthread_join(t, NULL);
    CHECK(alarms == 0 && stat_of(g).events[MEMCG_EV_RESERVE] == 0);
    memcg_set_alarm(NULL);
    group_close(g);
    check_nothing_is_left();
}

static void current_leaves_stock_out_and_usage_never_says_less(void)
{
    struct mem_cgroup *g = group_new(mem_cgroup_root());
    void *p[3000];
    int64_t real = 0;
    unsigned seed = 7;

    memcg_set_current(g);
    for (int i = 0; i < 3000; i++) {
        size_t size = (size_t)rand_r(&seed) % 3000 + 1;

        p[i] = memcg_malloc(size);
        real += (int64_t)memcg_usable_size(p[i]);
        if (i % 100 == 0)
            CHECK(current_of(g) == real && stat_of(g).usage >= real &&
                  stat_of(g).usage <= real + MEMCG_BATCH);
    }
    memcg_set_current(NULL); /* leaving the group drains the stock */
    CHECK(stat_of(g).usage == real);
    for (int i = 0; i < 3000; i++) {
        real -= (int64_t)memcg_usable_size(p[i]);
        memcg_free(p[i]);
        CHECK(i % 100 || stat_of(g).usage == real);
    }
    group_close(g);
    check_nothing_is_left();
}

static void lowering_max_reclaims_what_it_can(void)
{
    struct mem_cgroup *g = group_new(mem_cgroup_root());
    void *p[1000];
    int64_t left;

    child_create(g, kmalloc_cache(kmalloc_index(1000)));
    memcg_set_current(g);
    for (int i = 0; i < 1000; i++)
        p[i] = memcg_malloc(1000);
    for (int i = 1; i < 1000; i++)
        memcg_free(p[i]);
    left = (int64_t)(virt_to_slab(p[0])->nr_pages * PAGE_SIZE);
    CHECK(stat_of(g).usage > left); /* the heap keeps empty slabs */
    mem_cgroup_set_limit(g, MEMCG_MAX, 1);
    CHECK(stat_of(g).usage == left);
    CHECK(!memcg_malloc(65536));
    memcg_free(p[0]);
    memcg_set_current(NULL);
    group_close(g);
    check_nothing_is_left();
}

int main(void)
{
    CHECK(memcg_init(NULL) == 0);
    memcg_set_promote_bytes(SIZE_MAX);
    RUN(threads_never_pass_a_limit_at_any_level);
    RUN(at_the_ceiling_one_is_refused_and_then_a_grant_is_given);
    RUN(stock_gives_way_before_an_alarm_every_time);
    RUN(current_leaves_stock_out_and_usage_never_says_less);
    RUN(lowering_max_reclaims_what_it_can);
    RUN(large_requests_are_refused_and_small_ones_are_forced);
    RUN(the_requester_decides_what_becomes_of_a_refusal);
    RUN(at_the_ceiling_the_unheard_are_passed_over);
    return DONE();
}
