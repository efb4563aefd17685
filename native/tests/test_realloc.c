/* SPDX-License-Identifier: Apache-2.0 */
/* test_realloc.c - blocks that change their size, sizes beyond all bounds, a full arena. */
#include <malloc.h>

#include "control.h"

static void fill(unsigned char *p, size_t size)
{
    for (size_t i = 0; i < size; i += 61)
        p[i] = (unsigned char)(i * 7);
}

static void check_filled(const unsigned char *p, size_t size)
{
    for (size_t i = 0; i < size; i += 61)
        CHECK(p[i] == (unsigned char)(i * 7));
}

static void contents_survive_every_change_of_size(void)
{
    unsigned seed = 3;
    size_t size = 1;
    unsigned char *p = memcg_malloc(size);

    fill(p, size);
    for (int i = 0; i < 3000; i++) {
        size_t new_size = (size_t)rand_r(&seed) % (i % 10 ? 3000 : 400000) + 1;

        p = memcg_realloc(p, new_size);
        CHECK(p && memcg_usable_size(p) >= new_size);
        check_filled(p, size < new_size ? size : new_size);
        fill(p, new_size);
        size = new_size;
    }
    memcg_free(p);
    check_nothing_is_left();
}

static void a_run_grows_and_shrinks_in_place(void)
{
    unsigned char *p = memcg_malloc(1 << 20);
    int64_t before = current_of(mem_cgroup_root());

    fill(p, 1 << 20);
    CHECK(memcg_realloc(p, 8 << 20) == p); /* nothing lies behind it */
    CHECK(current_of(mem_cgroup_root()) == before + (7 << 20));
    check_filled(p, 1 << 20);
    CHECK(memcg_realloc(p, 2 << 20) == p);
    CHECK(current_of(mem_cgroup_root()) == before + (1 << 20));
    CHECK(memcg_realloc(p, (2 << 20) - 5000) == p); /* less than an eighth is not given back */
    CHECK(current_of(mem_cgroup_root()) == before + (1 << 20));
    memcg_free(p);
    check_nothing_is_left();
}

static void a_run_of_another_group_moves_when_it_grows(void)
{
    struct mem_cgroup *a = group_new(mem_cgroup_root()), *b = group_new(mem_cgroup_root());
    unsigned char *p;

    memcg_set_current(a);
    p = memcg_malloc(100000);
    fill(p, 100000);
    memcg_set_current(b);
    p = memcg_realloc(p, 300000);
    check_filled(p, 100000);
    CHECK(current_of(a) == 0 && current_of(b) >= 300000);
    memcg_set_current(a);
    CHECK(memcg_realloc(p, 50000) == p && current_of(a) == 0 && current_of(b) < 60000);
    memcg_set_current(NULL);
    memcg_free(p);
    group_close(a);
    group_close(b);
    check_nothing_is_left();
}

static void growing_past_max_is_refused_and_shrinking_never(void)
{
    struct mem_cgroup *g = group_new(mem_cgroup_root());
    struct memcg_failure failure;
    unsigned char *p, *q;

    mem_cgroup_set_limit(g, MEMCG_MAX, 1 << 20);
    memcg_set_current(g);
    p = memcg_malloc(700000);
    fill(p, 700000);
    CHECK(!memcg_realloc(p, 1200000) && memcg_last_failure(&failure));
    CHECK(failure.memcg == g && failure.limited == g && failure.bytes == 1200000);
    check_filled(p, 700000);
    mem_cgroup_set_limit(g, MEMCG_MAX, 10);
    mem_cgroup_set_limit(g, MEMCG_RESERVE, 0);
    CHECK(memcg_realloc(p, 300000) == p && memcg_realloc(p, 40000) == p);
    q = memcg_realloc(p, 5000); /* no smaller block can be had, so it stays */
    CHECK(q == p);
    check_filled(q, 5000);
    memcg_free(q);
    memcg_set_current(NULL);
    group_close(g);
    check_nothing_is_left();
}

static void sizes_past_all_bounds_are_refused_and_charge_nothing(void)
{
    static const size_t sizes[] = { SIZE_MAX,        SIZE_MAX - PAGE_SIZE,
                                    PTRDIFF_MAX,     PTRDIFF_MAX - PAGE_SIZE,
                                    (size_t)1 << 62, (size_t)1 << 56,
                                    (size_t)1 << 46 };
    void *p = memcg_malloc(100), *run = memcg_malloc(100000);
    int64_t before = usage_of_group(mem_cgroup_root());

    for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
        CHECK(!memcg_malloc(sizes[i]) && !memcg_malloc_fast(sizes[i]) && !memcg_calloc(sizes[i]));
        CHECK(!memcg_realloc(p, sizes[i]) && !memcg_realloc(run, sizes[i]));
        CHECK(mem_cgroup_try_charge(mem_cgroup_root(), sizes[i]) ==
              (sizes[i] > (size_t)1 << 56 ? -ENOMEM : 0));
        if (sizes[i] <= (size_t)1 << 56)
            mem_cgroup_uncharge(mem_cgroup_root(), sizes[i]);
    }
    mem_cgroup_charge(mem_cgroup_root(), SIZE_MAX);
    mem_cgroup_uncharge(mem_cgroup_root(), SIZE_MAX);
    mem_cgroup_reset_watermark(mem_cgroup_root());
    CHECK(usage_of_group(mem_cgroup_root()) <= before);
    memcg_free(p);
    memcg_free(run);
    check_nothing_is_left();
}

static atomic_int_t over;

static void *small_churn(void *arg)
{
    void *p[500];

    while (!load_relaxed(&over)) {
        for (int i = 0; i < 500; i++)
            p[i] = memcg_malloc(4096);
        for (int i = 0; i < 500; i++)
            memcg_free(p[i]);
    }
    return arg;
}

/* If an addition wrapped, another thread's uncharge would see a negative usage. */
static void a_huge_request_does_not_disturb_the_accounts_of_others(void)
{
    pthread_t t;

    start(&t, small_churn, NULL);
    for (int i = 0; i < 20000; i++)
        CHECK(!memcg_malloc((size_t)PTRDIFF_MAX - 2 * PAGE_SIZE));
    store_relaxed(&over, 1);
    pthread_join(t, NULL);
    CHECK(page_counter_underflows() == 0);
    check_nothing_is_left();
}

static void a_full_arena_refuses_and_recovers(void)
{
    static void *runs[4096], *small[200000];
    size_t n = 0, m = 0;

    for (int round = 0; round < 3; round++) {
        while ((runs[n] = memcg_malloc(1 << 20)))
            n++;
        while (m < 200000 && (small[m] = memcg_malloc(500)))
            m++;
        CHECK(n > 50 && m < 200000 && !memcg_malloc(40000) && !memcg_calloc(500));
        CHECK(!memcg_last_failure(&(struct memcg_failure){ 0 })); /* no limit was met */
        while (m)
            memcg_free(small[--m]);
        while (n)
            memcg_free(runs[--n]);
    }
    check_nothing_is_left();
}

/* Empty slabs, of all classes and shared ones too, are given back when others need memory. */
static void empty_slabs_give_way_when_the_arena_is_full(void)
{
    struct mem_cgroup *g = group_new(mem_cgroup_root());
    size_t n = 0, m = 0;
    static void *runs[200], *small[2000];

    for (int k = 0; k < 2; k++) {
        for (size_t size = 16; size <= KMALLOC_MAX_CACHE_SIZE; size += size / 4)
            memcg_free(memcg_malloc(size));
        memcg_set_current(g);
    }
    memcg_set_current(NULL);
    while (n < 200 && (runs[n] = memcg_malloc(1 << 20)))
        n++;
    CHECK(n < 200);
    CHECK(pages_in_use() == n << 8);
    while (m < 2000 && (small[m] = memcg_malloc(500)))
        m++;
    while (m)
        memcg_free(small[--m]);
    CHECK(kmem_cache_nr_pages(kmalloc_cache(kmalloc_index(500))) > 0);
    while (m < 2000 && (small[m] = memcg_malloc(1000)))
        m++;
    CHECK(m < 2000 && kmem_cache_nr_pages(kmalloc_cache(kmalloc_index(500))) == 0);
    while (m)
        memcg_free(small[--m]);
    while (n)
        memcg_free(runs[--n]);
    group_close(g);
    check_nothing_is_left();
}

/* The block grows by an eighth, as lists do, among holes of all sizes. */
static void a_block_that_grows_among_holes_moves_seldom(void)
{
    enum { HOLES = 20 };
    char *hole[HOLES], *fence[HOLES], *large = memcg_malloc(16 << 20), *end = memcg_malloc(40000),
                                      *p;
    int moves = 0;

    for (int i = 0; i < HOLES; i++) {
        hole[i] = memcg_malloc((size_t)(i + 1) * 10 * PAGE_SIZE);
        fence[i] = memcg_malloc(40000);
    }
    memcg_free(large);
    for (int i = 0; i < HOLES; i++)
        memcg_free(hole[i]);
    p = memcg_malloc(30000);
    for (size_t size = 30000; size < 4 << 20; size += size / 8) {
        char *q = memcg_realloc(p, size);

        CHECK(q);
        if (size > KMALLOC_MAX_CACHE_SIZE)
            moves += q != p;
        memset(q, 1, size);
        p = q;
    }
    CHECK(moves <= 4); /* each move makes room for four times the size */
    memcg_free(p);
    for (int i = 0; i < HOLES; i++)
        memcg_free(fence[i]);
    memcg_free(end);
    check_nothing_is_left();
}

/* A sanitizer's malloc, musl's and an old glibc's do not show what they have learnt. */
#if defined(__GLIBC__) && !defined(__SANITIZE_THREAD__) && !defined(__SANITIZE_ADDRESS__)
#define LIBC_TELLS __GLIBC_PREREQ(2, 33)
#endif
#if LIBC_TELLS
static bool libc_maps(size_t bytes)
{
    size_t before = mallinfo2().hblkhd;
    void *volatile block = malloc(bytes);
    bool maps = mallinfo2().hblkhd > before;

    free(block);
    return maps;
}

/* Asks with growing sizes, because each question also teaches libc. */
static void libc_learns_from_large_blocks_that_are_freed_here(void)
{
    CHECK(libc_maps(1 << 20));
    memcg_free(memcg_malloc(8 << 20));
    CHECK(!libc_maps(7 << 20));
    CHECK(libc_maps(9 << 20));
}
#endif

int main(void)
{
    CHECK(memcg_init(&(struct memcg_config){ .arena_bytes = (size_t)64 << 20 }) == 0);
    memcg_set_promote_bytes(SIZE_MAX);
#if LIBC_TELLS
    RUN(libc_learns_from_large_blocks_that_are_freed_here);
#endif
    RUN(contents_survive_every_change_of_size);
    RUN(a_run_grows_and_shrinks_in_place);
    RUN(a_run_of_another_group_moves_when_it_grows);
    RUN(growing_past_max_is_refused_and_shrinking_never);
    RUN(sizes_past_all_bounds_are_refused_and_charge_nothing);
    RUN(a_huge_request_does_not_disturb_the_accounts_of_others);
    RUN(a_block_that_grows_among_holes_moves_seldom);
    RUN(a_full_arena_refuses_and_recovers);
    RUN(empty_slabs_give_way_when_the_arena_is_full);
    return DONE();
}
