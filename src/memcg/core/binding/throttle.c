/* SPDX-License-Identifier: Apache-2.0 */
/*
 * throttle.c - bounds how fast a thread takes memory after it was refused.
 *
 * A thread that is refused at its group's ceiling owes a sleep, a longer one each time.  It sleeps
 * at its next check, without the GIL, so that its grants add up slowly even if it catches every
 * exception.  At a check it also lets the worker run that memory.high has asked for: until it has
 * begun to collect garbage, or, if the group has shrinkers, until these are done.
 * memory.oom.group ends the process.
 *
 * The main thread gets to a check by a pending call; so do the others since 3.12 (delivery.c).  On
 * 3.11 the others make no pending calls, so a trace function is called once, at the thread's next
 * line.
 *
 * Kernel: mem_cgroup_handle_over_high(), mem_cgroup_get_oom_group().  Where we differ: the thread
 * that sleeps is past max and overdraft, not past high.
 * Locks: none; all of it is the thread's own.
 */
#include "throttle.h"

#include <time.h>
#include <unistd.h>

#include "current.h"
#include "worker.h"

#define SLEEP_FIRST_MS 1
#define SLEEP_DOUBLINGS 10 /* the last sleep is about 1 s */
#define PAUSE_NS (50 * 1000)
#define COLLECTOR_WAITS 100 /* pauses */
/* A shrinker may wait for a lock that this thread holds, so the wait for it is bounded too. */
#define SHRINKERS_WAITS 2000

static __thread int owed_ms;
static __thread struct mem_cgroup *owed_for; /* for comparison only */
static __thread bool awaits_collector;       /* it has called the collector and been at no check
                                              * since */
static __thread bool awaits_shrinkers;       /* the same, for a group that has some */
static void (*ask_check)(void);

void throttle_owe(struct mem_cgroup *limited, unsigned refusals)
{
    unsigned doublings = refusals - 1 < SLEEP_DOUBLINGS ? refusals - 1 : SLEEP_DOUBLINGS;

    owed_ms = SLEEP_FIRST_MS << doublings;
    owed_for = limited;
}

bool throttle_is_due(void) { return owed_ms || awaits_collector; }

/* In a hook, inside the data plane. */
static void collector_called(struct mem_cgroup *memcg)
{
    if (!current_holds_gil())
        return;
    awaits_collector = true;
    awaits_shrinkers |= mem_cgroup_has_shrinkers(memcg);
    ask_check();
}

/* True if the collector may run before this request returns.  The collector takes the GIL, which a
 * thread gives up at checks.  A thread that has called it in the same call into C still holds the
 * GIL. */
static bool collector_can_run(void)
{
    return !awaits_collector || !worker_is_starting(WORKER_EVENTS);
}

static void let_collector_run(void)
{
    bool (*at_work)(enum worker_kind) = awaits_shrinkers ? worker_is_at_work : worker_is_starting;
    int waits = awaits_shrinkers ? SHRINKERS_WAITS : COLLECTOR_WAITS;
    struct timespec pause = { 0, PAUSE_NS };

    awaits_collector = awaits_shrinkers = false;
    if (!at_work(WORKER_EVENTS))
        return;
    Py_BEGIN_ALLOW_THREADS for (int i = 0; i < waits && at_work(WORKER_EVENTS); i++)
        nanosleep(&pause, NULL);
    Py_END_ALLOW_THREADS
}

void throttle_at_check(void)
{
    struct timespec pause;

    if (awaits_collector)
        let_collector_run();
    if (!owed_ms || !current_is_below(current_context(), owed_for))
        return; /* another task runs now: the sleep is due when the refused one runs again */
    pause = (struct timespec){ owed_ms / 1000, owed_ms % 1000 * 1000000L };
    owed_ms = 0;
    Py_BEGIN_ALLOW_THREADS nanosleep(
        &pause, NULL); /* a signal ends it, and its handler runs at the next check */
    Py_END_ALLOW_THREADS memcg_has_slept();
}

static int put_line(char *text, size_t n, struct mem_cgroup *memcg)
{
    const char *path = mem_cgroup_path(memcg);
    int64_t max = mem_cgroup_get_limit(memcg, MEMCG_MAX);
    char limit[32] = "no limit";

    if (max != PAGE_COUNTER_MAX)
        snprintf(limit, sizeof(limit), "max %lld KiB", (long long)max >> 10);
    return snprintf(text, n,
                    "memcg:   %s: current %lld KiB, %s, reserve %lld KiB, overdraft %lld KiB\n",
                    path && *path ? path : "/", (long long)mem_cgroup_usage(memcg) >> 10, limit,
                    (long long)mem_cgroup_get_limit(memcg, MEMCG_RESERVE) >> 10,
                    (long long)mem_cgroup_get_limit(memcg, MEMCG_OVERDRAFT) >> 10);
}

static void put(const char *text, int n)
{
    if (write(STDERR_FILENO, text, (size_t)n) < 0)
        return; /* nothing reads it; the exit status says it */
}

/* In a hook: no Python code may run, and a thread that allocates here would be stuck. */
static void end_process(struct mem_cgroup *memcg, struct mem_cgroup *limited, unsigned refusals)
{
    const char *path = mem_cgroup_path(memcg), *whose = mem_cgroup_path(limited);
    char text[3 * 4096];

    put(text,
        snprintf(text, sizeof(text),
                 "memcg: group '%s': %u requests were refused at the ceiling of '%s' and it never "
                 "fell below memory.max; memory.oom.group ends the process\n",
                 path && *path ? path : "/", refusals, whose && *whose ? whose : "/"));
    for (; memcg; memcg = mem_cgroup_parent(memcg))
        put(text, put_line(text, sizeof(text), memcg));
    _exit(137);
}

void throttle_init(void (*ask)(void))
{
    ask_check = ask;
    memcg_set_collector(collector_called, collector_can_run);
    memcg_set_oom_group_fn(end_process);
}

void throttle_after_fork(void)
{
    awaits_collector = awaits_shrinkers = false;
    owed_ms = 0;
}
