/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stress.c - everything at once against a shadow model.  stress [operations [seed [wrong]]]
 *
 * Threads take random slots and allocate, check, resize and free the blocks in them.  They do so in
 * groups that the main thread makes, limits, promotes and closes meanwhile; now and then it forks.
 * For each block the model knows its size, its pattern and the group that is charged for it.
 * Between two epochs all threads have ended, and every account is compared with the model.
 *
 * wrong: "lost": a block is freed without the model's knowledge; "written": a byte of one is
 * overwritten; "counted": a cache has one slab less than it counts.  The program must then end with
 * a report of that.
 */
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "control.h"

enum { THREADS = 4, SLOTS = 8192, GROUPS = 24, USERS = 3, OPS = 150000, SWITCH = 100 };

struct slot {
    atomic_int_t locked;
    unsigned char *p;
    size_t size;
    unsigned char pattern;
    struct kmem_cache *user; /* NULL: from malloc */
    int account;             /* index into accounts: the group that it was allocated in */
};
static struct slot slots[SLOTS];

/* A closed group's account is kept, as its stub is, and is charged with its parent's. */
struct account {
    struct mem_cgroup *memcg; /* NULL: it is closed */
    int parent;
};
enum { MAX_ACCOUNTS = 1 << 20 };              /* in an epoch */
static struct account accounts[MAX_ACCOUNTS]; /* index 0: the root */
static int nr_accounts = 1, nr_groups;
static int open_groups[GROUPS]; /* indices into accounts; 0: no group */
static pthread_mutex_t groups_mutex = PTHREAD_MUTEX_INITIALIZER;
static struct kmem_cache *users[USERS];
static atomic_u64_t total_ops, refused;
static atomic_int_t closes_begun, closes_ended; /* by group_shut() */

struct worker {
    uint64_t random;
    int account;
};

static uint64_t next_random(struct worker *w)
{
    w->random ^= w->random << 13;
    w->random ^= w->random >> 7;
    w->random ^= w->random << 17;
    return w->random;
}

static void fill(struct slot *slot)
{
    size_t n = slot->size < 256 ? slot->size : 128;

    memset(slot->p, slot->pattern, n);
    memset(slot->p + slot->size - n, slot->pattern, n);
}

static unsigned char patterns[256][256];

static void make_patterns(void)
{
    for (int i = 0; i < 256; i++)
        memset(patterns[i], i, sizeof(patterns[i]));
}

/* tail: size is what the last fill() got. */
static void check_filled(const unsigned char *p, size_t size, unsigned char pattern, bool tail)
{
    size_t n = size < 256 && tail ? size : 128;

    CHECK(!memcmp(p, patterns[pattern], n < size ? n : size));
    CHECK(!tail || !memcmp(p + size - n, patterns[pattern], n));
}

static size_t random_size(struct worker *w)
{
    uint64_t r = next_random(w);

    if (r % 64 == 0)
        return (size_t)(r >> 20) % 500000 + 1;
    return (size_t)(r >> 20) % (r % 20 == 0 ? 20000 : 600) + 1;
}

/* A request was refused for a limit.  The thread has the account of it, unless the group that it
 * names was freed since: then a close has begun that had not ended when the request began. */
static void count_refused(int ended_before)
{
    struct memcg_failure failure;

    CHECK(memcg_last_failure(&failure) || load_acquire(&closes_begun) != ended_before);
    add_relaxed(&refused, 1);
}

static void slot_alloc(struct worker *w, struct slot *slot)
{
    uint64_t r = next_random(w);
    int ended_before = load_acquire(&closes_ended);

    slot->user = r % 16 == 0 ? users[(r >> 8) % USERS] : NULL;
    slot->size = slot->user ? kmem_cache_object_size(slot->user) : random_size(w);
    slot->p = slot->user ? kmem_cache_alloc_fast(slot->user)
              : r & 1    ? memcg_malloc_fast(slot->size)
                         : memcg_calloc(slot->size);
    if (!slot->p) {
        count_refused(ended_before); /* small ones at a ceiling only */
        return;
    }
    if (!slot->user && !(r & 1))
        check_filled(slot->p, slot->size, 0, true);
    slot->account = w->account;
    slot->pattern = (unsigned char)(r >> 32);
    fill(slot);
}

static void slot_free(struct slot *slot)
{
    check_filled(slot->p, slot->size, slot->pattern, true);
    memset(slot->p, 0xdd, slot->size < 64 ? slot->size : 64);
    if (slot->user) {
        CHECK(kmem_cache_free_fast(users[(slot->user == users[0])], slot->p) == -EINVAL);
        CHECK(kmem_cache_free_fast(slot->user, slot->p) == 0);
    } else {
        memcg_free_fast(slot->p);
    }
    slot->p = NULL;
}

static void slot_resize(struct worker *w, struct slot *slot)
{
    /* grows in place, if it can */
    size_t size = slot->size <= KMALLOC_MAX_CACHE_SIZE
                      ? random_size(w)
                      : slot->size / 2 + next_random(w) % slot->size;
    int ended_before;
    bool moves;
    unsigned char *p;

    if (slot->user)
        return;
    ended_before = load_acquire(&closes_ended);
    p = memcg_realloc(slot->p, size);
    if (!p) {
        CHECK(size > slot->size);
        count_refused(ended_before);
        return;
    }
    moves = p != slot->p;
    slot->p = p;
    check_filled(p, size < slot->size ? size : slot->size, slot->pattern, size >= slot->size);
    if (moves)
        slot->account = w->account;
    slot->size = size;
    fill(slot);
}

static void enter_random_group(struct worker *w)
{
    struct mem_cgroup *memcg = NULL;

    pthread_mutex_lock(&groups_mutex);
    w->account = open_groups[next_random(w) % GROUPS];
    if (w->account)
        memcg = accounts[w->account].memcg;
    memcg_set_current(memcg); /* under the lock, so that it is not closed in between */
    pthread_mutex_unlock(&groups_mutex);
}

static void *worker(void *arg)
{
    struct worker w = { .random = (uint64_t)(uintptr_t)arg };

    for (int i = 0; i < OPS; i++) {
        struct slot *slot = &slots[next_random(&w) % SLOTS];

        if (i % SWITCH == 0)
            enter_random_group(&w);
        if (exchange_acquire(&slot->locked, 1))
            continue;
        if (!slot->p)
            slot_alloc(&w, slot);
        else if (next_random(&w) % 8)
            slot_free(slot);
        else
            slot_resize(&w, slot);
        store_release(&slot->locked, 0);
    }
    memcg_set_current(NULL);
    add_relaxed(&total_ops, OPS);
    return NULL;
}

/* ---- the main thread's part ---- */

static void group_open(struct worker *w, int i)
{
    int parent = open_groups[next_random(w) % GROUPS], n = nr_accounts;
    struct mem_cgroup *memcg = group_try_new(parent ? accounts[parent].memcg : mem_cgroup_root());

    CHECK(n < MAX_ACCOUNTS);
    if (!memcg) {
        CHECK(parent && memcg_last_failure(&(struct memcg_failure){ 0 }));
        return;
    }
    nr_groups++;
    nr_accounts++;
    if (next_random(w) % 3 == 0) {
        mem_cgroup_set_limit(memcg, MEMCG_MAX, (int64_t)(next_random(w) % 400000));
        mem_cgroup_set_limit(memcg, MEMCG_RESERVE, (int64_t)(next_random(w) % 100000));
        mem_cgroup_set_limit(memcg, MEMCG_HIGH, (int64_t)(next_random(w) % 400000));
    }
    pthread_mutex_lock(&groups_mutex);
    accounts[n] = (struct account){ memcg, parent };
    open_groups[i] = n;
    pthread_mutex_unlock(&groups_mutex);
}

static bool has_open_child(int account)
{
    for (int i = 0; i < GROUPS; i++)
        if (open_groups[i] && accounts[open_groups[i]].parent == account)
            return true;
    return false;
}

/* Threads may still be inside.  From the unlink on, they and their blocks are the parent's. */
static void group_shut(int i)
{
    int account = open_groups[i];
    struct mem_cgroup *memcg = accounts[account].memcg;

    pthread_mutex_lock(&groups_mutex);
    open_groups[i] = 0;
    accounts[account].memcg = NULL;
    pthread_mutex_unlock(&groups_mutex);
    add_release(&closes_begun, 1);
    group_close(memcg);
    add_release(&closes_ended, 1);
}

static void fork_once(void)
{
    int status;
    pid_t pid;

    pthread_mutex_lock(&control_lock);
    pid = fork();
    pthread_mutex_unlock(&control_lock);
    if (!pid) {
        for (int i = 0; i < SLOTS; i++)
            if (!load_plain(&slots[i].locked) && slots[i].p && !slots[i].user)
                slot_free(&slots[i]);
        mem_cgroup_reclaim(mem_cgroup_root());
        _exit(0);
    }
    CHECK(waitpid(pid, &status, 0) == pid && status == 0);
}

static void stir(struct worker *w)
{
    int i = (int)(next_random(w) % GROUPS);
    struct kmem_cache_info info;

    switch (next_random(w) % 9) {
    case 0:
    case 1:
        if (!open_groups[i])
            group_open(w, i);
        else if (!has_open_child(open_groups[i]))
            group_shut(i);
        break;
    case 2:
        mem_cgroup_reclaim(mem_cgroup_root());
        break;
    case 3:
        memcg_trim();
        break;
    case 4:
        kmem_cache_read_info(root_at((int)(next_random(w) % (uint64_t)nr_roots())), &info);
        CHECK(info.active_objs <= info.num_objs);
        break;
    case 5: {
        int account = open_groups[i];
        struct mem_cgroup *memcg = account ? accounts[account].memcg : mem_cgroup_root();

        mem_cgroup_collect(memcg);
        CHECK(current_of(memcg) >= 0);
        if (account && !mem_cgroup_try_charge(memcg, 12345))
            mem_cgroup_uncharge(memcg, 12345);
        break;
    }
    case 6:
        CHECK(!memcg_find_invalid());
        break;
    case 7: {
        static const uint32_t distances[] = { 0, 0, 1000, 100000 };
        int account = open_groups[i];

        mem_cgroup_set_sampling(account ? accounts[account].memcg : mem_cgroup_root(),
                                distances[next_random(w) % 4]);
        break;
    }
    default:
        work();
    }
}

struct sum {
    int64_t bytes;
    uint64_t addresses; /* sum of the blocks' addresses, which shows that each is named once */
};
static struct sum model[MAX_ACCOUNTS];

static int pays(int account)
{
    while (account && !accounts[account].memcg)
        account = accounts[account].parent;
    return account;
}

static int add_block(void *arg, void *block, size_t size, struct kmem_cache *cache)
{
    struct sum *sum = arg;

    (void)cache;
    sum->bytes += (int64_t)size;
    sum->addresses += (uint64_t)(uintptr_t)block;
    return 0;
}

/* Runs after all workers have ended. */
static void compare_with_model(void)
{
    int64_t own = 0, of_groups = 0;

    mem_cgroup_reclaim(mem_cgroup_root());
    memset(model, 0, sizeof(model[0]) * (size_t)nr_accounts);
    for (int i = 0; i < SLOTS; i++)
        if (slots[i].p)
            add_block(&model[pays(slots[i].account)], slots[i].p, memcg_usable_size(slots[i].p),
                      NULL);
    for (int i = -1; i < GROUPS; i++) {
        int account = i < 0 ? 0 : open_groups[i];
        struct mem_cgroup *memcg = account ? accounts[account].memcg : mem_cgroup_root();
        struct mem_cgroup_stat stat;
        struct sum sum = { 0 };

        if (i >= 0 && !account)
            continue;
        mem_cgroup_for_each_block(memcg, add_block, &sum);
        mem_cgroup_read_stat(memcg, &stat);
        CHECK(sum.bytes == model[account].bytes && sum.addresses == model[account].addresses);
        CHECK(stat.usage == stat.current);
        of_groups += stat.external;
        CHECK(stat.slab_shared + stat.slab_private + stat.page_runs >= sum.bytes);
        own += stat.slab_shared + stat.slab_private + stat.page_runs;
    }
    CHECK(!memcg_find_invalid());
    CHECK(of_groups == cost_below(mem_cgroup_root()));
    CHECK(own == usage_of_group(mem_cgroup_root()) && page_counter_underflows() == 0);
}

static int account_of_open(int account)
{
    int payer = pays(account);

    for (int i = 0; payer && i < GROUPS; i++)
        if (open_groups[i] == payer)
            return i + 1;
    return 0;
}

/* Between epochs: closed groups' accounts are added to those that are charged for them. */
static void forget_closed(void)
{
    struct account open[GROUPS + 1] = { { 0 } };

    for (int i = 0; i < SLOTS; i++)
        if (slots[i].p)
            slots[i].account = account_of_open(slots[i].account);
    for (int i = 0; i < GROUPS; i++)
        if (open_groups[i])
            open[i + 1] = (struct account){ accounts[open_groups[i]].memcg,
                                            account_of_open(accounts[open_groups[i]].parent) };
    memcpy(accounts, open, sizeof(open));
    nr_accounts = GROUPS + 1;
    for (int i = 0; i < GROUPS; i++)
        open_groups[i] = open_groups[i] ? i + 1 : 0;
}

static void do_wrong(const char *what)
{
    int i = 0;

    while (!slots[i].p || slots[i].user)
        i++;
    if (!strcmp(what, "lost"))
        memcg_free(slots[i].p);
    else if (!strcmp(what, "counted"))
        add_relaxed(&kmalloc_caches[0]->nr_slabs, 1);
    else
        slots[i].p[0] ^= 1;
}

static double seconds_since(const struct timespec *start)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)(now.tv_sec - start->tv_sec) + (double)(now.tv_nsec - start->tv_nsec) / 1e9;
}

static atomic_int_t ended; /* number of workers of this epoch */

static void *worker_and_tell(void *arg)
{
    worker(arg);
    add_release(&ended, 1);
    return NULL;
}

static void epoch(struct worker *w, const char *wrong)
{
    pthread_t t[THREADS];
    bool forked = false;

    store_plain(&ended, 0);
    for (int i = 0; i < THREADS; i++)
        start(&t[i], worker_and_tell, (void *)(uintptr_t)(next_random(w) | 1));
    while (load_acquire(&ended) < THREADS) {
        stir(w);
        if (!forked && next_random(w) % 64 == 0) {
            forked = true;
            fork_once();
        }
        sched_yield();
    }
    for (int i = 0; i < THREADS; i++)
        pthread_join(t[i], NULL);
    if (wrong)
        do_wrong(wrong);
    compare_with_model();
    forget_closed();
}

int main(int argc, char **argv)
{
    uint64_t operations = argc > 1 ? strtoull(argv[1], NULL, 0) : 1;
    uint64_t seed = argc > 2 ? strtoull(argv[2], NULL, 0) : (uint64_t)time(NULL) * 2654435761u | 1;
    struct worker w = { .random = seed };
    struct timespec begin;
    int epochs = 0;

    fprintf(stderr, "stress: %llu operations, seed %llu\n", (unsigned long long)operations,
            (unsigned long long)seed);
    make_patterns();
    clock_gettime(CLOCK_MONOTONIC, &begin);
    CHECK(memcg_init(NULL) == 0);
    memcg_set_promote_bytes(4096);
    for (int i = 0; i < USERS; i++) {
        users[i] =
            kmem_cache_create_root((size_t)1 << (5 + 4 * i), 16, i & 1 ? KMEM_CACHE_ZERO : 0);
        user_roots[nr_user_roots++] = users[i];
    }
    do
        epoch(&w, argc > 3 ? argv[3] : NULL);
    while (epochs++, load_plain(&total_ops) < operations);
    for (int i = 0; i < SLOTS; i++)
        if (slots[i].p)
            slot_free(&slots[i]);
    work();
    for (int n = 0; n < GROUPS;) /* groups without children first */
        for (int i = n = 0; i < GROUPS; i++) {
            if (open_groups[i] && !has_open_child(open_groups[i]))
                group_shut(i);
            n += !open_groups[i];
        }
    check_nothing_is_left();
    CHECK(css_refs(mem_cgroup_root()) == 1);
    printf("stress: ok, %llu operations, %d epochs, %d groups, %llu refused, %d children, %.1f s\n",
           (unsigned long long)load_plain(&total_ops), epochs, nr_groups,
           (unsigned long long)load_plain(&refused), events_seen[MEMCG_EVENT_CREATE],
           seconds_since(&begin));
    return 0;
}
