/* SPDX-License-Identifier: Apache-2.0 */
/* test_shared.c - shared slabs: owners, clearing, stubs after offline, the request for a child. */
#include "control.h"

static struct kmem_cache *root64(void) { return kmalloc_cache(kmalloc_index(64)); }

static struct kmem_cache_info info_of(struct kmem_cache *s)
{
    struct kmem_cache_info info;

    kmem_cache_read_info(s, &info);
    return info;
}

/* Twice the owners that one slab's table can hold; each group gets one object in each round. */
static void more_groups_than_a_slab_has_owner_entries(void)
{
    enum { N = 600, ROUNDS = 12 };
    static struct mem_cgroup *g[N];
    static char *p[N][ROUNDS];
    uint64_t objects;

    for (int i = 0; i < N; i++)
        g[i] = group_new(mem_cgroup_root());
    for (int k = 0; k < ROUNDS; k++)
        for (int i = 0; i < N; i++) {
            memcg_set_current(g[i]);
            p[i][k] = memcg_malloc_fast(64);
            memset(p[i][k], i, 64);
        }
    memcg_set_current(NULL);
    objects = info_of(root64()).num_objs;
    CHECK(objects >= N * ROUNDS && objects <= 2 * N * ROUNDS + 256);
    for (int i = 0; i < N; i++) {
        CHECK(current_of(g[i]) == 64 * ROUNDS && usage_of_group(g[i]) == 64 * ROUNDS);
        for (int k = 0; k < ROUNDS; k++) {
            CHECK(p[i][k][0] == (char)i && p[i][k][63] == (char)i);
            memcg_free_fast(p[i][k]);
            CHECK(usage_of_group(g[i]) == 64 * (ROUNDS - 1 - k));
        }
        group_close(g[i]);
    }
    check_nothing_is_left();
}

/* A group gets objects from the slab that has its entry, even if others were used since. */
static void a_group_finds_the_slab_that_has_its_entry(void)
{
    enum { OWNERS = MEMCG_MAX_OWNERS, N = 3 * OWNERS }; /* 128 objects in a slab */
    struct kmem_cache *root = kmalloc_cache(kmalloc_index(32));
    static struct mem_cgroup *g[N];
    void *p[N], *q;

    for (int i = 0; i < N; i++) {
        g[i] = group_new(mem_cgroup_root());
        memcg_set_current(g[i]);
        p[i] = memcg_malloc(32);
    }
    CHECK(info_of(root).num_slabs == 3);
    memcg_set_current(g[0]);
    q = memcg_malloc(32);
    memcg_set_current(NULL);
    CHECK(virt_to_slab(q) == virt_to_slab(p[0]) && info_of(root).num_slabs == 3);
    memcg_free(q);
    for (int i = 0; i < N; i++) {
        memcg_free(p[i]);
        group_close(g[i]);
    }
    check_nothing_is_left();
}

static void whole_pages_stand_alone_until_there_is_a_cache(void)
{
    struct kmem_cache *root = kmalloc_cache(kmalloc_index(8192));
    struct mem_cgroup *g = group_new(mem_cgroup_root());
    struct mem_cgroup_stat stat;
    size_t before = load_relaxed(&promote_bytes);
    void *p[100], *object;
    int n = 0;

    memcg_set_promote_bytes(256 << 10);
    memcg_set_current(g);
    p[0] = memcg_malloc(8000);
    mem_cgroup_read_stat(g, &stat);
    CHECK(stat.page_runs == 8192 && stat.slab_shared == 0 && memcg_usable_size(p[0]) == 8192);
    object = kmem_cache_alloc(root); /* kmem_cache_alloc() always gives an object of a slab */
    CHECK(object && !kmem_cache_free(root, object) && kmem_cache_free(root, p[0]) == -EINVAL);
    while (!work()) /* the group asks for a cache by what is live, then has one */
        p[++n] = memcg_malloc(8000);
    CHECK((size_t)n == load_relaxed(&promote_bytes) / 8192 &&
          cache_from_memcg_idx(root, mem_cgroup_id(g)));
    p[++n] = memcg_malloc(8000);
    CHECK(virt_to_slab(p[n])->cache && !virt_to_slab(p[0])->cache);
    memcg_set_current(NULL);
    for (; n >= 0; n--)
        memcg_free(p[n]);
    memcg_set_promote_bytes(before);
    group_close(g);
    check_nothing_is_left();
}

static void objects_of_a_closed_group_are_its_parents(void)
{
    struct mem_cgroup *top = group_new(mem_cgroup_root()), *mid = group_new(top),
                      *g = group_new(mid);
    struct mem_cgroup_stat stat;
    void *p[100], *run;

    memcg_set_current(g);
    for (int i = 0; i < 100; i++)
        p[i] = memcg_malloc(64);
    run = memcg_malloc(100000);
    mem_cgroup_charge(g, 5000);
    memcg_set_current(NULL);
    group_close(g);
    CHECK(current_of(mid) == 6400 + 102400 + 5000 && usage_of_group(mid) == current_of(mid));
    mem_cgroup_read_stat(mid, &stat);
    /* the cost of g, which is not freed yet */
    CHECK(stat.slab_shared == 6400 && stat.page_runs == 102400 &&
          stat.external == 5000 + (int64_t)MEMCG_GROUP_BYTES);
    for (int i = 0; i < 50; i++)
        memcg_free(p[i]);
    CHECK(current_of(mid) == 3200 + 102400 + 5000);
    group_close(mid);
    CHECK(current_of(top) == 3200 + 102400 + 5000);
    mem_cgroup_uncharge(top, 5000);
    CHECK(work() == 2); /* g and mid are released, because their objects hold the stub and not the
                         * group */
    for (int i = 50; i < 100; i++)
        memcg_free(p[i]);
    memcg_free(run);
    CHECK(current_of(top) == 0 && usage_of_group(top) == 0);
    group_close(top);
    check_nothing_is_left();
}

static void a_group_reads_no_bytes_of_another(void)
{
    struct mem_cgroup *a = group_new(mem_cgroup_root()), *b = group_new(mem_cgroup_root());

    for (size_t size = 16; size < 3000000; size = size * 2) {
        for (int k = 0; k < 3; k++) { /* shared, then from a child of a, then a page run */
            char *p[20], *q;

            memcg_set_current(a);
            for (int i = 0; i < 20; i++) {
                p[i] = memcg_malloc_fast(size);
                memset(p[i], 'x', size);
            }
            for (int i = 0; i < 20; i++)
                memcg_free_fast(p[i]);
            mem_cgroup_reclaim(mem_cgroup_root());
            memcg_set_current(b);
            for (int i = 0; i < 20; i++) {
                q = p[i] = memcg_malloc_fast(size);
                for (size_t n = sizeof(void *); n < size; n += n < 100 ? 1 : 97)
                    CHECK(q[n] != 'x');
            }
            for (int i = 0; i < 20; i++)
                memcg_free_fast(p[i]);
            memcg_set_current(NULL);
            if (size <= KMALLOC_MAX_CACHE_SIZE)
                child_create(k ? b : a, kmalloc_cache(kmalloc_index(size)));
        }
    }
    group_close(a);
    group_close(b);
    check_nothing_is_left();
}

static void threshold_zero_asks_on_the_first_allocation(void)
{
    struct mem_cgroup *g = group_new(mem_cgroup_root());
    void *p, *q;

    memcg_set_promote_bytes(0);
    memcg_set_current(g);
    p = memcg_malloc(64);
    CHECK(kmem_cache_of(p, NULL) == root64());
    events_seen[MEMCG_EVENT_CREATE] = 0;
    CHECK(work() == 1 && events_seen[MEMCG_EVENT_CREATE] == 1);
    q = memcg_malloc(64);
    CHECK(kmem_cache_of(q, NULL) == cache_from_memcg_idx(root64(), mem_cgroup_id(g)));
    memcg_free(p);
    memcg_free(q);
    memcg_set_current(NULL);
    memcg_set_promote_bytes(SIZE_MAX);
    group_close(g);
    check_nothing_is_left();
}

/* How many allocations it takes until the group has a cache of its own; few are live at a time. */
static int allocations_until_child(struct mem_cgroup *g)
{
    int n = 0;

    memcg_set_current(g);
    for (; !cache_from_memcg_idx(root64(), mem_cgroup_id(g)); n++) {
        CHECK(n < 1 << 20);
        memcg_free_fast(memcg_malloc_fast(64));
        work();
    }
    memcg_set_current(NULL);
    return n;
}

static void each_child_makes_the_next_dearer(void)
{
    enum { N = 20 };
    struct mem_cgroup *g[N];

    for (int i = 0; i < N; i++) {
        int allocs = (i + 1) * PROMOTE_ALLOCS;

        g[i] = group_new(mem_cgroup_root());
        CHECK(allocations_until_child(g[i]) == (allocs < UINT16_MAX ? allocs : UINT16_MAX));
    }
    for (int i = 1; i < N; i++)
        group_close(g[i]);
    g[1] = group_new(mem_cgroup_root()); /* the first group keeps its child */
    CHECK(allocations_until_child(g[1]) == 2 * PROMOTE_ALLOCS);
    group_close(g[0]);
    group_close(g[1]);
    check_nothing_is_left();
}

/* The array grows between the post and the receipt, and the pair stays pending. */
static void one_item_is_pending_per_pair_while_arrays_grow(void)
{
    struct mem_cgroup *g = group_new(mem_cgroup_root());
    struct memcg_event event;
    void *p[8];

    work();
    memcg_set_promote_bytes(0);
    memcg_set_current(g);
    p[0] = memcg_malloc(64);
    CHECK(!memcg_update_cache_size(root64(), 2 * memcg_cache_array_size(root64())));
    p[1] = memcg_malloc(64);
    CHECK(memcg_next_event(&event) && event.kind == MEMCG_EVENT_CREATE && event.memcg == g);
    p[2] = memcg_malloc(64); /* delivered, but not done */
    CHECK(!memcg_update_cache_size(root64(), 2 * memcg_cache_array_size(root64())));
    p[3] = memcg_malloc(64);
    CHECK(!memcg_next_event(&(struct memcg_event){ 0 }));
    CHECK(css_refs(g) == 2);
    memcg_create_done(root64(), g); /* not created, because there was no memory */
    css_put(g);
    p[4] = memcg_malloc(64);
    CHECK(css_refs(g) == 2);
    p[5] = memcg_malloc(64);
    CHECK(work() == 1);
    memcg_set_promote_bytes(SIZE_MAX);
    for (int i = 0; i < 6; i++)
        memcg_free(p[i]);
    memcg_set_current(NULL);
    group_close(g);
    check_nothing_is_left();
}

static void ten_thousand_small_groups_cost_little_and_give_all_back(void)
{
#ifdef __SANITIZE_THREAD__
    enum { N = 500 };
#else
    enum { N = 10000 };
#endif
    static const size_t sizes[] = { 24, 56, 100, 200, 500 };
    static struct mem_cgroup *g[N];
    static void *p[N][5];
    int64_t objects = 0;
    struct memcg_global_stat stat;

    for (int i = 0; i < N; i++) {
        g[i] = group_new(mem_cgroup_root());
        memcg_set_current(g[i]);
        for (int k = 0; k < 5; k++) {
            p[i][k] = memcg_malloc(sizes[k]);
            objects += (int64_t)kmalloc_size(kmalloc_index(sizes[k]));
        }
    }
    memcg_set_current(NULL);
    CHECK(usage_of_group(mem_cgroup_root()) * 4 <= objects * 5);
    CHECK(current_of(mem_cgroup_root()) == objects);
    memcg_read_global_stat(&stat);
    printf("%d groups: objects %ld KiB, shared slabs %zu KiB, metadata %zu KiB\n", N,
           (long)objects >> 10, stat.slab_shared_bytes >> 10, stat.metadata >> 10);
    for (int i = 0; i < N; i++) {
        for (int k = 0; k < 5; k++)
            memcg_free(p[i][k]);
        CHECK(usage_of_group(g[i]) == 0);
        css_put(g[i]); /* not group_close(), which steals all threads, 10,000 times 40 classes */
    }
    check_nothing_is_left();
}

/* What a thread keeps of a group that it has left: a heap without slots. */
static void a_group_with_nothing_of_its_own_takes_half_a_kilobyte_of_a_thread(void)
{
    enum { N = 1000 };
    static struct mem_cgroup *g[N];
    static void *p[N];
    struct memcg_global_stat before, after;

    for (int i = 0; i < N; i++)
        g[i] = group_new(mem_cgroup_root());
    memcg_set_current(g[N - 1]); /* makes the table by ids large enough */
    memcg_set_current(NULL);
    memcg_read_global_stat(&before);
    for (int i = 0; i < N; i++) {
        memcg_set_current(g[i]);
        p[i] = memcg_malloc(56);
    }
    for (int i = 0; i < N; i++)
        memcg_free(p[i]);
    memcg_set_current(NULL);
    memcg_read_global_stat(&after);
    CHECK(after.metadata - before.metadata <= N * 512 + 1024); /* and the slab that is kept */
    for (int i = 0; i < N; i++)
        css_put(g[i]);
    check_nothing_is_left();
}

static struct kmem_cache *user;
static ATOMIC(void *) user_slots[256];

static void *user_swapper(void *arg)
{
    unsigned seed = (unsigned)(uintptr_t)arg;

    memcg_set_current(arg);
    for (int i = 0; i < 20000; i++) {
        void *p = kmem_cache_alloc(user);

        memset(p, 1, 200);
        p = exchange_acq_rel(&user_slots[rand_r(&seed) % 256], p);
        CHECK(!p || kmem_cache_free(user, p) == 0);
    }
    memcg_set_current(NULL);
    return NULL;
}

static void shared_objects_of_a_users_cache_are_freed_by_any_thread(void)
{
    struct mem_cgroup *g[2] = { group_new(mem_cgroup_root()), group_new(mem_cgroup_root()) };
    pthread_t t[4];

    user = kmem_cache_create_root(200, 16, 0); /* it has no array, so its objects are always
                                                * shared */
    for (int i = 0; i < 4; i++)
        start(&t[i], user_swapper, g[i / 2]);
    for (int i = 0; i < 4; i++)
        pthread_join(t[i], NULL);
    for (int i = 0; i < 256; i++)
        CHECK(!load_plain(&user_slots[i]) ||
              kmem_cache_free(user, load_plain(&user_slots[i])) == 0);
    CHECK(usage_of_group(g[0]) == 0 && usage_of_group(g[1]) == 0);
    CHECK(info_of(user).active_objs == 0 && kmem_cache_shutdown(user) == 0);
    kmem_cache_free_struct(user);
    group_close(g[0]);
    group_close(g[1]);
    check_nothing_is_left();
}

int main(void)
{
    CHECK(memcg_init(NULL) == 0);
    memcg_set_promote_bytes(SIZE_MAX);
    RUN(more_groups_than_a_slab_has_owner_entries);
    RUN(a_group_finds_the_slab_that_has_its_entry);
    RUN(whole_pages_stand_alone_until_there_is_a_cache);
    RUN(objects_of_a_closed_group_are_its_parents);
    RUN(a_group_reads_no_bytes_of_another);
    RUN(threshold_zero_asks_on_the_first_allocation);
    RUN(each_child_makes_the_next_dearer);
    RUN(one_item_is_pending_per_pair_while_arrays_grow);
    RUN(shared_objects_of_a_users_cache_are_freed_by_any_thread);
    RUN(ten_thousand_small_groups_cost_little_and_give_all_back);
    RUN(a_group_with_nothing_of_its_own_takes_half_a_kilobyte_of_a_thread);
    return DONE();
}
