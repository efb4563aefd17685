/* SPDX-License-Identifier: Apache-2.0 */
/* test_fault.c - faults hit the requests that they are meant for, and a failure leaves nothing
 * behind. */
#include "control.h"

static struct fault_attr every(unsigned points)
{
    return (struct fault_attr){
        .points = points, .nth = 1, .times = UINT64_MAX, .max_size = SIZE_MAX, .this_thread = true
    };
}

static void arm(struct fault_attr attr) { CHECK(memcg_arm_faults(&attr) == 0); }

static uint64_t disarm(void)
{
    memcg_disarm_faults();
    return memcg_fault_count().faults;
}

static void arm_nth(unsigned points, uint64_t nth, uint64_t times)
{
    struct fault_attr attr = every(points);

    attr.nth = nth;
    attr.times = times;
    attr.small = true;
    attr.this_thread = false;
    arm(attr);
}

/* The fast path would pop an object of a sheaf without a check. */
static void the_fast_path_is_bypassed_while_faults_are_armed(void)
{
    void *p[4];

    memcg_free_fast(memcg_malloc_fast(64));
    CHECK(load_plain(&memcg_self->heap)->kmalloc[kmalloc_index(64)].sheaf);
    arm_nth(1 << FAULT_ALLOC, 3, 1);
    for (int i = 0; i < 4; i++)
        p[i] = memcg_malloc_fast(64);
    CHECK(p[0] && p[1] && !p[2] && p[3]);
    CHECK(memcg_fault_count().eligible == 4);
    CHECK(disarm() == 1);
    for (int i = 0; i < 4; i++)
        memcg_free_fast(p[i]);
    CHECK(!load_relaxed(&memcg_self->stolen) || section_is_slow(SLOW_NO_MEMBARRIER));
}

static bool refused(size_t size)
{
    void *p = memcg_malloc_fast(size);

    memcg_free_fast(p);
    return !p;
}

static void small_requests_fail_only_when_asked_for(void)
{
    struct fault_attr attr = every(1 << FAULT_ALLOC);

    arm(attr);
    CHECK(!refused(1024) && refused(1025) && refused(1 << 20));
    CHECK(disarm() == 2);
    attr.small = true;
    attr.min_size = 16;
    attr.max_size = 32;
    arm(attr);
    CHECK(!refused(15) && refused(16) && refused(32) && !refused(33));
    disarm();
}

static void what_is_charged_by_force_does_not_fail(void)
{
    arm(every(1 << FAULT_ALLOC));
    memcg_stop_kmem_account();
    CHECK(!refused(1 << 20));
    memcg_resume_kmem_account();
    CHECK(refused(1 << 20));
    disarm();
}

static void only_one_cache_fails(void)
{
    struct kmem_cache *s = kmem_cache_create_root(200, 16, 0), *other;
    struct fault_attr attr = every(1 << FAULT_ALLOC);
    void *p;

    other = kmem_cache_create_root(200, 16, 0);
    kmem_cache_set_name(s, "frame");
    kmem_cache_set_name(other, "frames");
    attr.cache = "frame";
    arm(attr);
    CHECK(!kmem_cache_alloc(s) && (p = kmem_cache_alloc(other)) && !refused(200));
    disarm();
    CHECK(!kmem_cache_free(other, p));
    CHECK(!kmem_cache_shutdown(s) && !kmem_cache_shutdown(other));
    kmem_cache_free_struct(s);
    kmem_cache_free_struct(other);
}

static void only_one_group_and_those_below_fail(void)
{
    struct mem_cgroup *a = group_new(mem_cgroup_root()), *b = group_new(a);
    struct mem_cgroup *c = group_new(mem_cgroup_root());
    struct fault_attr attr = every(1 << FAULT_ALLOC);

    mem_cgroup_set_path(a, "a");
    mem_cgroup_set_path(b, "a/b");
    mem_cgroup_set_path(c, "c");
    attr.group = "a";
    arm(attr);
    memcg_set_current(c);
    CHECK(!refused(4096));
    memcg_set_current(a);
    CHECK(refused(4096));
    memcg_set_current(b);
    CHECK(refused(4096));
    memcg_set_current(NULL);
    CHECK(!refused(4096));
    disarm();
    group_close(c);
    group_close(b);
    group_close(a);
}

static void *asks(void *arg)
{
    *(bool *)arg = refused(4096);
    return NULL;
}

static bool refused_elsewhere(void)
{
    pthread_t t;
    bool answer;

    start(&t, asks, &answer);
    pthread_join(t, NULL);
    return answer;
}

static void other_threads_fail_only_when_asked_for(void)
{
    struct fault_attr attr = every(1 << FAULT_ALLOC);

    arm(attr);
    CHECK(refused(4096) && !refused_elsewhere());
    CHECK(memcg_arm_faults(&attr) == -EBUSY);
    disarm();
    attr.this_thread = false;
    arm(attr);
    CHECK(refused(4096) && refused_elsewhere());
    disarm();
}

/* 10,000 draws of 0.1: the standard deviation is 30. */
static void chance_is_as_probable_as_said_and_repeats_with_its_seed(void)
{
    struct fault_attr attr = every(1 << FAULT_ALLOC);
    static bool fails[2][10000];
    uint64_t nr[3];

    attr.nth = 0;
    attr.probability = 0.1;
    for (int run = 0; run < 3; run++) {
        attr.seed = run < 2 ? 7 : 8;
        arm(attr);
        for (int i = 0; i < 10000; i++) {
            bool answer = refused(4096);

            CHECK(run != 1 || answer == fails[0][i]);
            fails[run % 2][i] = answer;
        }
        nr[run] = disarm();
        CHECK(nr[run] > 1000 - 6 * 30 && nr[run] < 1000 + 6 * 30);
    }
    CHECK(memcmp(fails[0], fails[1], sizeof(fails[0])) != 0);
}

/* ---- fail-nth: whatever fails on the way, the operation is whole or not at all ---- */

static struct mem_cgroup *group;

static struct kmem_cache *kmalloc_of(size_t size) { return kmalloc_cache(kmalloc_index(size)); }

static bool alloc_and_free(void)
{
    size_t sizes[] = { 16, 1000, 5000, 40000, 3 << 20 };
    void *p[5];
    bool whole = true;

    for (int i = 0; i < 5; i++)
        whole &= !!(p[i] = memcg_calloc(sizes[i]));
    for (int i = 0; i < 5; i++) {
        void *q = p[i] ? memcg_realloc(p[i], sizes[i] * 3) : NULL;

        whole &= !!q;
        memcg_free(q ? q : p[i]);
    }
    return whole;
}

static bool alloc_in_a_group(void)
{
    bool whole;

    memcg_set_current(group);
    whole = alloc_and_free();
    memcg_set_current(NULL);
    return whole;
}

static bool make_a_group(void)
{
    struct mem_cgroup *g = mem_cgroup_alloc(group);

    if (!g)
        return false;
    mem_cgroup_free(g);
    return true;
}

/* The group's heap and events are new each time. Without memory for them it is served from
 * `group`. */
static bool be_in_a_new_group(void)
{
    struct mem_cgroup *g = mem_cgroup_alloc(group);
    bool whole;

    if (!g)
        return false;
    css_get(group);
    mem_cgroup_set_id(g, MAX_IDS - 1);
    memcg_set_current(group); /* its heap is used if there is no memory for the new one */
    memcg_set_current(g);
    whole = alloc_and_free();
    memcg_set_current(NULL);
    mem_cgroup_offline(g);
    css_put(g);
    work();
    return whole;
}

static void *allocs(void *arg)
{
    *(bool *)arg = alloc_and_free();
    return NULL;
}

/* A thread without memory for its heaps is served by the orphan. */
static bool be_a_new_thread(void)
{
    pthread_t t;
    bool whole;

    start(&t, allocs, &whole);
    pthread_join(t, NULL);
    return whole;
}

static bool make_a_child(void)
{
    struct kmem_cache *s = kmem_cache_create_child(group, kmalloc_of(64));

    if (!s)
        return false;
    CHECK(!kmem_cache_shutdown(s));
    kmem_cache_free_struct(s);
    css_put(group);
    return true;
}

static bool use_a_cache(void)
{
    struct kmem_cache *s = kmem_cache_create_root(3000, 64, 0);
    struct memcg_event event;
    void *p;

    if (!s)
        return false;
    if (memcg_update_cache_size(s, 600)) {
        CHECK(!kmem_cache_shutdown(s));
        kmem_cache_free_struct(s);
        return false;
    }
    memcg_set_current(group);
    p = kmem_cache_alloc(s);
    memcg_set_current(NULL);
    CHECK(!p || !kmem_cache_free(s, p));
    while (memcg_next_event(&event)) { /* a child was asked for; it is not made */
        CHECK(event.kind == MEMCG_EVENT_CREATE && event.cache == s);
        memcg_create_done(s, event.memcg);
        css_put(event.memcg);
    }
    CHECK(!kmem_cache_shutdown(s));
    kmem_cache_free_struct(s);
    return p;
}

struct figures {
    int64_t group, root;
    size_t pages, slabs, metadata;
    long refs;
};

static struct figures figures(void)
{
    struct memcg_global_stat stat;

    work();
    mem_cgroup_reclaim(mem_cgroup_root());
    memcg_read_global_stat(&stat);
    return (struct figures){ usage_of_group(group), usage_of_group(mem_cgroup_root()),
                             stat.pages_in_use,     stat.nr_slabs,
                             stat.metadata,         css_refs(group) };
}

static bool same(struct figures a, struct figures b)
{
    return a.group == b.group && a.root == b.root && a.pages == b.pages && a.slabs == b.slabs &&
           a.metadata == b.metadata && a.refs == b.refs;
}

static int exhaust(bool (*operation)(void), unsigned points, uint64_t times)
{
    struct figures before;
    int n = 0, nr_refused = 0;
    uint64_t faults;

    group = group_new(mem_cgroup_root());
    child_create(group, kmalloc_of(1000));
    memcg_set_current(group); /* its heap may serve other groups, and has slots from then on */
    CHECK(alloc_and_free());
    memcg_set_current(NULL);
    CHECK(operation() && operation()); /* the second run grows no table that is kept */
    before = figures();
    do {
        bool whole;

        arm_nth(points, (uint64_t)++n, times);
        whole = operation();
        faults = disarm();
        CHECK(whole || faults);
        nr_refused += !whole;
        CHECK(same(before, figures()));
        CHECK(operation());
        CHECK(same(before, figures()));
    } while (faults);
    group_close(group);
    work();
    printf("%d faults, %d times refused\n", n - 1, nr_refused);
    return nr_refused;
}

#define OUR_OWN (1 << FAULT_METADATA | 1 << FAULT_PAGES | 1 << FAULT_MMAP)

static void what_is_refused_leaves_nothing(void)
{
    bool (*operations[])(void) = { alloc_and_free,    alloc_in_a_group, make_a_group, make_a_child,
                                   be_in_a_new_group, be_a_new_thread,  use_a_cache };

    for (int i = 0; i < 7; i++) {
        int refused_once = exhaust(operations[i], OUR_OWN | 1 << FAULT_ALLOC, 1);

        CHECK(refused_once); /* a request is tried twice, so both tries failed */
        CHECK(exhaust(operations[i], OUR_OWN | 1 << FAULT_ALLOC, 2) >= refused_once);
    }
}

static void madvise_may_refuse(void)
{
    struct mem_cgroup *a = group_new(mem_cgroup_root()), *b = group_new(mem_cgroup_root());
    char *p, *q;

    arm_nth(1 << FAULT_MADVISE, 1, UINT64_MAX);
    memcg_set_current(a);
    p = memcg_malloc(8 << 20); /* advises huge pages */
    memset(p, 'a', 8 << 20);
    memcg_free(p);
    memcg_set_current(b);
    q = memcg_malloc(8 << 20);
    CHECK(p == q); /* the same pages, which madvise clears */
    for (int i = 0; i < 8 << 20; i++)
        CHECK(!q[i]);
    memset(q, 'b', 8 << 20);
    memcg_set_current(NULL);
    memcg_free(q);
    CHECK(memcg_trim() == 0);
    CHECK(disarm() >= 3);
    CHECK(memcg_trim() > 0);
    group_close(a);
    group_close(b);
}

static void the_system_may_give_no_memory(void)
{
    struct memcg_global_stat stat;
    struct kmem_cache *s = kmem_cache_create_root(64, 16, 0);
    size_t size;

    memcg_read_global_stat(&stat);
    size = stat.committed + (32 << 20);
    arm_nth(1 << FAULT_MMAP, 1, 3);
    CHECK(!memcg_malloc(size)); /* tried twice */
    CHECK(memcg_update_cache_size(s, 10000) == -ENOMEM && memcg_cache_array_size(s) == 0);
    CHECK(disarm() == 3);
    CHECK(!refused(size));
    CHECK(!memcg_update_cache_size(s, 10000) && memcg_cache_array_size(s) == 10000);
    CHECK(!kmem_cache_shutdown(s));
    kmem_cache_free_struct(s);
}

/* The address range is halved until it can be reserved. */
static void the_start_gets_by_with_less(void)
{
    struct fault_attr attr = every(1 << FAULT_MMAP);
    struct memcg_global_stat stat;

    attr.nth = 2;
    attr.times = 4;
    attr.this_thread = false; /* there is no thread yet */
    arm(attr);
    CHECK(memcg_init(&(struct memcg_config){ .arena_bytes = (size_t)8 << 30 }) == 0);
    CHECK(disarm() == 4);
    memcg_read_global_stat(&stat);
    CHECK(stat.reserved < (size_t)8 << 30 && stat.reserved >= (size_t)64 << 20);
}

int main(void)
{
    RUN(the_start_gets_by_with_less);
    memcg_set_promote_bytes(SIZE_MAX);
    memcg_free(memcg_malloc(1)); /* makes the thread */
    RUN(the_fast_path_is_bypassed_while_faults_are_armed);
    RUN(small_requests_fail_only_when_asked_for);
    RUN(what_is_charged_by_force_does_not_fail);
    RUN(only_one_cache_fails);
    RUN(only_one_group_and_those_below_fail);
    RUN(other_threads_fail_only_when_asked_for);
    RUN(chance_is_as_probable_as_said_and_repeats_with_its_seed);
    RUN(madvise_may_refuse);
    RUN(the_system_may_give_no_memory);
    RUN(what_is_refused_leaves_nothing);
    check_nothing_is_left();
    return DONE();
}
