/* SPDX-License-Identifier: Apache-2.0 */
/* test_offline.c - groups and caches end while other threads allocate in them. */
#include "tenants.h"

static void groups_end_under_their_threads(void)
{
    struct mem_cgroup *g, *top = group_new(mem_cgroup_root());
    struct mem_cgroup_stat stat;

    memcg_set_promote_bytes(2048);
    tenants_start();
    for (int round = 0; round < 60; round++) {
        g = group_new(top);
        tenants_enter(g);
        for (int k = 0; k < 4; k++) {
            sched_yield();
            work();
            mem_cgroup_reclaim(g);
        }
        tenants_enter(NULL);
        mem_cgroup_offline(g);
        mem_cgroup_read_stat(g, &stat);
        CHECK(stat.usage == 0 && stat.slab_private == 0 && stat.slab_shared == 0);
        group_close(g);
    }
    tenants_end();
    work();
    mem_cgroup_reclaim(top);
    CHECK(usage_of_group(top) == 0);
    group_close(top);
    check_nothing_is_left();
    memcg_set_promote_bytes(SIZE_MAX);
}

/* When a group ends, a thread inside it charges the parent from then on, and meets its limit. */
static void a_thread_in_a_closed_group_charges_the_parent(void)
{
    struct mem_cgroup *top = group_new(mem_cgroup_root()), *g = group_new(top);
    void *p;

    mem_cgroup_set_limit(top, MEMCG_MAX, 200000);
    memcg_set_current(g);
    memcg_free(memcg_malloc(64));
    group_close(g);
    CHECK(memcg_get_current() == top);
    CHECK((p = memcg_malloc(100000)) && current_of(top) >= 100000);
    CHECK(!memcg_malloc(150000));
    memcg_free(p);
    memcg_set_current(NULL);
    group_close(top);
    check_nothing_is_left();
}

static void entering_before_activation_is_made_good(void)
{
    struct mem_cgroup *g = mem_cgroup_alloc(mem_cgroup_root());
    void *p;

    css_get(mem_cgroup_root());
    memcg_set_current(g);
    p = memcg_malloc(100000); /* the group has no id yet, so it is an ancestor's */
    CHECK(current_of(g) == 0);
    memcg_free(p);
    pthread_mutex_lock(&control_lock);
    id_used[0] = 1;
    for (int i = 0; i < nr_roots(); i++)
        CHECK(!memcg_update_cache_size(root_at(i), 1));
    mem_cgroup_set_id(g, 0);
    pthread_mutex_unlock(&control_lock);
    memcg_set_current(g); /* once more, as at the next switch of contexts */
    p = memcg_malloc(100000);
    CHECK(current_of(g) > 0);
    memcg_free(p);
    memcg_set_current(NULL);
    group_close(g);
    check_nothing_is_left();
}

static void a_failure_does_not_outlive_the_group_it_names(void)
{
    struct mem_cgroup *g = group_new(mem_cgroup_root());
    struct memcg_failure failure;

    mem_cgroup_set_limit(g, MEMCG_MAX, 1000);
    memcg_set_current(g);
    CHECK(!memcg_malloc(65536));
    memcg_set_current(NULL);
    group_close(g);
    CHECK(work() == 1);
    CHECK(!memcg_last_failure(&failure));
    check_nothing_is_left();
}

static void a_group_that_was_never_linked_can_be_freed(void)
{
    struct mem_cgroup *g = mem_cgroup_alloc(mem_cgroup_root());

    mem_cgroup_charge(g, 1000);
    mem_cgroup_free(g);
    CHECK(usage_of_group(mem_cgroup_root()) == 1000);
    mem_cgroup_uncharge(mem_cgroup_root(), 1000);
    check_nothing_is_left();
}

/* The group's stub names the parent from then on, and that is charged, whatever the caller names. */
static void charges_from_outside_follow_the_stub_of_a_closed_group(void)
{
    struct mem_cgroup *top = group_new(mem_cgroup_root()), *g = group_new(top);
    struct mem_cgroup_stat stat;

    mem_cgroup_charge(g, 5000);
    mem_cgroup_offline(g);
    mem_cgroup_charge(g, 1000);
    CHECK(!mem_cgroup_try_charge(g, 100));
    mem_cgroup_uncharge(g, 5000);
    mem_cgroup_read_stat(g, &stat);
    CHECK(stat.usage == 0 && stat.external == 0 && stat.watermark == 5000);
    mem_cgroup_read_stat(top, &stat);
    CHECK(stat.external == 1100 + cost_below(top) && usage_of_group(top) == 1100);
    mem_cgroup_set_limit(top, MEMCG_MAX, 1);
    CHECK(mem_cgroup_try_charge(g, 100));
    mem_cgroup_uncharge(g, 1100);
    group_close(g);
    group_close(top);
    check_nothing_is_left();
}

static void a_closed_group_gives_no_reference(void)
{
    struct mem_cgroup *g = group_new(mem_cgroup_root());
    long refs = css_refs(g);

    CHECK(css_tryget(g) && css_refs(g) == refs + 1);
    css_put(g);
    mem_cgroup_offline(g);
    CHECK(!css_tryget(g) && css_refs(g) == refs);
    group_close(g);
    check_nothing_is_left();
}

/* The middle group of three is closed first.  It is no heir: what the lowest leaves, and the thread
 * inside it, are the highest group's. */
static void the_heir_of_a_group_is_its_nearest_ancestor_that_is_online(void)
{
    struct mem_cgroup *top = group_new(mem_cgroup_root()), *middle = group_new(top),
                      *low = group_new(middle);
    void *block, *object;

    memcg_set_current(low);
    block = memcg_malloc(100000);
    object = memcg_malloc(1000);
    mem_cgroup_charge(low, 7000);
    mem_cgroup_offline(middle);
    mem_cgroup_offline(low);
    CHECK(memcg_get_current() == top);
    CHECK(load_plain(&low->objcg->memcg) == top && load_plain(&middle->objcg->memcg) == top);
    CHECK(mem_cgroup_usage(middle) == 0 && mem_cgroup_usage(low) == 0);
    CHECK(current_of(top) >= 108000);
    memcg_set_current(low); /* a context that still names it */
    CHECK(memcg_get_current() == top);
    memcg_set_current(NULL);
    memcg_free(block);
    memcg_free(object);
    mem_cgroup_uncharge(low, 7000);
    CHECK(mem_cgroup_usage(middle) == 0 && mem_cgroup_usage(low) == 0 && current_of(top) == 0);
    group_close(low);
    group_close(middle);
    group_close(top);
    check_nothing_is_left();
}

static atomic_int_t readers_over;

static void *slot_user(void *arg)
{
    void *p[64] = { 0 };
    unsigned seed = (unsigned)(uintptr_t)arg;

    memcg_set_current(arg);
    while (!load_relaxed(&readers_over)) {
        int i = rand_r(&seed) % 64;

        memcg_free_fast(p[i]);
        p[i] = memcg_malloc_fast(64);
        memset(p[i], i, 64);
    }
    for (int i = 0; i < 64; i++)
        memcg_free_fast(p[i]);
    memcg_set_current(NULL);
    return NULL;
}

static void shrink_trim_and_figures_while_others_allocate(void)
{
    struct mem_cgroup *g = group_new(mem_cgroup_root());
    struct kmem_cache *root = kmalloc_cache(kmalloc_index(64));
    struct kmem_cache_info info;
    pthread_t t[2];

    child_create(g, root);
    start(&t[0], slot_user, g);
    start(&t[1], slot_user, NULL);
    for (int i = 0; i < 200; i++) {
        struct kmem_cache *s = i & 1 ? root : cache_from_memcg_idx(root, mem_cgroup_id(g));

        kmem_cache_shrink(s);
        memcg_trim();
        kmem_cache_read_info(s, &info);
        CHECK(info.active_objs <= 64 && info.num_slabs <= 4);
    }
    store_relaxed(&readers_over, 1);
    pthread_join(t[0], NULL);
    pthread_join(t[1], NULL);
    group_close(g);
    check_nothing_is_left();
}

int main(void)
{
    CHECK(memcg_init(NULL) == 0);
    memcg_set_promote_bytes(SIZE_MAX);
    RUN(entering_before_activation_is_made_good);
    RUN(a_thread_in_a_closed_group_charges_the_parent);
    RUN(a_failure_does_not_outlive_the_group_it_names);
    RUN(a_group_that_was_never_linked_can_be_freed);
    RUN(charges_from_outside_follow_the_stub_of_a_closed_group);
    RUN(a_closed_group_gives_no_reference);
    RUN(the_heir_of_a_group_is_its_nearest_ancestor_that_is_online);
    RUN(shrink_trim_and_figures_while_others_allocate);
    RUN(groups_end_under_their_threads);
    return DONE();
}
