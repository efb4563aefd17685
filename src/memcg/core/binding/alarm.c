/* SPDX-License-Identifier: Apache-2.0 */
/*
 * alarm.c - the table of alarms: which context of which thread must get MemcgOOM, for which group.
 *
 * A hook that meets a limit posts an entry.  The entry is parked while it cannot be delivered,
 * until its context runs again or charges past the limit once more.  It is delivered when the
 * exception has been handed to the thread.  Then it stays in the table for two reasons: the
 * exception can be asked for its text, and the memory that unwinding and handling take raises no
 * new alarm, because growth is counted from where the handler begins.  Leaving the group removes
 * the entry.
 *
 *     free -> posted <-> parked
 *              |  ^
 *              v  | usage has grown, or the exception was lost
 *           delivered
 *
 * delivery.c raises the exception; verdict.c decides whether it may be raised.
 *
 * Locks: alarm_lock, a leaf; held for a scan of the table, by hooks too.
 */
#include "alarm.h"

#include "current.h"
#include "refusal.h"

#define NR_ALARMS 256
#define ATTEMPTS 400                  /* tries in about 4 s, after which it is parked */
#define REARM_STEP ((int64_t)1 << 20) /* bytes of growth past the limit until the next alarm */

static struct alarm alarms[NR_ALARMS]; /* alarm_lock */
static pthread_mutex_t alarm_lock = PTHREAD_MUTEX_INITIALIZER;
static uint64_t nr_posts, nr_deliveries; /* alarm_lock */
int alarm_nr, alarm_nr_parked;           /* written under alarm_lock, read without it */
static atomic_u64_t nr_changes;          /* changes of any entry; written under alarm_lock */
atomic_int_t alarm_stopped;

static void set_state(struct alarm *alarm, enum alarm_state state)
{
    alarm_nr += (state != ALARM_FREE) - (alarm->state != ALARM_FREE);
    alarm_nr_parked += (state == ALARM_PARKED) - (alarm->state == ALARM_PARKED);
    alarm->state = state;
    store_release(&nr_changes, load_plain(&nr_changes) + 1);
    if (state == ALARM_POSTED)
        alarm->attempts = 0;
}

static struct alarm *find_alarm(unsigned long thread_id, PyObject *context,
                                struct mem_cgroup *memcg)
{
    struct alarm *alarm;

    for (alarm = alarms; alarm < alarms + NR_ALARMS; alarm++)
        if (alarm->state != ALARM_FREE && alarm->failure.memcg == memcg &&
            alarm->context == context && (context || alarm->thread_id == thread_id))
            return alarm;
    return NULL;
}

/* The context's entry, or the thread's if the context has none. */
static struct alarm *find_either(unsigned long thread_id, PyObject *context,
                                 struct mem_cgroup *memcg)
{
    struct alarm *alarm = find_alarm(thread_id, context, memcg);

    return alarm ? alarm : find_alarm(thread_id, NULL, memcg);
}

/* True if the entry's context does not run: it is parked, or about to be because this thread runs
 * another. */
static bool is_suspended(const struct alarm *alarm, unsigned long me, PyObject *context)
{
    return alarm->state == ALARM_PARKED ||
           (alarm->state == ALARM_POSTED && alarm->thread_id == me && alarm->context != context);
}

/* Returns a free entry.  If there is none, it returns a delivered one, which can only be asked for
 * its text; and if there is none of those, the one that has been suspended longest.  The context of
 * that one has probably ended; if it charges again, it is posted again. */
static struct alarm *new_alarm(unsigned long me, PyObject *context)
{
    struct alarm *alarm, *delivered = NULL, *suspended = NULL;

    for (alarm = alarms; alarm < alarms + NR_ALARMS; alarm++) {
        if (alarm->state == ALARM_FREE)
            return alarm;
        if (alarm->state == ALARM_DELIVERED)
            delivered = alarm;
        if (is_suspended(alarm, me, context) && (!suspended || alarm->posted < suspended->posted))
            suspended = alarm;
    }
    return delivered ? delivered : suspended;
}

/* The thread is at a check.  How far usage has grown until here does not matter. */
static void mark_handled(struct alarm *alarm)
{
    set_state(alarm, ALARM_DELIVERED);
    alarm->unseen = false;
    alarm->rearm_usage = mem_cgroup_usage(alarm->failure.limited) + REARM_STEP;
    mem_cgroup_set_alarmed(alarm->failure.memcg, MEMCG_ALARMED);
}

static void mark_delivered(struct alarm *alarm)
{
    mark_handled(alarm);
    alarm->delivered = ++nr_deliveries;
    alarm->unseen = true;
}

/* The result of this thread's last charge past a limit.  As long as no entry changes, a similar
 * charge has the same result. */
static __thread struct {
    uint64_t changes;
    struct mem_cgroup *memcg;
    PyObject *context;
    int64_t due_at; /* bytes of usage */
    bool is_posted, is_shielded;
} last_post;

static bool is_like_last_post(struct mem_cgroup *memcg, PyObject *context, int64_t usage)
{
    return last_post.changes == load_acquire(&nr_changes) && last_post.memcg == memcg &&
           last_post.context == context && usage < last_post.due_at &&
           (last_post.is_posted || last_post.is_shielded ||
            mem_cgroup_alarmed(memcg) == MEMCG_ALARMED);
}

static bool has_grown(const struct alarm *alarm, int64_t usage)
{
    return alarm->state == ALARM_DELIVERED &&
           mem_cgroup_alarmed(alarm->failure.memcg) == MEMCG_ALARMED && usage >= alarm->rearm_usage;
}

static void remember_post(struct mem_cgroup *memcg, PyObject *context, const struct alarm *alarm)
{
    last_post.changes = load_plain(&nr_changes);
    last_post.memcg = memcg;
    last_post.context = context;
    last_post.is_posted = alarm && alarm->state == ALARM_POSTED;
    last_post.is_shielded = alarm && alarm->state == ALARM_PARKED && alarm->shielded;
    last_post.due_at = last_post.is_posted || last_post.is_shielded ? INT64_MAX
                       : alarm && alarm->state == ALARM_DELIVERED   ? alarm->rearm_usage
                                                                    : INT64_MIN;
}

enum alarm_posting alarm_post(const struct memcg_failure *failure, bool refused,
                              const struct code_line *doubt, unsigned long thread,
                              PyObject *context)
{
    struct mem_cgroup *memcg = failure->memcg;
    int64_t usage = failure->current;
    bool due, is_posted;
    struct alarm *alarm;

    if (!refused && !doubt && is_like_last_post(memcg, context, usage))
        return last_post.is_posted ? ALARM_IS_POSTED : ALARM_IS_NOT_DUE;
    pthread_mutex_lock(&alarm_lock);
    alarm = find_either(thread, context, memcg);
    is_posted = alarm && alarm->state == ALARM_POSTED;
    due = doubt || !alarm || (alarm->state == ALARM_PARKED && !alarm->shielded) ||
          (alarm->state == ALARM_DELIVERED &&
           (mem_cgroup_alarmed(memcg) != MEMCG_ALARMED || usage >= alarm->rearm_usage));
    if (!alarm && (alarm = new_alarm(thread, context)))
        alarm->delivered = 0;
    if (alarm && (due || refused)) { /* no alarm: hundreds wait, and the next charge tries again */
        alarm->again = !doubt && has_grown(alarm, usage);
        alarm->unseen &= alarm->again;
        alarm->thread_id = thread;
        /* A callback's context may run only the library's code. */
        alarm->context = refusal_is_unheard() ? NULL : context;
        alarm->posted = ++nr_posts;
        alarm->failure = *failure;
        alarm->doubt = doubt ? *doubt : (struct code_line){ 0 };
        /* the MemoryError at this line says so, and there is room to handle it */
        if (refused)
            mark_delivered(alarm);
        else
            set_state(alarm, ALARM_POSTED);
    }
    remember_post(memcg, context, alarm);
    due &= alarm && !refused;
    pthread_mutex_unlock(&alarm_lock);
    return due ? ALARM_IS_DUE : is_posted ? ALARM_IS_POSTED : ALARM_IS_NOT_DUE;
}

static bool is_inside(struct mem_cgroup *memcg)
{
    PyObject *entry = (PyObject *)current_key.entry;

    for (; entry && entry != Py_None; entry = ((struct entry *)entry)->previous)
        if (((struct entry *)entry)->c == memcg)
            return true;
    return memcg == mem_cgroup_root();
}

bool alarm_resume(PyObject *context)
{
    unsigned long me = py_this_thread();
    bool found = false;

    pthread_mutex_lock(&alarm_lock);
    for (struct alarm *alarm = alarms; alarm < alarms + NR_ALARMS; alarm++)
        if (alarm->state == ALARM_PARKED &&
            (alarm->context ? alarm->context == context
                            : alarm->thread_id == me && is_inside(alarm->failure.memcg))) {
            alarm->thread_id = me;
            set_state(alarm, ALARM_POSTED);
            found = true;
        }
    pthread_mutex_unlock(&alarm_lock);
    return found;
}

struct alarm *alarm_first(void) { return alarms; }

bool alarm_next_posted(struct alarm **alarm, struct alarm *copy, unsigned long only,
                       unsigned long but)
{
    bool found = false;

    pthread_mutex_lock(&alarm_lock);
    for (; !found && *alarm < alarms + NR_ALARMS; ++*alarm)
        if ((*alarm)->state == ALARM_POSTED &&
            (only ? (*alarm)->thread_id == only : (*alarm)->thread_id != but)) {
            *copy = **alarm;
            found = true;
        }
    pthread_mutex_unlock(&alarm_lock);
    return found;
}

bool alarm_settle(const struct alarm *copy, struct alarm *alarm, enum verdict verdict)
{
    bool same;

    pthread_mutex_lock(&alarm_lock);
    same = !alarm_is_stopped() && alarm->state == ALARM_POSTED &&
           alarm->thread_id == copy->thread_id && alarm->context == copy->context &&
           alarm->failure.memcg == copy->failure.memcg;
    if (same && verdict == VERDICT_DELIVER) {
        mark_delivered(alarm);
        mem_cgroup_count_event(alarm->failure.limited, MEMCG_EV_OOM_KILL);
    } else if (same && verdict == VERDICT_HANDLED) {
        mark_handled(alarm);
    } else if (same && verdict == VERDICT_DROP) {
        set_state(alarm, ALARM_FREE);
    } else if (same && (verdict == VERDICT_PARK || verdict == VERDICT_SHIELDED ||
                        ++alarm->attempts > ATTEMPTS)) {
        alarm->shielded = verdict == VERDICT_SHIELDED;
        set_state(alarm, ALARM_PARKED);
    }
    pthread_mutex_unlock(&alarm_lock);
    return same;
}

bool alarm_repost_last(void)
{
    unsigned long me = py_this_thread();
    struct alarm *last = NULL;

    pthread_mutex_lock(&alarm_lock);
    for (struct alarm *alarm = alarms; alarm < alarms + NR_ALARMS; alarm++)
        if (alarm->state == ALARM_DELIVERED && alarm->thread_id == me &&
            (!last || alarm->delivered > last->delivered))
            last = alarm;
    if (last) {
        last->again = last->unseen = false;
        set_state(last, ALARM_POSTED);
    }
    pthread_mutex_unlock(&alarm_lock);
    return last;
}

bool alarm_take(struct mem_cgroup *memcg, PyObject *context, struct alarm *taken)
{
    struct alarm *alarm;

    pthread_mutex_lock(&alarm_lock);
    alarm = find_either(py_this_thread(), context, memcg);
    if (alarm) {
        *taken = *alarm;
        set_state(alarm, ALARM_FREE);
    }
    pthread_mutex_unlock(&alarm_lock);
    return alarm;
}

void alarm_hand_on(const struct alarm *taken, PyObject *context, struct mem_cgroup *to)
{
    struct alarm *alarm;

    pthread_mutex_lock(&alarm_lock);
    alarm = find_alarm(taken->thread_id, context, to);
    if (!alarm && (alarm = new_alarm(taken->thread_id, context))) {
        *alarm = (struct alarm){ .state = alarm->state,
                                 .thread_id = taken->thread_id,
                                 .context = context,
                                 .failure = taken->failure,
                                 .posted = ++nr_posts };
        alarm->failure.memcg = to;
        mark_delivered(alarm);
    }
    pthread_mutex_unlock(&alarm_lock);
}

bool alarm_last(struct memcg_failure *failure)
{
    unsigned long me = py_this_thread();
    uint64_t last = 0;

    pthread_mutex_lock(&alarm_lock);
    for (struct alarm *alarm = alarms; alarm < alarms + NR_ALARMS; alarm++)
        if (alarm->state != ALARM_FREE && alarm->thread_id == me && alarm->delivered > last) {
            last = alarm->delivered; /* it may be posted again already, because unwinding needs
                                      * memory */
            *failure = alarm->failure;
        }
    pthread_mutex_unlock(&alarm_lock);
    return last > 0;
}

void alarm_forget(struct mem_cgroup *memcg)
{
    if (!alarm_nr)
        return;
    pthread_mutex_lock(&alarm_lock);
    for (struct alarm *alarm = alarms; alarm < alarms + NR_ALARMS; alarm++)
        if (alarm->failure.memcg == memcg || alarm->failure.limited == memcg)
            set_state(alarm, ALARM_FREE);
    pthread_mutex_unlock(&alarm_lock);
}

void alarm_stop(void) { store_relaxed(&alarm_stopped, 1); }

void alarm_after_fork(void)
{
    pthread_mutex_init(&alarm_lock, NULL);
    if (nr_posts) /* if not, the table was never written and its memory need not be touched */
        memset(alarms, 0, sizeof(alarms));
    alarm_nr = alarm_nr_parked = 0;
}
