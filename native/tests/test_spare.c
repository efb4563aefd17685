/* SPDX-License-Identifier: Apache-2.0 */
/* test_spare.c - a closed group is kept, and is the next one, while others free what outlived it. */
#include "tenants.h"

enum { N = 200 };

static struct mem_cgroup_stat stat_of(struct mem_cgroup *memcg)
{
    struct mem_cgroup_stat stat;

    mem_cgroup_read_stat(memcg, &stat);
    return stat;
}

static void a_late_free_is_credited_to_the_parent(void)
{
    struct mem_cgroup *top = group_new(mem_cgroup_root()), *g = group_new(top);
    struct mem_cgroup_stat stat;
    int kept = 0;

    memcg_set_promote_bytes((size_t)1 << 40); /* all objects are in shared slabs or runs */
    tenants_start();
    for (int round = 0; round < 300; round++) {
        tenants_enter(g);
        for (int k = 0; k < 4; k++)
            sched_yield();
        tenants_enter(NULL);
        while (css_refs(g) > 1 + mem_cgroup_nr_caches(g)) {
            sched_yield();
            work();
        }
        if (!mem_cgroup_keep(g)) { /* it has got a cache, by the number of its allocations */
            group_close(g);
            g = group_new(top);
            continue;
        }
        kept++;
        CHECK(!mem_cgroup_online(g) && !css_tryget(g));
        stat = stat_of(g);
        CHECK(stat.usage == stat.slab_private && !stat.slab_shared && !stat.page_runs);
        CHECK(mem_cgroup_renew(g));
        CHECK(mem_cgroup_online(g) && stat_of(g).usage == stat.slab_private);
    }
    CHECK(kept > 10);
    tenants_end();
    CHECK(stat_of(g).current == 0 && stat_of(top).current == cost_below(top));
    group_close(g);
    group_close(top);
}

static void *objects[N];

static void fill(struct mem_cgroup *g, int nr)
{
    memcg_set_current(g);
    for (int i = 0; i < nr; i++)
        CHECK((objects[i] = memcg_malloc_fast(100)));
    memcg_set_current(NULL);
}

static void drop(int nr)
{
    for (int i = 0; i < nr; i++)
        memcg_free_fast(objects[i]);
}

static void a_group_with_live_objects_of_its_own_is_not_kept(void)
{
    struct mem_cgroup *top = group_new(mem_cgroup_root()), *g = group_new(top);
    int64_t before;

    memcg_set_promote_bytes(1);
    fill(g, N);
    drop(N);
    work();
    fill(g, 1);
    CHECK(mem_cgroup_nr_caches(g) > 0 && stat_of(g).slab_private > 0);
    CHECK(!mem_cgroup_keep(g) && mem_cgroup_online(g));
    drop(1);
    CHECK(mem_cgroup_keep(g) && !mem_cgroup_online(g));
    before = stat_of(g).slab_private;
    CHECK(before > 0 && stat_of(top).usage == before);
    CHECK(mem_cgroup_renew(g) && mem_cgroup_nr_caches(g) > 0);
    fill(g, 10);
    CHECK(stat_of(g).slab_private == before); /* from the slab that was kept */
    drop(10);
    mem_cgroup_collect(top); /* a reader takes the empty slabs */
    CHECK(stat_of(top).current == cost_below(top));
    CHECK(mem_cgroup_keep(g));
    CHECK(stat_of(top).current == 0);
    CHECK(mem_cgroup_renew(g));
    group_close(g);
    group_close(top);
}

static void more_slabs_than_a_few_are_given_back(void)
{
    struct mem_cgroup *top = group_new(mem_cgroup_root()), *g = group_new(top);
    static void *many[5000];

    memcg_set_promote_bytes(1);
    fill(g, N);
    drop(N);
    work();
    memcg_set_current(g);
    for (int i = 0; i < 5000; i++)
        many[i] = memcg_malloc_fast(100);
    for (int i = 0; i < 5000; i++)
        memcg_free_fast(many[i]);
    memcg_set_current(NULL);
    CHECK(mem_cgroup_keep(g));
    CHECK(stat_of(g).slab_private <= 64 << 10 && stat_of(top).usage <= 64 << 10);
    CHECK(mem_cgroup_renew(g));
    group_close(g);
    group_close(top);
}

/* The number of allocations after which a group asks for a cache of the class of 100 bytes. */
static unsigned allocs_to_promote(void)
{
    return load_relaxed(&promote_allocs[kmalloc_index(100)]);
}

static void the_caches_of_a_spare_group_make_no_other_dearer(void)
{
    struct mem_cgroup *top = group_new(mem_cgroup_root()), *g = group_new(top);
    struct kmem_cache *root = kmalloc_cache(kmalloc_index(100)), *child;
    unsigned before = allocs_to_promote(), with;

    child_create(g, root);
    with = allocs_to_promote();
    CHECK(with > before);
    CHECK(mem_cgroup_keep(g) && allocs_to_promote() == before);
    CHECK(mem_cgroup_renew(g) && allocs_to_promote() == with);
    CHECK(mem_cgroup_keep(g) && allocs_to_promote() == before);
    pthread_mutex_lock(&control_lock); /* as the control plane lets go of a spare group */
    child = cache_from_memcg_idx(root, mem_cgroup_id(g));
    kmem_cache_set_dead(child);
    __child_destroy_if_empty(child);
    pthread_mutex_unlock(&control_lock);
    CHECK(allocs_to_promote() == before);
    mem_cgroup_give_up(g);
    work();
    CHECK(allocs_to_promote() == before);
    group_close(top);
}

static void a_limit_above_refuses_a_spare_group(void)
{
    struct mem_cgroup *top = group_new(mem_cgroup_root()), *g = group_new(top);

    CHECK(mem_cgroup_keep(g));
    CHECK(!mem_cgroup_keep(g)); /* it is offline already */
    mem_cgroup_set_limit(top, MEMCG_MAX, 0);
    CHECK(!mem_cgroup_renew(g) && !mem_cgroup_online(g));
    mem_cgroup_set_limit(top, MEMCG_MAX, INT64_MAX);
    CHECK(mem_cgroup_renew(g));
    group_close(g);
    group_close(top);
}

int main(void)
{
    CHECK(memcg_init(NULL) == 0);
    RUN(a_limit_above_refuses_a_spare_group);
    RUN(the_caches_of_a_spare_group_make_no_other_dearer);
    RUN(a_group_with_live_objects_of_its_own_is_not_kept);
    RUN(more_slabs_than_a_few_are_given_back);
    RUN(a_late_free_is_credited_to_the_parent);
    return DONE();
}
