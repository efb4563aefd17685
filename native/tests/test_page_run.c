/* SPDX-License-Identifier: Apache-2.0 */
/* test_page_run.c - the free runs that a heap keeps, and when it gives them back. */
#include "control.h"

#define BYTES ((size_t)100000)
#define RUN_BYTES ((int64_t)ALIGN_UP(BYTES, PAGE_SIZE))

static struct mem_cgroup *g;

static int64_t kept_of(struct mem_cgroup *memcg)
{
    return usage_of_group(memcg) - current_of(memcg);
}

static void begin(void)
{
    g = group_new(mem_cgroup_root());
    memcg_set_current(g);
}

static void end(void)
{
    memcg_set_current(NULL);
    group_close(g);
    check_nothing_is_left();
}

static void a_block_of_the_same_size_gets_the_kept_run(void)
{
    struct mem_cgroup_stat stat;
    char *p, *q;

    begin();
    p = memcg_malloc(BYTES);
    memset(p, 1, BYTES);
    memcg_free(p);
    CHECK(current_of(g) == 0 && kept_of(g) == RUN_BYTES);
    CHECK(memcg_malloc(BYTES) == p);
    CHECK(current_of(g) == RUN_BYTES && kept_of(g) == 0);
    memcg_free(p);
    q = memcg_calloc(BYTES);
    CHECK(q == p);
    for (size_t i = 0; i < BYTES; i++)
        CHECK(!q[i]);
    memcg_free(q);
    q = memcg_malloc(2 * BYTES); /* none of this size is kept */
    CHECK(q != p && kept_of(g) == RUN_BYTES);
    mem_cgroup_read_stat(g, &stat);
    CHECK(stat.watermark == (int64_t)ALIGN_UP(2 * BYTES, PAGE_SIZE)); /* what is kept is no peak */
    CHECK(memcg_malloc(BYTES) == p);
    mem_cgroup_read_stat(g, &stat);
    CHECK(stat.watermark == RUN_BYTES + (int64_t)ALIGN_UP(2 * BYTES, PAGE_SIZE));
    memcg_free(q);
    memcg_free(p);
    end();
}

static void what_is_kept_is_bounded(void)
{
    void *p[40];

    begin();
    for (int i = 0; i < 40; i++)
        p[i] = memcg_malloc(40000 + (size_t)i * 4096);
    for (int i = 0; i < 40; i++) {
        memcg_free(p[i]);
        CHECK(kept_of(g) <= 1 << 20);
    }
    CHECK(memcg_malloc(40000 + 39 * 4096) == p[39]); /* the latest ones */
    memcg_free(p[39]);
    memcg_free(memcg_malloc(2 << 20));
    CHECK(kept_of(g) <= 1 << 20);
    CHECK(!memcg_find_invalid());
    end();
}

static void it_is_given_back_where_stock_is(void)
{
    struct mem_cgroup *other = group_new(mem_cgroup_root());

    begin();
    memcg_free(memcg_malloc(BYTES));
    memcg_set_current(other); /* the thread leaves the group */
    CHECK(kept_of(g) == 0);
    memcg_set_current(g);
    memcg_free(memcg_malloc(BYTES));
    CHECK(kept_of(g) == RUN_BYTES);
    CHECK(mem_cgroup_reclaim(g) == (size_t)RUN_BYTES && kept_of(g) == 0);
    memcg_free(memcg_malloc(BYTES));
    memcg_trim();
    CHECK(kept_of(g) == 0);
    memcg_free(memcg_malloc(BYTES));
    mem_cgroup_set_limit(g, MEMCG_MAX, RUN_BYTES / 2); /* usage is above it */
    CHECK(kept_of(g) == 0);
    mem_cgroup_set_limit(g, MEMCG_MAX, PAGE_COUNTER_MAX);
    group_close(other);
    memcg_free(memcg_malloc(BYTES));
    end(); /* with a run kept */
}

static void near_a_limit_nothing_is_kept(void)
{
    struct mem_cgroup_stat stat;
    void *p;

    begin();
    mem_cgroup_set_limit(g, MEMCG_MAX, 8 * RUN_BYTES);
    p = memcg_malloc(BYTES);
    memcg_free(p);
    CHECK(kept_of(g) == 0);
    mem_cgroup_set_limit(g, MEMCG_MAX, 9 * RUN_BYTES);
    p = memcg_malloc(BYTES);
    memcg_free(p);
    CHECK(kept_of(g) == RUN_BYTES);
    p = memcg_malloc((size_t)RUN_BYTES * 9); /* has room once the run is given back */
    CHECK(p && kept_of(g) == 0);
    mem_cgroup_read_stat(g, &stat);
    CHECK(stat.events[MEMCG_EV_OOM] == 0);
    memcg_free(p);
    mem_cgroup_set_limit(g, MEMCG_HIGH, 8 * RUN_BYTES);
    memcg_free(memcg_malloc(BYTES));
    CHECK(kept_of(g) == 0);
    end();
}

static void a_run_of_another_group_is_not_kept(void)
{
    struct mem_cgroup *other = group_new(mem_cgroup_root());
    void *p, *q;

    begin();
    p = memcg_malloc(BYTES);
    memcg_set_current(other);
    q = memcg_malloc(BYTES);
    memcg_free(p);
    CHECK(kept_of(g) == 0 && kept_of(other) == 0);
    memcg_set_current(g);
    group_close(other); /* its run is the root's now */
    memcg_set_current(NULL);
    memcg_free(q);
    CHECK(kept_of(mem_cgroup_root()) == 0);
    end();
}

static void *leave_one(void *unused)
{
    (void)unused;
    memcg_set_current(g);
    memcg_free(memcg_malloc(BYTES));
    return NULL;
}

static void a_thread_that_ends_leaves_none(void)
{
    pthread_t thread;

    begin();
    CHECK(!pthread_create(&thread, NULL, leave_one, NULL));
    CHECK(!pthread_join(thread, NULL));
    CHECK(kept_of(g) == 0);
    end();
}

int main(void)
{
    CHECK(memcg_init(&(struct memcg_config){ .arena_bytes = (size_t)256 << 20 }) == 0);
    memcg_set_promote_bytes(SIZE_MAX);
    RUN(a_block_of_the_same_size_gets_the_kept_run);
    RUN(what_is_kept_is_bounded);
    RUN(it_is_given_back_where_stock_is);
    RUN(near_a_limit_nothing_is_kept);
    RUN(a_run_of_another_group_is_not_kept);
    RUN(a_thread_that_ends_leaves_none);
    return DONE();
}
