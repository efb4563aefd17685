/* SPDX-License-Identifier: Apache-2.0 */
/*
 * alarm.h - the table of alarms: which context of which thread has to get MemcgOOM, for which group.
 */
#ifndef MEMCG_ALARM_H
#define MEMCG_ALARM_H

#include "frame.h"
#include "memcg.h"

enum alarm_state { ALARM_FREE, ALARM_POSTED, ALARM_PARKED, ALARM_DELIVERED };
struct alarm {
    enum alarm_state state;
    int attempts;
    unsigned long thread_id;
    PyObject *context; /* borrowed, for comparison only; NULL: any of the thread's in the group */
    struct memcg_failure failure;
    struct code_line doubt; /* code not NULL: its refusal may have become a MemoryError */
    int64_t rearm_usage;
    uint64_t posted;    /* a count of all posts: which is older */
    uint64_t delivered; /* 0: never; else a count of all deliveries */
    bool shielded;      /* parked until the shield ends: charges meanwhile are no news */
    bool again;         /* posted for growth since it was delivered */
    bool unseen; /* delivered, and the thread was at no check since: it may be unwinding still */
};

/* What is decided about an alarm that was posted. */
enum verdict {
    VERDICT_DELIVER,
    VERDICT_REFUSE, /* by the next request of the frame, if that goes past the reserve; else retry */
    VERDICT_RETRY,
    VERDICT_PARK,     /* until its context runs again, or charges past the limit again */
    VERDICT_SHIELDED, /* parked too, until the shield ends */
    VERDICT_DROP,
    VERDICT_HANDLED /* it was delivered, and is being handled, or that begins here */
};

/* Both read racily, for a quick look; both are written by alarm.c. */
extern int alarm_nr MEMCG_HIDDEN; /* entries that are not free */
extern int alarm_nr_parked MEMCG_HIDDEN;

/*
 * In a hook: the running context has met the limit of failure.limited.  refused: its request gets
 * a MemoryError, which says so; then the alarm counts as delivered.  doubt: where an earlier refusal may
 * have become no MemoryError, or NULL.
 * IS_DUE: it has to be delivered now; IS_POSTED: it had to be before.
 */
enum alarm_posting { ALARM_IS_NOT_DUE, ALARM_IS_POSTED, ALARM_IS_DUE };
enum alarm_posting alarm_post(const struct memcg_failure *failure, bool refused,
                              const struct code_line *doubt);
/* In a hook: the context runs, in this thread. true: an alarm that was parked is posted again. */
bool alarm_resume(PyObject *context);
/* The next that is posted, from *alarm on: a copy, and *alarm is past it. only: of this thread; 0: of all
 * but the thread `but`. */
bool alarm_next_posted(struct alarm **alarm, struct alarm *copy, unsigned long only,
                       unsigned long but);
struct alarm *alarm_first(void); /* where alarm_next_posted() begins */
/* Store a verdict, unless the entry is not what it was when the copy was made: then false. */
bool alarm_settle(const struct alarm *copy, struct alarm *alarm, enum verdict verdict);
/* Post the last that was delivered to this thread again: it was lost. false: there is none. */
bool alarm_repost_last(void);
/* Take the context's alarm of a group out; false: there is none. */
bool alarm_take(struct mem_cgroup *memcg, PyObject *context, struct alarm *taken);
/* What was taken counts as delivered to the context in the group `to`. */
void alarm_hand_on(const struct alarm *taken, PyObject *context, struct mem_cgroup *to);
bool alarm_last(struct memcg_failure *failure); /* the last that was delivered to this thread */
void alarm_forget(struct mem_cgroup *memcg);    /* before it is freed */
void alarm_stop(void); /* before the interpreter ends: none is posted or delivered from now on */
extern int alarm_stopped MEMCG_HIDDEN; /* atomic */
static inline bool alarm_is_stopped(void)
{
    return __atomic_load_n(&alarm_stopped, __ATOMIC_RELAXED);
}
void alarm_after_fork(void);

#endif
