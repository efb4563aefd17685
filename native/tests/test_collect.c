/* SPDX-License-Identifier: Apache-2.0 */
/* test_collect.c - the reader of a figure does not count what was freed. */
#include <sched.h>
#include <time.h>

#include "control.h"

enum { N = 20000 };
static void *blocks[N];
static struct mem_cgroup *g;

/* A thread that runs what it gets and waits. It allocates nothing by itself. */
typedef void (*todo_fn)(void);

struct hand {
    pthread_t thread;
    ATOMIC(todo_fn) todo; /* NULL: it waits */
    atomic_int_t ends;
};

static void *hand_main(void *arg)
{
    struct hand *hand = arg;

    while (!load_acquire(&hand->ends)) {
        todo_fn todo = load_acquire(&hand->todo);

        if (todo) {
            todo();
            store_release(&hand->todo, NULL);
        } else {
            sched_yield();
        }
    }
    return NULL;
}

static void tell(struct hand *hand, todo_fn todo)
{
    store_release(&hand->todo, todo);
    while (load_acquire(&hand->todo))
        sched_yield();
}

static struct hand *hand_new(void)
{
    struct hand *hand = calloc(1, sizeof(*hand));

    start(&hand->thread, hand_main, hand);
    return hand;
}

static void hand_end(struct hand *hand)
{
    store_release(&hand->ends, 1);
    pthread_join(hand->thread, NULL);
    free(hand);
}

static void enter(void) { memcg_set_current(g); }
static void go(void) { memcg_set_current(NULL); }

static void fill(void)
{
    for (int i = 0; i < N; i++)
        CHECK((blocks[i] = memcg_malloc_fast(64 + 16 * (size_t)(i % 60))));
}

static void fill_inside(void)
{
    enter();
    fill();
    go();
}

static void drain(void)
{
    for (int i = 0; i < N; i++)
        memcg_free_fast(blocks[(i * 7919) % N]);
}

static int64_t collected(struct mem_cgroup *memcg)
{
    mem_cgroup_collect(memcg);
    return current_of(memcg);
}

/* The group has children for all classes, so it has slabs, sheaves and remote frees of its own. */
static void group_with_children(struct mem_cgroup *parent)
{
    g = group_new(parent);
    for (int i = 0; i < kmalloc_nr_caches(); i++)
        child_create(g, kmalloc_cache(i));
}

static void close_group(void)
{
    group_close(g);
    work();
}

static void what_another_thread_freed_is_gone(void)
{
    struct hand *maker = hand_new();

    group_with_children(mem_cgroup_root());
    tell(maker, fill_inside);
    CHECK(collected(g) > N * 64);
    drain();
    CHECK(current_of(g) > N * 64); /* the free waits for its owner, which does nothing */
    CHECK(collected(g) == 0 && usage_of_group(g) == 0);
    hand_end(maker);
    close_group();
}

static void what_its_owner_freed_is_gone_wherever_it_stands(void)
{
    struct hand *maker = hand_new();

    group_with_children(mem_cgroup_root());
    tell(maker, fill_inside);
    tell(maker, drain); /* outside the group */
    CHECK(current_of(g) > 0);
    CHECK(collected(g) == 0);
    tell(maker, enter);
    tell(maker, fill);
    tell(maker, drain); /* inside the group, where it stays */
    CHECK(current_of(g) > 0);
    CHECK(collected(g) == 0);
    hand_end(maker);
    close_group();
}

static void what_this_thread_freed_is_gone(void)
{
    group_with_children(mem_cgroup_root());
    fill_inside();
    drain();
    CHECK(current_of(g) > 0 && collected(g) == 0);
    close_group();
}

static void shared_objects_at_hand_are_gone(void)
{
    struct hand *maker = hand_new();

    g = group_new(mem_cgroup_root());
    memcg_set_promote_bytes((size_t)1 << 40);
    tell(maker, enter);
    for (int i = 0; i < 8; i++) { /* the sheaf grows with use */
        tell(maker, fill);
        tell(maker, drain);
    }
    CHECK(current_of(g) > 0);
    CHECK(collected(g) == 0);
    hand_end(maker);
    close_group();
    memcg_set_promote_bytes(256 << 10);
}

static void only_the_group_and_those_below_are_collected(void)
{
    struct mem_cgroup *top = group_new(mem_cgroup_root()), *mid = group_new(top), *other;
    struct hand *maker = hand_new(), *third = hand_new();
    int64_t of_other;

    group_with_children(mem_cgroup_root());
    other = g;
    tell(third, fill_inside);
    tell(third, drain);
    of_other = current_of(other);
    CHECK(of_other > 0);
    group_with_children(mid);
    tell(maker, fill_inside);
    tell(maker, drain);
    CHECK(collected(top) == 0 && current_of(mid) == 0);
    CHECK(current_of(other) == of_other);
    CHECK(collected(mem_cgroup_root()) == 0);
    hand_end(maker);
    hand_end(third);
    close_group();
    g = other;
    close_group();
    g = mid;
    close_group();
    g = top;
    close_group();
}

/* A second reader finds nothing and steals no thread. */
static void a_thread_with_nothing_to_give_is_left_alone(void)
{
    struct hand *maker = hand_new();
    struct thread *t;
    int64_t live;

    group_with_children(mem_cgroup_root());
    tell(maker, fill_inside);
    live = collected(g);
    CHECK(collected(g) == live);
    for_each_thread(t) CHECK(!t->wanted);
    tell(maker, drain);
    CHECK(collected(g) == 0);
    hand_end(maker);
    close_group();
}

static atomic_int_t in_section, may_leave;

static void *stays_in_a_section(void *arg)
{
    struct thread *self = thread_enter();

    store_release(&in_section, 1);
    while (!load_acquire(&may_leave))
        sched_yield();
    thread_leave(self);
    return arg;
}

/* It returns while that thread is inside.  A reader that waited for it would wait for ever. */
static void a_reader_does_not_wait_for_a_thread_that_has_nothing(void)
{
    struct hand *maker = hand_new();
    pthread_t inside;

    group_with_children(mem_cgroup_root());
    tell(maker, fill_inside);
    tell(maker, drain);
    memcg_synchronize(); /* it wanted every thread */
    start(&inside, stays_in_a_section, NULL);
    while (!load_acquire(&in_section))
        sched_yield();
    CHECK(collected(g) == 0);
    store_release(&may_leave, 1);
    pthread_join(inside, NULL);
    hand_end(maker);
    close_group();
}

static atomic_int_t stop;

static void *allocate(void *arg)
{
    atomic_u64_t *rounds = arg;
    void *p[64];

    memcg_set_current(g);
    while (!load_relaxed(&stop)) {
        for (int i = 0; i < 64; i++)
            p[i] = memcg_malloc_fast(64 + 16 * (size_t)(i % 16));
        for (int i = 0; i < 64; i++)
            memcg_free_fast(p[i]);
        add_relaxed(rounds, 1);
    }
    memcg_set_current(NULL);
    return NULL;
}

static uint64_t ns(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

/* A walk that stops other threads says when the next may start: after four times as long as it
 * took. */
static void a_reader_in_a_loop_leaves_others_most_of_the_time(void)
{
    enum { WALKS = 20 };
    atomic_u64_t rounds[2] = { { 0 }, { 0 } };
    int walks = 0;
    pthread_t t[2];

    group_with_children(mem_cgroup_root());
    store_plain(&stop, 0);
    for (int i = 0; i < 2; i++)
        start(&t[i], allocate, &rounds[i]);
    while (!load_relaxed(&rounds[0]) || !load_relaxed(&rounds[1]))
        sched_yield();
    while (walks < WALKS) {
        uint64_t before = collect_not_before;

        mem_cgroup_collect(g);
        if (collect_not_before != before) {
            CHECK(ns() > before);
            walks++;
        }
        sched_yield(); /* so that the threads have free objects again */
    }
    store_relaxed(&stop, 1);
    for (int i = 0; i < 2; i++)
        pthread_join(t[i], NULL);
    CHECK(collected(g) == 0);
    close_group();
}

/* Between fork's handlers this thread is the walker. */
static int handlers_run;

static void in_a_forks_handler(void)
{
    CHECK(current_of(g) > 0); /* the fork does not wait for itself */
    mem_cgroup_collect(g);
    handlers_run++;
}

static void a_fork_and_its_child_can_read(void)
{
    struct hand *maker = hand_new();
    int status;
    pid_t pid;

    group_with_children(mem_cgroup_root());
    tell(maker, fill_inside);
    drain();
    pid = fork();
    if (!pid)
        _exit(collected(g) != 0 || handlers_run != 2);
    CHECK(waitpid(pid, &status, 0) == pid && status == 0);
    CHECK(handlers_run == 2);
    CHECK(collected(g) == 0);
    hand_end(maker);
    close_group();
}

int main(void)
{
    /* Registered before memcg's, so that they run between its handlers. */
    CHECK(!pthread_atfork(in_a_forks_handler, in_a_forks_handler, in_a_forks_handler));
    CHECK(memcg_init(NULL) == 0);
    RUN(what_another_thread_freed_is_gone);
    RUN(what_its_owner_freed_is_gone_wherever_it_stands);
    RUN(what_this_thread_freed_is_gone);
    RUN(shared_objects_at_hand_are_gone);
    RUN(only_the_group_and_those_below_are_collected);
    RUN(a_thread_with_nothing_to_give_is_left_alone);
    RUN(a_reader_does_not_wait_for_a_thread_that_has_nothing);
    RUN(a_reader_in_a_loop_leaves_others_most_of_the_time);
    RUN(a_fork_and_its_child_can_read);
    check_nothing_is_left();
    return DONE();
}
