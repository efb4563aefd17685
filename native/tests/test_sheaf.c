/* SPDX-License-Identifier: Apache-2.0 */
/* test_sheaf.c - frees that wait in a heap's sheaf: they are bounded, counted as free, and keep
 * nothing from ending. */
#include "../section.h"
#include "../sheaf.h"
#include "control.h"

enum { N = 3200 };
static void *p[N];
static int order[N];

static void fill(size_t size)
{
    for (int i = 0; i < N; i++)
        p[i] = memcg_malloc_fast(size);
}

static void make_order(void)
{
    unsigned seed = 7;

    for (int i = 0; i < N; i++) {
        int j = rand_r(&seed) % (i + 1);

        order[i] = order[j];
        order[j] = i;
    }
}

static void drain(int from, int to)
{
    for (int i = from; i < to; i++) {
        memcg_free_fast(p[order[i]]);
        p[order[i]] = NULL;
    }
}

static struct kmem_cache *root_of(size_t size) { return kmalloc_cache(kmalloc_index(size)); }

static uint64_t objects_of(struct kmem_cache *s)
{
    struct kmem_cache_info info;

    kmem_cache_read_info(s, &info);
    return info.active_objs;
}

static void a_free_into_a_full_slab_moves_no_slab(void)
{
    struct heap_slot *slot = &load_plain(&memcg_self->heap)->kmalloc[kmalloc_index(1024)];
    enum { K = 20 };
    void *freed[K];

    fill(1024);
    CHECK(hlist_empty(&slot->partial) && !hlist_empty(&slot->full) && slot->sheaf_room >= K);
    for (int i = 0; i < K; i++)
        memcg_free_fast(freed[i] = p[order[i]]);
    CHECK(hlist_empty(&slot->partial));
    for (int i = K; i-- > 0;)
        CHECK(memcg_malloc_fast(1024) == freed[i]);
    drain(0, N);
}

static int live_seen;

static int count_one(void *arg, void *block, size_t size, struct kmem_cache *cache)
{
    (void)arg, (void)block;
    live_seen += cache && size == 64;
    return 0;
}

static int live_of(struct mem_cgroup *memcg)
{
    live_seen = 0;
    mem_cgroup_for_each_block(memcg, count_one, NULL);
    return live_seen;
}

/* The walk and slabinfo alternate.  Each must flush for itself what was freed since the other. */
static void what_waits_is_not_live(void)
{
    fill(64);
    for (int i = 0; i < N; i += 20) {
        drain(i, i + 10);
        CHECK(live_of(mem_cgroup_root()) == N - i - 10);
        drain(i + 10, i + 20);
        CHECK(objects_of(root_of(64)) == (uint64_t)(N - i - 20));
    }
}

static int length(const struct heap_slot *slot)
{
    int nr = 0;

    for (void *object = slot->sheaf; object; object = *(void **)object)
        nr++;
    return nr;
}

static void a_sheaf_is_bounded(void)
{
    struct heap_slot *slot = &load_plain(&memcg_self->heap)->kmalloc[kmalloc_index(1024)];

    for (int round = 0; round < 6; round++) {
        int past_it = slot->sheaf_limit + 100;

        fill(1024);
        drain(0, past_it);
        CHECK(slot->sheaf && length(slot) <= SHEAF_OBJECTS_MAX &&
              length(slot) * 1024 <= (int)SHEAF_BYTES_MAX);
        drain(past_it, N);
    }
    CHECK(kmem_cache_shrink(root_of(1024)) > 0 && kmem_cache_nr_pages(root_of(1024)) == 0);
}

/* Its objects would keep a slab each: 3,200 objects in no order, 16 to a slab. */
static void a_sheaf_that_overflows_on_and_on_is_given_up(void)
{
    struct heap_slot *slot = &load_plain(&memcg_self->heap)->kmalloc[kmalloc_index(1024)];
    void *object;

    fill(1024);
    drain(0, SHEAF_OVERFLOW / 2);
    CHECK(slot->sheaf);
    drain(SHEAF_OVERFLOW / 2, N);
    CHECK(!slot->sheaf && kmem_cache_nr_pages(root_of(1024)) <= 4 * 4);
    object = memcg_malloc_fast(1024); /* refills the sheaf */
    memcg_free_fast(object);
    CHECK(slot->sheaf == object && slot->sheaf_room >= 0);
    thread_enter();
    sheaf_give_up(
        slot); /* its limit grows at the next refill, also if nothing is freed until then */
    thread_leave(memcg_self);
    CHECK(!slot->sheaf && slot->sheaf_room == 0 && slot->overflow == SHEAF_OVERFLOW);
}

/* No matter in which order a slab's objects were freed. */
static void an_empty_slab_begins_anew(void)
{
    struct heap_slot *slot = &load_plain(&memcg_self->heap)->kmalloc[kmalloc_index(256)];
    struct slab *empty;
    int first = -1;

    memcg_trim();
    fill(256);
    drain(0, N);
    empty = hlist_first_entry(&slot->empty, struct slab, slab_list);
    CHECK(empty && !hlist_next_entry(empty, slab_list));
    CHECK(!empty->freelist && !load_plain(&empty->carved) && empty->touched);
    memcg_validate();
    while (!hlist_empty(&slot->empty)) /* until it is the active one */
        p[++first] = memcg_malloc_fast(256);
    for (int i = 0; i < (int)slot->active->objects; i++) {
        if (i)
            p[first + i] = memcg_malloc_fast(256);
        CHECK((char *)p[first + i] == slot->active->base + i * 256);
    }
    drain(0, N);
}

/* One object is freed twice with another free in between, so neither free can see it. */
static void a_slab_with_one_freed_twice_never_looks_whole(void)
{
    void *frees[N];
    int nr = 0;

    memcg_trim();
    fill(1024);
    CHECK(virt_to_slab(p[0]) == virt_to_slab(p[2]));
    for (int i = 0; i < N; i++)
        if (order[i] > 2)
            frees[nr++] = p[order[i]];
    frees[nr++] = p[1];
    frees[nr++] = p[2];
    CHECK(!dies(frees, nr));
    frees[nr++] = p[1]; /* p[0] is live */
    CHECK(dies(frees, nr));
    drain(0, N);
}

/* The first object of a larger slab lies 48 bytes in, that of a single page at its start. */
static void a_flush_keeps_neighbouring_slabs_apart(void)
{
    char *kept, *q = NULL;
    int nr = 0;

    memcg_trim();
    fill(64);
    kept = p[N / 4 * 3];
    CHECK((uintptr_t)kept % 64 == 48);
    for (int i = 0; i < N; i++)
        if (p[i] != kept)
            memcg_free_fast(p[i]);
    memcg_trim();
    do /* single pages again, one right behind the slab of `kept` */
        q = p[nr++] = memcg_malloc_fast(64);
    while (nr < N && ((uintptr_t)q % PAGE_SIZE || q < kept || q - kept > 5 * (long)PAGE_SIZE));
    CHECK(nr < N);
    memcg_free_fast(q);
    memcg_free_fast(kept);
    memcg_trim();
    for (int i = 0; i < nr - 1; i++)
        memcg_free_fast(p[i]);
    memset(p, 0, sizeof(p));
    memcg_trim();
    memcg_validate();
    CHECK(kmem_cache_nr_pages(root_of(64)) == 0);
}

/* It grows only if frees overflow again and again, and only until the next flush. */
static void a_sheaf_grows_by_need(void)
{
    struct heap_slot *slot = &load_plain(&memcg_self->heap)->kmalloc[kmalloc_index(64)];

    memcg_trim();
    fill(64);
    drain(0, N);
    CHECK(slot->sheaf_limit == SHEAF_OBJECTS);
    fill(64); /* takes many refills, of which the first alone followed an overflow */
    CHECK(slot->sheaf_limit == 2 * SHEAF_OBJECTS && slot->overflow == 0);
    drain(0, N);
    for (int round = 0; round < 4; round++) {
        fill(64);
        drain(0, N);
    }
    CHECK(slot->sheaf_limit == SHEAF_OBJECTS_MAX);
    memcg_trim();
    CHECK(slot->sheaf_limit == SHEAF_OBJECTS && !slot->sheaf);
    for (int i = 0; i < kmalloc_nr_caches(); i++) {
        size_t limit = load_plain(&memcg_self->heap)->kmalloc[i].sheaf_limit;

        CHECK(limit == 1 || (limit > 1 && limit * kmalloc_size(i) <= SHEAF_BYTES));
        CHECK(sheaf_limit_max(kmalloc_size(i)) * kmalloc_size(i) <= SHEAF_BYTES_MAX);
    }
}

static struct mem_cgroup *group_with_child(size_t size)
{
    struct mem_cgroup *g = group_new(mem_cgroup_root());

    child_create(g, root_of(size));
    memcg_set_current(g);
    return g;
}

static void reclaim_and_trim_take_what_waits(void)
{
    struct mem_cgroup *g = group_with_child(256);

    for (int by_trim = 0; by_trim < 2; by_trim++) {
        fill(256);
        drain(0, N);
        memcg_free_fast(memcg_malloc_fast(256));
        CHECK(load_plain(&memcg_self->heap)->kmalloc[kmalloc_index(256)].sheaf &&
              usage_of_group(g) > 0);
        if (by_trim)
            memcg_trim();
        else
            CHECK(mem_cgroup_reclaim(g) > 0);
        CHECK(usage_of_group(g) == 0);
    }
    memcg_set_current(NULL);
    group_close(g);
}

/* A freed object is put into its group's sheaf, no matter in which group the thread is. */
static void a_free_from_another_group_waits_with_its_own(void)
{
    struct mem_cgroup *g = group_with_child(256), *h;
    void *q;

    fill(256);
    h = group_with_child(256);
    CHECK(memcg_get_current() == h);
    drain(0, 10);
    q = memcg_malloc_fast(256);
    CHECK(current_of(h) > 0 && live_of(h) == 0);
    memcg_free_fast(q);
    drain(10, N);
    CHECK(mem_cgroup_reclaim(g) > 0 && usage_of_group(g) == 0);
    memcg_set_current(NULL);
    group_close(g);
    group_close(h);
}

static void a_child_whose_objects_all_wait_can_end(void)
{
    struct mem_cgroup *g = group_with_child(256);
    struct kmem_cache *child = cache_from_memcg_idx(root_of(256), mem_cgroup_id(g));

    fill(256);
    CHECK(kmem_cache_shutdown(child) == -EBUSY);
    drain(0, N);
    memcg_free_fast(memcg_malloc_fast(256));
    CHECK(load_plain(&memcg_self->heap)->kmalloc[kmalloc_index(256)].sheaf);
    kmem_cache_set_dead(child);
    CHECK(!load_plain(&memcg_self->heap)->kmalloc[kmalloc_index(256)].sheaf);
    CHECK(kmem_cache_shutdown(child) == 0);
    memcg_set_current(NULL);
    group_close(g);
}

/* With something in the sheaf, and something live. */
static void offline_takes_what_waits(void)
{
    struct mem_cgroup *g = group_with_child(256);

    fill(256);
    drain(0, N - 1);
    group_close(g);
    CHECK(memcg_get_current() == mem_cgroup_root());
    drain(N - 1, N);
}

static void *ender(void *arg)
{
    void **one = arg;

    *one = memcg_malloc_fast(64);
    for (int i = 0; i < 100; i++)
        memcg_free_fast(memcg_malloc_fast((size_t)i * 8 + 1));
    return NULL;
}

static void a_thread_that_ends_leaves_nothing_waiting(void)
{
    pthread_t t;
    void *one;

    start(&t, ender, &one);
    pthread_join(t, NULL);
    CHECK(objects_of(root_of(64)) == 1);
    memcg_free(one);
}

static void free_at_once_again_stops_the_program(void)
{
    struct heap_slot *slot = &load_plain(&memcg_self->heap)->kmalloc[kmalloc_index(1024)];

    fill(1024);
    CHECK(dies((void *[]){ p[order[N - 1]], p[order[N - 1]] }, 2)); /* into the sheaf */
    for (int i = 0; slot->sheaf_room > 0; i++)
        drain(i, i + 1);
    CHECK(dies((void *[]){ p[order[N - 1]], p[order[N - 1]] }, 2)); /* past it, into a full slab */
    for (int i = 0; i < N; i++)
        memcg_free_fast(p[i]);
}

/* The second free overwrites the link of an object in the sheaf, which ends too early then. */
static void a_free_past_the_sheaf_of_what_lies_in_it_stops_the_program(void)
{
    struct heap_slot *slot = &load_plain(&memcg_self->heap)->kmalloc[kmalloc_index(1024)];
    int n = 0, status;
    void *second;
    pid_t pid;

    fill(1024);
    second = p[order[1]];
    for (; slot->sheaf_room > 0; n++)
        drain(n, n + 1);
    CHECK(n > 2);
    pid = fork();
    if (!pid) {
        setrlimit(RLIMIT_CORE, &(struct rlimit){ 0, 0 });
        signal(SIGABRT, SIG_DFL);
        CHECK(freopen("/dev/null", "w", stderr));
        memcg_free_fast(second);
        memcg_trim();
        _exit(0);
    }
    CHECK(waitpid(pid, &status, 0) == pid && WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    drain(n, N);
}

int main(void)
{
    CHECK(memcg_init(NULL) == 0);
    memcg_set_promote_bytes(SIZE_MAX);
    memcg_free(memcg_malloc(1)); /* makes the thread */
    make_order();
    RUN(a_flush_keeps_neighbouring_slabs_apart);
    RUN(a_sheaf_grows_by_need);
    RUN(a_sheaf_is_bounded);
    RUN(a_sheaf_that_overflows_on_and_on_is_given_up);
    RUN(an_empty_slab_begins_anew);
    RUN(a_slab_with_one_freed_twice_never_looks_whole);
    RUN(reclaim_and_trim_take_what_waits);
    RUN(a_free_from_another_group_waits_with_its_own);
    RUN(a_child_whose_objects_all_wait_can_end);
    RUN(offline_takes_what_waits);
    RUN(a_thread_that_ends_leaves_nothing_waiting);
    RUN(free_at_once_again_stops_the_program);
    RUN(a_free_past_the_sheaf_of_what_lies_in_it_stops_the_program);
    check_nothing_is_left();
    RUN(what_waits_is_not_live);
    RUN(a_free_into_a_full_slab_moves_no_slab);
    check_nothing_is_left();
    return DONE();
}
