/* SPDX-License-Identifier: Apache-2.0 */
/* test_walk.c - every live block is named once, and the sums of all accounts agree. */
#include "control.h"

enum { GROUPS = 3, BLOCKS = 3000 };
struct live {
    void *p;
    int group; /* 0: the root */
    int seen;
};
static struct live live[BLOCKS];
static struct mem_cgroup *groups[GROUPS];
static int walked;

static int by_address(const void *a, const void *b)
{
    const struct live *x = a, *y = b;

    return x->p < y->p ? -1 : x->p > y->p;
}

static int found(void *arg, void *block, size_t size, struct kmem_cache *cache)
{
    struct live key = { .p = block }, *one = bsearch(&key, live, BLOCKS, sizeof(key), by_address);

    CHECK(one && one->group == *(int *)arg && !one->seen);
    CHECK(memcg_usable_size(block) == size && (cache != NULL) >= (size < PAGE_SIZE));
    one->seen = 1;
    walked++;
    return 0;
}

static void *allocator(void *arg)
{
    int me = (int)(uintptr_t)arg;
    unsigned seed = (unsigned)me;

    for (int i = me; i < BLOCKS; i += 2) {
        live[i].group = rand_r(&seed) % GROUPS;
        memcg_set_current(groups[live[i].group]);
        live[i].p = memcg_malloc((size_t)rand_r(&seed) % (i % 100 ? 700 : 100000) + 1);
        if (i % 3 == 0)
            memcg_free(memcg_malloc(300));
    }
    memcg_set_current(NULL);
    return NULL;
}

static int64_t bytes_of(int group)
{
    int64_t bytes = 0;

    for (int i = 0; i < BLOCKS; i++)
        if (live[i].p && live[i].group == group)
            bytes += (int64_t)memcg_usable_size(live[i].p);
    return bytes;
}

static int stop_at_once(void *arg, void *block, size_t size, struct kmem_cache *cache)
{
    (void)block, (void)size, (void)cache;
    return ++*(int *)arg;
}

/* promoted: children serve all but the first bytes. */
static void walk_and_add_up(bool promoted)
{
    pthread_t t[2];
    int64_t sum = 0;

    for (int g = 1; g < GROUPS; g++)
        groups[g] = group_new(mem_cgroup_root());
    for (int g = 1; g < GROUPS && promoted; g++)
        for (int i = 0; i < kmalloc_nr_caches(); i += 2)
            child_create(groups[g], kmalloc_cache(i));
    for (uintptr_t i = 0; i < 2; i++) {
        start(&t[i], allocator, (void *)i);
        pthread_join(t[i], NULL);
    }
    qsort(live, BLOCKS, sizeof(live[0]), by_address);
    for (int k = 0; k < 10; k++) { /* freed by another thread; they still wait for their owner */
        memcg_free(live[k * 7].p);
        live[k * 7].p = NULL;
        live[k * 7].seen = 1;
        walked++;
    }
    qsort(live, BLOCKS, sizeof(live[0]), by_address);
    walked = 10;
    for (int g = 0; g < GROUPS; g++) {
        struct mem_cgroup *memcg = g ? groups[g] : mem_cgroup_root();
        struct mem_cgroup_stat stat;

        mem_cgroup_for_each_block(memcg, found, &g);
        mem_cgroup_reclaim(memcg);
        mem_cgroup_read_stat(memcg, &stat);
        if (g && !promoted)
            CHECK(stat.current == bytes_of(g) && stat.usage == stat.current);
        CHECK(stat.slab_shared + stat.slab_private + stat.page_runs >= bytes_of(g));
        sum += stat.slab_shared + stat.slab_private + stat.page_runs + stat.external;
    }
    CHECK(walked == BLOCKS);
    CHECK(usage_of_group(mem_cgroup_root()) + cost_below(mem_cgroup_root()) == sum);
    walked = 0;
    mem_cgroup_for_each_block(mem_cgroup_root(), stop_at_once, &walked);
    CHECK(walked == 1);
    for (int g = 1; g < GROUPS; g++)
        group_close(groups[g]);
    CHECK(usage_of_group(mem_cgroup_root()) + cost_below(mem_cgroup_root()) == sum);
    /* the charges moved to the parent, and nothing else has changed */
    for (int i = 0; i < BLOCKS; i++) {
        memcg_free(live[i].p);
        live[i] = (struct live){ 0 };
    }
    check_nothing_is_left();
}

static void shared_blocks_are_named_and_add_up(void) { walk_and_add_up(false); }
static void blocks_of_children_are_named_and_add_up(void) { walk_and_add_up(true); }

int main(void)
{
    CHECK(memcg_init(NULL) == 0);
    memcg_set_promote_bytes(SIZE_MAX);
    RUN(shared_blocks_are_named_and_add_up);
    RUN(blocks_of_children_are_named_and_add_up);
    return DONE();
}
