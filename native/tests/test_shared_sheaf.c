/* SPDX-License-Identifier: Apache-2.0 */
/* test_shared_sheaf.c - the objects that a small group takes ahead and keeps in shared slabs. */
#include "control.h"

enum { N = 256, SIZE = 64 };

static struct kmem_cache *root(void) { return kmalloc_cache(kmalloc_index(SIZE)); }
static uint32_t at_hand(void) { return memcg_self->shared[kmalloc_index(SIZE)].nr; }

static void fill(void **p, int n)
{
    for (int i = 0; i < n; i++) {
        p[i] = memcg_malloc_fast(SIZE);
        CHECK(p[i] && kmem_cache_of(p[i], NULL) == root());
        memset(p[i], 'x', SIZE);
    }
}

static void empty(void **p, int n)
{
    for (int i = 0; i < n; i++)
        memcg_free_fast(p[i]);
}

static uint64_t active_objects(void)
{
    struct kmem_cache_info info;

    kmem_cache_read_info(root(), &info);
    return info.active_objs;
}

static void a_group_gets_again_what_it_freed(void)
{
    struct mem_cgroup *g = group_new(mem_cgroup_root());
    void *p[N], *last;

    memcg_set_current(g);
    fill(p, N);
    empty(p, N / 2);
    CHECK(at_hand() > 0 && at_hand() <= SHARED_OBJECTS_MAX);
    last = p[N / 2 - 1];
    CHECK(memcg_malloc_fast(SIZE) == last);
    memcg_free(last); /* by the slow door too */
    CHECK(memcg_malloc_fast(SIZE) == last);
    memcg_free_fast(last);
    CHECK(current_of(g) == N / 2 * SIZE); /* the thread that asks gives its free objects back
                                           * first */
    CHECK(at_hand() == 0 && active_objects() == N / 2);
    empty(p + N / 2, N / 2);
    CHECK(at_hand() > 0);
    memcg_set_current(NULL);
    CHECK(at_hand() == 0 && usage_of_group(g) == 0 && active_objects() == 0);
    group_close(g);
    check_nothing_is_left();
}

static void a_group_of_few_objects_has_none_at_hand(void)
{
    struct mem_cgroup *g = group_new(mem_cgroup_root());
    void *p[SHARED_SHARE];

    memcg_set_current(g);
    fill(p, SHARED_SHARE);
    CHECK(at_hand() == 0);
    empty(p, SHARED_SHARE);
    CHECK(at_hand() == 0);
    memcg_set_current(NULL);
    group_close(g);
    check_nothing_is_left();
}

/* There are as many visits as objects, so what is taken ahead would be given back each time.  On a
 * long visit objects are taken ahead again. */
static void short_visits_take_nothing_ahead(void)
{
    enum { LONG = 202 }; /* the last objects that it took ahead are not used */
    struct mem_cgroup *g = group_new(mem_cgroup_root());
    void *p[N + LONG];

    for (int i = 0; i < N; i++) {
        memcg_set_current(g);
        fill(p + i, 1);
        CHECK(at_hand() == 0);
        memcg_set_current(NULL);
    }
    memcg_set_current(g);
    fill(p + N, LONG);
    CHECK(at_hand() > SHARED_OBJECTS_MAX / 2);
    memcg_set_current(NULL);
    for (int i = 0; i < 7; i++) { /* from 64 the limit falls to 0 in so many visits */
        memcg_set_current(g);
        empty(p + i, 1);
        memcg_free_fast(memcg_malloc_fast(SIZE));
        memcg_set_current(NULL);
    }
    memcg_set_current(g);
    memcg_free_fast(memcg_malloc_fast(SIZE));
    CHECK(at_hand() <= 1);
    empty(p + 7, N + LONG - 7);
    memcg_set_current(NULL);
    group_close(g);
    check_nothing_is_left();
}

/* Near max nothing is taken ahead, so the object that passes max is the one that is refused. */
static void nothing_is_taken_ahead_near_the_limit(void)
{
    enum { MAX = 64 << 10 };
    struct mem_cgroup *g = group_new(mem_cgroup_root());
    static void *p[MAX / SIZE + 1];
    struct mem_cgroup_stat stat;

    mem_cgroup_set_limit(g, MEMCG_MAX, MAX);
    memcg_set_current(g);
    fill(p, MAX / SIZE);
    mem_cgroup_read_stat(g, &stat);
    CHECK(stat.events[MEMCG_EV_MAX] == 0 && stat.usage == MAX);
    fill(p + MAX / SIZE, 1);
    mem_cgroup_read_stat(g, &stat);
    CHECK(stat.events[MEMCG_EV_MAX] == 1);
    empty(p, MAX / SIZE + 1);
    memcg_set_current(NULL);
    group_close(g);
    check_nothing_is_left();
}

/* ---- a thread with free objects in its sheaf, and what other threads see ---- */

static struct mem_cgroup *inside;
static void *objects[N];
static pthread_barrier_t turn;

static void *hold(void *arg)
{
    memcg_set_current(inside);
    fill(objects, N);
    empty(objects, N / 2);
    CHECK(at_hand() > 0);
    pthread_barrier_wait(&turn);
    pthread_barrier_wait(&turn); /* the others look, or close the group */
    CHECK(at_hand() == 0);
    empty(objects + N / 2, N / 2);
    memcg_set_current(NULL);
    return arg;
}

static int count(void *arg, void *block, size_t size, struct kmem_cache *s)
{
    (void)block;
    CHECK(size == SIZE && s == root());
    ++*(int *)arg;
    return 0;
}

static void count_blocks(void)
{
    int n = 0;

    mem_cgroup_for_each_block(inside, count, &n);
    CHECK(n == N / 2);
}

static void count_objects(void) { CHECK(active_objects() == N / 2); }

static void reclaim(void)
{
    CHECK(usage_of_group(inside) > N / 2 * SIZE);
    mem_cgroup_reclaim(inside);
    CHECK(usage_of_group(inside) == N / 2 * SIZE);
}

static void close_group(void)
{
    struct mem_cgroup *parent = mem_cgroup_parent(inside);

    css_get(inside);
    group_close(inside);
    CHECK(usage_of_group(parent) == N / 2 * SIZE && usage_of_group(inside) == 0);
    css_put(inside);
}

static void read_all(void)
{
    struct memcg_global_stat stat;

    memcg_read_global_stat(&stat);
    CHECK(stat.slab_shared_used == N / 2 * SIZE);
}

static void others_see_what_is_live(void)
{
    void (*looks[])(void) = { count_blocks, count_objects, reclaim, read_all, close_group };

    for (size_t i = 0; i < sizeof(looks) / sizeof(looks[0]); i++) {
        struct mem_cgroup *parent = group_new(mem_cgroup_root());
        pthread_t thread;

        inside = group_new(parent);
        start(&thread, hold, NULL);
        pthread_barrier_wait(&turn);
        looks[i]();
        pthread_barrier_wait(&turn);
        pthread_join(thread, NULL);
        if (looks[i] != close_group)
            group_close(inside);
        CHECK(usage_of_group(parent) == 0);
        group_close(parent);
        check_nothing_is_left();
    }
}

static void *end_with_objects_at_hand(void *arg)
{
    memcg_set_current(inside);
    fill(objects, N);
    empty(objects, N / 2);
    CHECK(at_hand() > 0);
    return arg;
}

static void a_thread_that_ends_gives_back_what_it_has_at_hand(void)
{
    pthread_t thread;

    inside = group_new(mem_cgroup_root());
    start(&thread, end_with_objects_at_hand, NULL);
    pthread_join(thread, NULL);
    CHECK(usage_of_group(inside) == N / 2 * SIZE && active_objects() == N / 2);
    empty(objects + N / 2, N / 2);
    group_close(inside);
    check_nothing_is_left();
}

/* Also if the object is not the one that was freed last. */
static void a_second_free_is_noticed(void)
{
    struct mem_cgroup *g = group_new(mem_cgroup_root());
    void *p[N];

    memcg_set_current(g);
    fill(p, N);
    CHECK(!dies((void *[]){ p[0], p[1] }, 2));
    CHECK(dies((void *[]){ p[0], p[1], p[0] }, 3));
    empty(p, N);
    memcg_set_current(NULL);
    group_close(g);
    check_nothing_is_left();
}

int main(void)
{
    CHECK(memcg_init(NULL) == 0);
    memcg_set_promote_bytes(SIZE_MAX);
    CHECK(!pthread_barrier_init(&turn, NULL, 2));
    RUN(a_group_gets_again_what_it_freed);
    RUN(a_group_of_few_objects_has_none_at_hand);
    RUN(short_visits_take_nothing_ahead);
    RUN(nothing_is_taken_ahead_near_the_limit);
    RUN(others_see_what_is_live);
    RUN(a_thread_that_ends_gives_back_what_it_has_at_hand);
    RUN(a_second_free_is_noticed);
    return DONE();
}
