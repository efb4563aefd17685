/* SPDX-License-Identifier: Apache-2.0 */
/* test_heap.c - blocks, their alignment, and threads that free what other threads allocated. */
#include "control.h"

enum { THREADS = 4 };

static void before_init_nothing_is_ours_and_malloc_fails(void)
{
    int x = 0;

    CHECK(!memcg_owns(&x) && !memcg_malloc(64) && !memcg_malloc_fast(64) && !memcg_calloc(100000));
    memcg_free(NULL);
    memcg_free_fast(NULL);
}

static void every_size_has_its_alignment_and_its_class(void)
{
    for (size_t size = 0; size <= 70000; size += size < 2000 ? 1 : 61) {
        char *p[8];

        for (int i = 0; i < 8; i++) {
            p[i] = i & 1 ? memcg_malloc_fast(size) : memcg_malloc(size);
            size_t usable = memcg_usable_size(p[i]);

            CHECK(p[i] && usable >= size);
            CHECK((uintptr_t)p[i] % 16 == 0);
            CHECK(usable <= 512 || usable % 64 || (uintptr_t)p[i] % 64 == 0);
            CHECK(usable % PAGE_SIZE || (uintptr_t)p[i] % PAGE_SIZE == 0);
            CHECK(size <= 256 || usable <= size + size / 4 + 16 || size > KMALLOC_MAX_CACHE_SIZE);
            memset(p[i], i, usable);
        }
        for (int i = 0; i < 8; i++) {
            CHECK(p[i][0] == i && p[i][memcg_usable_size(p[i]) - 1] == i);
            memcg_free_fast(p[i]);
        }
    }
    check_nothing_is_left();
}

static void calloc_reads_as_zero_whatever_was_there(void)
{
    for (size_t size = 1; size < 300000; size += size / 3 + 1) {
        unsigned char *p = memcg_malloc(size);

        memset(p, 0xaa, size);
        memcg_free(p);
        p = memcg_calloc(size);
        for (size_t i = 0; i < size; i++)
            CHECK(p[i] == 0);
        memcg_free(p);
    }
}

static size_t resident(void)
{
    size_t pages = 0, rss = 0;
    FILE *f = fopen("/proc/self/statm", "r");

    CHECK(f && fscanf(f, "%zu %zu", &pages, &rss) == 2);
    fclose(f);
    return rss << PAGE_SHIFT;
}

static void calloc_of_a_fresh_run_does_not_touch_it(void)
{
    enum { SIZE = 256 << 20 };
    size_t before = resident();
    char *p = memcg_calloc(SIZE);

    CHECK(p && resident() < before + (64 << 20));
    CHECK(p[0] == 0 && p[SIZE - 1] == 0);
    memcg_free(p);
}

static void idle_pages_go_back_to_the_system(void)
{
    enum { SIZE = 256 << 20 };
    char *p = memcg_malloc(SIZE);
    size_t before;

    memset(p, 1, SIZE);
    before = resident();
    memcg_free(p);
    memcg_trim();
    CHECK(resident() + SIZE / 2 < before);
}

static void heads_of_small_objects_end_a_line_where_a_slab_has_room(void)
{
    enum { N = 4096 }; /* of 64 bytes: sixteen single pages, then larger slabs */
    static char *p[N];
    int at_start = 0, at_end = 0;

    for (int i = 0; i < N; i++) {
        p[i] = memset(memcg_malloc(64), i, 64);
        at_start += (uintptr_t)p[i] % 64 == 0;
        at_end += (uintptr_t)p[i] % 64 == 48;
    }
    for (int i = 0; i < N; i++) {
        CHECK(p[i][0] == (char)i && p[i][63] == (char)i);
        memcg_free(p[i]);
    }
    CHECK(at_start + at_end == N && at_end > N / 2);
    check_nothing_is_left();
}

/* The heap keeps two empty slabs of a class at most: the active one and one more. */
static void a_batch_that_is_gone_leaves_two_slabs(void)
{
    enum { N = 5000 };
    static void *p[N];
    struct kmem_cache_info info;

    for (int i = 0; i < N; i++)
        p[i] = memcg_malloc_fast(64);
    for (int i = 0; i < N; i++)
        memcg_free_fast(p[(i * 7) % N]);
    kmem_cache_read_info(kmalloc_cache(kmalloc_index(64)), &info);
    CHECK(info.active_objs == 0 && info.num_slabs <= 2);
    CHECK(kmem_cache_shrink(kmalloc_cache(kmalloc_index(64))) == info.nr_pages);
    check_nothing_is_left();
}

enum { SLOTS = 4096 };
static ATOMIC(void *) slots[SLOTS];
static struct mem_cgroup *groups[THREADS];

/* Puts a block of its own in a random slot and frees the block that was there. */
static void *swapper(void *arg)
{
    unsigned seed = (unsigned)(uintptr_t)arg + 1;

    memcg_set_current(groups[(uintptr_t)arg]);
    for (int i = 0; i < 40000; i++) {
        size_t size = (size_t)rand_r(&seed) % 300 + 8;
        size_t *p = memcg_malloc_fast(size);

        *p = size;
        p = exchange_acq_rel(&slots[rand_r(&seed) % SLOTS], p);
        if (p) {
            CHECK(*p >= 8 && *p <= memcg_usable_size(p));
            *p = 0;
            memcg_free_fast(p);
        }
    }
    memcg_set_current(NULL);
    return NULL;
}

static void swap_and_check(void)
{
    pthread_t t[THREADS];

    for (uintptr_t i = 0; i < THREADS; i++)
        start(&t[i], swapper, (void *)i);
    for (int i = 0; i < THREADS; i++)
        pthread_join(t[i], NULL);
    for (int i = 0; i < SLOTS; i++) {
        memcg_free(load_plain(&slots[i]));
        store_plain(&slots[i], NULL);
    }
}

static void frees_by_others_credit_the_root(void)
{
    swap_and_check();
    check_nothing_is_left();
}

static void frees_by_others_credit_the_owner(void)
{
    memcg_set_promote_bytes(4096);
    for (int i = 0; i < THREADS; i++)
        groups[i] = group_new(mem_cgroup_root());
    for (int round = 0; round < 3; round++) { /* shared slabs, mixed, children */
        swap_and_check();
        work();
    }
    for (int i = 0; i < THREADS; i++) {
        mem_cgroup_reclaim(groups[i]);
        CHECK(usage_of_group(groups[i]) == 0 && current_of(groups[i]) == 0);
        group_close(groups[i]);
        groups[i] = NULL;
    }
    check_nothing_is_left();
    memcg_set_promote_bytes(SIZE_MAX);
}

static void *left_behind[1000];

static void *leaver(void *arg)
{
    for (int i = 0; i < 1000; i++)
        left_behind[i] = memcg_malloc_fast((size_t)i + 1);
    return arg;
}

static void *finder(void *arg)
{
    for (int i = 0; i < 1000; i++)
        memcg_free_fast(left_behind[i]);
    for (int i = 0; i < 1000; i++) /* continues with the slabs that had no owner */
        memcg_free_fast(memcg_malloc_fast((size_t)i + 1));
    return arg;
}

static void a_thread_that_ends_leaves_its_slabs_to_others(void)
{
    struct memcg_global_stat before, after;
    pthread_t t;

    memcg_read_global_stat(&before);
    for (int i = 0; i < 20; i++) {
        start(&t, leaver, NULL);
        pthread_join(t, NULL);
        start(&t, finder, NULL);
        pthread_join(t, NULL);
    }
    memcg_read_global_stat(&after);
    CHECK(after.nr_threads == before.nr_threads && after.metadata <= before.metadata + 65536);
    check_nothing_is_left();
}

static pthread_key_t late_keys[3];

/* Runs in every round of destructors; ours has run in the first. */
static void late(void *arg)
{
    uintptr_t round = (uintptr_t)arg & 7;
    void **p = (void **)((uintptr_t)arg & ~(uintptr_t)7), **q = memcg_malloc_fast(200);

    q[0] = memcg_malloc_fast(100000);
    memcg_free_fast(p[0]);
    memcg_free_fast(p);
    if (round < 2) { /* ThreadSanitizer's own destructor runs in the fourth */
        pthread_setspecific(late_keys[0], (char *)q + round + 1);
    } else {
        memcg_free(q[0]);
        memcg_free(q);
    }
}

static void *late_thread(void *arg)
{
    void **p = memcg_malloc_fast(200);

    p[0] = memcg_malloc_fast(50);
    pthread_setspecific(late_keys[0], p);
    return arg;
}

static void destructors_of_others_may_allocate_and_free_after_ours(void)
{
    pthread_t t[THREADS];

    CHECK(!pthread_key_create(&late_keys[0], late));
    for (int round = 0; round < 20; round++) {
        for (int i = 0; i < THREADS; i++)
            start(&t[i], late_thread, NULL);
        for (int i = 0; i < THREADS; i++)
            pthread_join(t[i], NULL);
    }
    check_nothing_is_left();
}

static void stopped_account_charges_the_root_past_its_max(void)
{
    struct mem_cgroup *g = group_new(mem_cgroup_root());
    void *p, *q;

    memcg_set_current(g);
    mem_cgroup_set_limit(mem_cgroup_root(), MEMCG_MAX, 1000);
    CHECK(!memcg_malloc(100000));
    memcg_stop_kmem_account();
    memcg_stop_kmem_account();
    p = memcg_malloc(100000);
    memcg_resume_kmem_account();
    q = memcg_malloc_fast(64);
    CHECK(p && q && current_of(g) == 0 && memcg_get_current() == g);
    memcg_resume_kmem_account();
    CHECK(!memcg_malloc(100000));
    mem_cgroup_set_limit(mem_cgroup_root(), MEMCG_MAX, PAGE_COUNTER_MAX);
    memcg_free(p);
    p = memcg_malloc(100000);
    CHECK(current_of(g) >= 100000);
    memcg_free(p);
    memcg_free(q);
    memcg_set_current(NULL);
    group_close(g);
    check_nothing_is_left();
}

int main(void)
{
    RUN(before_init_nothing_is_ours_and_malloc_fails);
    CHECK(memcg_init(NULL) == 0 && memcg_init(NULL) == 0);
    memcg_set_promote_bytes(SIZE_MAX);
    RUN(every_size_has_its_alignment_and_its_class);
    RUN(calloc_reads_as_zero_whatever_was_there);
    RUN(calloc_of_a_fresh_run_does_not_touch_it);
    RUN(idle_pages_go_back_to_the_system);
    RUN(heads_of_small_objects_end_a_line_where_a_slab_has_room);
    RUN(a_batch_that_is_gone_leaves_two_slabs);
    RUN(frees_by_others_credit_the_root);
    RUN(frees_by_others_credit_the_owner);
    RUN(a_thread_that_ends_leaves_its_slabs_to_others);
    RUN(destructors_of_others_may_allocate_and_free_after_ours);
    RUN(stopped_account_charges_the_root_past_its_max);
    return DONE();
}
