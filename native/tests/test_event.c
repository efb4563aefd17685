/* SPDX-License-Identifier: Apache-2.0 */
/* test_event.c - the queue: no event is lost, none is delivered twice, every first post wakes. */
#include <sys/wait.h>
#include <unistd.h>

#include "control.h"

enum { POSTERS = 4, GROUPS = 500 };
static struct mem_cgroup *groups[POSTERS][GROUPS];
static atomic_int_t wakes;

static void waker(void) { add_seq_cst(&wakes, 1); }

static void *poster(void *arg)
{
    for (int i = 0; i < GROUPS; i++) {
        mem_cgroup_offline(groups[(uintptr_t)arg][i]);
        css_put(groups[(uintptr_t)arg][i]); /* the last reference, so RELEASE is posted */
    }
    return NULL;
}

/* The consumer sleeps while the queue is empty, so a lost wake would make the test hang for a
 * while. */
static void every_release_is_posted_once_and_no_wake_is_lost(void)
{
    pthread_t t[POSTERS];
    struct memcg_event event;
    int n = 0, seen = 0;

    work();
    for (int k = 0; k < POSTERS; k++)
        for (int i = 0; i < GROUPS; i++)
            groups[k][i] = group_new(mem_cgroup_root());
    memcg_set_waker(waker);
    for (uintptr_t k = 0; k < POSTERS; k++)
        start(&t[k], poster, (void *)k);
    for (int idle = 0; n < POSTERS * GROUPS;) {
        if (load_seq_cst(&wakes) == seen) {
            CHECK(++idle < 100000000);
            sched_yield();
            continue;
        }
        idle = 0;
        seen = load_seq_cst(&wakes);
        while (memcg_next_event(&event)) {
            CHECK(event.kind == MEMCG_EVENT_RELEASE && mem_cgroup_owner(event.memcg) == NULL);
            /* marks it, so that a second delivery is found */
            mem_cgroup_set_owner(event.memcg, event.memcg);
            n++;
            handle_event(&event);
        }
    }
    for (int k = 0; k < POSTERS; k++)
        pthread_join(t[k], NULL);
    CHECK(!memcg_next_event(&event) && load_plain(&wakes) <= n);
    memcg_set_waker(NULL);
    check_nothing_is_left();
}

static void high_is_posted_once_per_crossing(void)
{
    struct mem_cgroup *g = group_new(mem_cgroup_root());

    mem_cgroup_set_limit(g, MEMCG_HIGH, 1000000);
    events_seen[MEMCG_EVENT_HIGH] = 0;
    for (int round = 1; round < 4; round++) {
        mem_cgroup_charge(g, 900000);
        CHECK(work() == 0);
        mem_cgroup_charge(g, 200000);
        mem_cgroup_charge(g, 200000);
        CHECK(work() == 1 && events_seen[MEMCG_EVENT_HIGH] == round);
        mem_cgroup_uncharge(g, 350000); /* below high, but not by an eighth */
        mem_cgroup_charge(g, 350000);
        CHECK(work() == 0);
        mem_cgroup_uncharge(g, 1300000);
    }
    group_close(g);
    check_nothing_is_left();
}

static int failures; /* number of wakes that are to fail */

static void failing_waker(void)
{
    waker();
    if (failures-- > 0)
        memcg_not_woken();
}

static void a_waker_that_failed_is_called_by_the_next_post(void)
{
    struct mem_cgroup *g[4];

    for (int i = 0; i < 4; i++)
        g[i] = group_new(mem_cgroup_root());
    memcg_set_waker(failing_waker);
    store_plain(&wakes, 0);
    failures = 2;
    for (int i = 0; i < 4; i++) {
        mem_cgroup_offline(g[i]);
        css_put(g[i]);
        CHECK(load_plain(&wakes) == (i < 3 ? i + 1 : 3));
    }
    memcg_set_waker(NULL);
    CHECK(work() == 4);
    check_nothing_is_left();
}

/* The parent's worker was woken. That must not keep the child's worker from being woken. */
static void the_child_of_a_fork_is_woken_for_its_first_post(void)
{
    struct mem_cgroup *a = group_new(mem_cgroup_root()), *b = group_new(mem_cgroup_root());
    int status;
    pid_t pid;

    memcg_set_waker(waker);
    mem_cgroup_offline(a);
    css_put(a);
    pid = fork();
    if (!pid) {
        store_plain(&wakes, 0);
        mem_cgroup_offline(b);
        css_put(b);
        _exit(load_plain(&wakes) == 1 && work() == 2 ? 0 : 1);
    }
    CHECK(waitpid(pid, &status, 0) == pid && status == 0);
    memcg_set_waker(NULL);
    group_close(b);
    check_nothing_is_left();
}

int main(void)
{
    CHECK(memcg_init(NULL) == 0);
    memcg_set_promote_bytes(SIZE_MAX);
    RUN(every_release_is_posted_once_and_no_wake_is_lost);
    RUN(high_is_posted_once_per_crossing);
    RUN(a_waker_that_failed_is_called_by_the_next_post);
    RUN(the_child_of_a_fork_is_woken_for_its_first_post);
    return DONE();
}
