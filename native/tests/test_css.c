/* SPDX-License-Identifier: Apache-2.0 */
/* test_css.c - references to groups and to their stubs, also by several threads at once. */
#include "control.h"

#include "../css.h"
#include "../section.h"

#ifdef __SANITIZE_THREAD__
enum { ROUNDS = 20000 };
#else
enum { ROUNDS = 200000 };
#endif
enum { THREADS = 4, STUBS = 5000, LIVES = 50 };

static void a_group_keeps_its_owner(void)
{
    struct mem_cgroup *g = group_new(mem_cgroup_root());
    int owner;

    CHECK(!mem_cgroup_owner(g));
    mem_cgroup_set_owner(g, &owner);
    CHECK(mem_cgroup_owner(g) == &owner && !mem_cgroup_owner(mem_cgroup_root()));
    group_close(g);
    check_nothing_is_left();
}

/* It is online until it is freed, and its last reference is gone. */
static void a_group_without_references_gives_none(void)
{
    struct mem_cgroup *g = mem_cgroup_alloc(mem_cgroup_root());
    struct memcg_event event;

    css_put(g);
    CHECK(mem_cgroup_online(g) && !css_tryget(g) && css_refs(g) == 0);
    CHECK(memcg_next_event(&event) && event.kind == MEMCG_EVENT_RELEASE && event.memcg == g);
    mem_cgroup_free(g);
    check_nothing_is_left();
}

static void a_group_without_a_limit_has_no_reserve_of_its_own_accord(void)
{
    struct mem_cgroup *g = group_new(mem_cgroup_root());

    CHECK(mem_cgroup_get_limit(g, MEMCG_MAX) == PAGE_COUNTER_MAX);
    CHECK(mem_cgroup_get_limit(g, MEMCG_RESERVE) == 0);
    CHECK(mem_cgroup_get_limit(g, MEMCG_OVERDRAFT) == 0);
    mem_cgroup_set_limit(g, MEMCG_RESERVE, 5);
    CHECK(mem_cgroup_get_limit(g, MEMCG_RESERVE) == 5);
    mem_cgroup_set_limit(g, MEMCG_RESERVE, -1);
    mem_cgroup_set_limit(g, MEMCG_MAX, (int64_t)1 << 40);
    CHECK(mem_cgroup_get_limit(g, MEMCG_RESERVE) == (int64_t)1 << 37);
    mem_cgroup_set_limit(g, MEMCG_MAX, 1000);
    CHECK(mem_cgroup_get_limit(g, MEMCG_RESERVE) == MEMCG_RESERVE_MIN);
    group_close(g);
    check_nothing_is_left();
}

/* Shrinkers are known above too, and an event counts above too; the groups beside know nothing. */
static void what_a_group_has_is_known_to_its_ancestors(void)
{
    struct mem_cgroup *top = group_new(mem_cgroup_root()), *g = group_new(top),
                      *beside = group_new(top);
    struct mem_cgroup_stat stat;

    mem_cgroup_set_has_shrinkers(g);
    CHECK(mem_cgroup_has_shrinkers(g) && mem_cgroup_has_shrinkers(top));
    CHECK(!mem_cgroup_has_shrinkers(beside));
    mem_cgroup_count_event(g, MEMCG_EV_MAX);
    mem_cgroup_read_stat(g, &stat);
    CHECK(stat.events[MEMCG_EV_MAX] == 1 && stat.events_local[MEMCG_EV_MAX] == 1);
    mem_cgroup_read_stat(top, &stat);
    CHECK(stat.events[MEMCG_EV_MAX] == 1 && stat.events_local[MEMCG_EV_MAX] == 0);
    mem_cgroup_read_stat(beside, &stat);
    CHECK(stat.events[MEMCG_EV_MAX] == 0);
    CHECK(mem_cgroup_is_descendant(g, top) && mem_cgroup_is_descendant(top, top));
    CHECK(!mem_cgroup_is_descendant(top, g) && !mem_cgroup_is_descendant(g, beside));
    CHECK(mem_cgroup_collect_after(g) == 0 && mem_cgroup_vain(g) == 0);
    mem_cgroup_set_collect_after(g, 5, 3);
    CHECK(mem_cgroup_collect_after(g) == 5 && mem_cgroup_vain(g) == 3);
    group_close(beside);
    group_close(g);
    group_close(top);
    check_nothing_is_left();
}

static void what_crossed_high_is_pending_until_it_is_handled(void)
{
    struct mem_cgroup *g = group_new(mem_cgroup_root());

    mem_cgroup_set_limit(g, MEMCG_HIGH, 1000);
    CHECK(!mem_cgroup_high_pending(g));
    mem_cgroup_charge(g, 2000);
    CHECK(mem_cgroup_high_pending(g));
    work();
    CHECK(!mem_cgroup_high_pending(g));
    mem_cgroup_uncharge(g, 2000);
    group_close(g);
    check_nothing_is_left();
}

static void *takes_references(void *g)
{
    for (int i = 0; i < ROUNDS; i++) {
        CHECK(css_tryget(g));
        css_get(g);
        css_put(g);
        css_put(g);
    }
    return NULL;
}

static void references_that_threads_take_are_counted_once_each(void)
{
    struct mem_cgroup *g = group_new(mem_cgroup_root());
    long refs = css_refs(g);
    pthread_t t[THREADS];

    for (int i = 0; i < THREADS; i++)
        start(&t[i], takes_references, g);
    for (int i = 0; i < THREADS; i++)
        pthread_join(t[i], NULL);
    CHECK(css_refs(g) == refs);
    group_close(g);
    check_nothing_is_left();
}

static void *makes_stubs(void *g)
{
    for (int i = 0; i < STUBS; i++) {
        struct thread *self = thread_enter();
        struct obj_cgroup *objcg = objcg_alloc(g);

        CHECK(objcg);
        objcg_get(objcg);
        objcg_put(objcg);
        objcg_put(objcg);
        thread_leave(self);
    }
    return NULL;
}

/* The list of a group's stubs is whole afterwards: offline walks it, and each stub names the parent. */
static void threads_make_and_drop_stubs_of_one_group(void)
{
    struct mem_cgroup *g = group_new(mem_cgroup_root());
    pthread_t t[THREADS];

    for (int i = 0; i < THREADS; i++)
        start(&t[i], makes_stubs, g);
    for (int i = 0; i < THREADS; i++)
        pthread_join(t[i], NULL);
    CHECK(g->objcgs.first == &g->objcg->node && !g->objcg->node.next);
    group_close(g);
    check_nothing_is_left();
}

static void *allocates_once(void *g)
{
    memcg_set_current(g);
    memcg_free(memcg_malloc(64));
    memcg_set_current(NULL);
    return NULL;
}

static void *starts_threads(void *g)
{
    for (int i = 0; i < LIVES; i++) {
        pthread_t t;

        start(&t, allocates_once, g);
        pthread_join(t, NULL);
    }
    return NULL;
}

/* A thread that begins lists its heap while another that ends takes its heap off the list. */
static void threads_begin_and_end_in_one_group(void)
{
    struct mem_cgroup *g = group_new(mem_cgroup_root());
    pthread_t t[THREADS];

    child_create(g, kmalloc_cache(kmalloc_index(64)));
    for (int i = 0; i < THREADS; i++)
        start(&t[i], starts_threads, g);
    for (int i = 0; i < THREADS; i++)
        pthread_join(t[i], NULL);
    CHECK(hlist_empty(&g->heaps));
    group_close(g);
    check_nothing_is_left();
}

int main(void)
{
    CHECK(memcg_init(NULL) == 0);
    memcg_set_promote_bytes(SIZE_MAX);
    RUN(a_group_keeps_its_owner);
    RUN(a_group_without_references_gives_none);
    RUN(a_group_without_a_limit_has_no_reserve_of_its_own_accord);
    RUN(what_a_group_has_is_known_to_its_ancestors);
    RUN(what_crossed_high_is_pending_until_it_is_handled);
    RUN(references_that_threads_take_are_counted_once_each);
    RUN(threads_make_and_drop_stubs_of_one_group);
    RUN(threads_begin_and_end_in_one_group);
    return DONE();
}
