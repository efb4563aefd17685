/* SPDX-License-Identifier: Apache-2.0 */
/*
 * alarm.h - the table of alarms: which context of which thread must get MemcgOOM, for which group.
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
    PyObject *context; /* borrowed, for comparison only; NULL: any context of the thread in the
                        * group */
    struct memcg_failure failure;
    struct code_line doubt; /* code not NULL: the line of a refusal that may have become no
                             * MemoryError */
    int64_t rearm_usage;
    uint64_t posted;    /* its number among all posts: the lower is older */
    uint64_t delivered; /* its number among all deliveries; 0: never delivered */
    bool shielded;      /* parked until the shield ends: charges until then change nothing */
    bool again;         /* posted because usage has grown since it was delivered */
    /* delivered, and the thread was at no check since: it may still be unwinding */
    bool unseen;
};

/* What is decided about a posted alarm. */
enum verdict {
    /* the frame's next request is refused if it passes the reserve; if not, retry */
    VERDICT_DELIVER,
    VERDICT_REFUSE,
    VERDICT_RETRY,
    VERDICT_PARK,     /* until its context runs again, or charges past the limit again */
    VERDICT_SHIELDED, /* parked until the shield ends */
    VERDICT_DROP,
    VERDICT_HANDLED /* it was delivered, and its handler runs or begins here */
};

/* These are read without the lock, for a quick look. alarm.c writes them under it. */
extern int alarm_nr MEMCG_HIDDEN; /* number of entries that are not free */
extern int alarm_nr_parked MEMCG_HIDDEN;

/*
 * In a hook: the running context has met the limit of failure.limited. refused: its request gets a
 * MemoryError, which counts as the delivery. doubt: the line of an earlier refusal that may have
 * become no MemoryError, or NULL. thread, context: those that must get it. IS_DUE: it must be
 * delivered now; IS_POSTED: it had to be delivered before.
 */
enum alarm_posting { ALARM_IS_NOT_DUE, ALARM_IS_POSTED, ALARM_IS_DUE };
enum alarm_posting alarm_post(const struct memcg_failure *failure, bool refused,
                              const struct code_line *doubt, unsigned long thread,
                              PyObject *context);
/* In a hook: this thread starts to run the context. True: a parked alarm is posted again. */
bool alarm_resume(PyObject *context);
/* Copies the next posted alarm from *alarm on, and sets *alarm behind it. only: the alarms of this
 * thread; 0: of all threads but `but`. */
bool alarm_next_posted(struct alarm **alarm, struct alarm *copy, unsigned long only,
                       unsigned long but);
struct alarm *alarm_first(void); /* where alarm_next_posted() begins */
/* Stores a verdict. False: the entry has changed since the copy was made, and keeps its state. */
bool alarm_settle(const struct alarm *copy, struct alarm *alarm, enum verdict verdict);
/* Posts the alarm that was last delivered to this thread again, because the exception was lost.
 * False: there is none. */
bool alarm_repost_last(void);
/* Removes the context's alarm for a group from the table; false: there is none. */
bool alarm_take(struct mem_cgroup *memcg, PyObject *context, struct alarm *taken);
/* Counts what was taken as delivered to the context in the group `to`. */
void alarm_hand_on(const struct alarm *taken, PyObject *context, struct mem_cgroup *to);
/* The alarm that was last delivered to this thread. */
bool alarm_last(struct memcg_failure *failure);
void alarm_forget(struct mem_cgroup *memcg); /* before memcg is freed */
/* Before the interpreter ends: from now on no alarm is posted or delivered. */
void alarm_stop(void);
extern atomic_int_t alarm_stopped MEMCG_HIDDEN;
static inline bool alarm_is_stopped(void) { return load_relaxed(&alarm_stopped); }
void alarm_after_fork(void);

#endif
