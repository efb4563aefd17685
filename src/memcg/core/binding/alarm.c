/*
 * alarm.c - raising MemcgOOM in the offender, never anywhere else.
 *
 * A hook that charged past a limit only notes the alarm: thread, context, group.  Delivery
 * holds the GIL and looks first:
 *
 *   - the thread state is the only one with that thread id (a thread being started may
 *     carry its parent's);
 *   - the thread is in the context the charge came from, and that context still in the group;
 *   - the group is not shielded, no exception is pending, and no trace or profile function runs,
 *     which CPython would take out;
 *   - its innermost frame is not in a library that holds locks of its own, and no frame near it
 *     is a finalizer or a context manager's exit;
 *   - it stands at an instruction after which CPython checks for exceptions before
 *     anything else can happen, a task's suspension least of all, and where an exception
 *     leaves nothing half done (instruction.c).
 *
 * Before that, garbage is collected once per alarm, unless memory.high had it done meanwhile or it
 * was in vain of late.  What unwinding and handling an alarm takes is no new one: growth counts from
 * where the handler begins, and not while it runs; it may go as far as the ceiling (throttle.c).
 * Else it is tried again, then parked until the context runs again or the thread charges
 * past the limit once more.  Leaving the group takes an alarm back that was not raised yet.
 *
 * The main thread delivers to itself at its next check (Py_AddPendingCall); so do the others
 * since 3.12, when the worker asks; on 3.11 the worker delivers (PyThreadState_SetAsyncExc).
 *
 * Locks: alarm_lock, a leaf; held for a scan of the table, by hooks too.
 */
#include <pthread.h>
#include <time.h>

#include "binding.h"

#define NR_ALARMS 256
#define LEAVING_WAITS 100 /* ms for a collection of another thread */
#define ATTEMPTS 400 /* about 4 s of tries, then it is parked */
#define SWITCHES 16 /* a greenlet may be back before it allocates: its only check may be there */
#define NEAR_FRAMES 16
#define FUTILE (128 << 10)             /* a collection that frees less need not be repeated */
#define VAIN_FREE 2  /* collections in vain in a row without a pause */
#define VAIN_PAUSE 8 /* then the group's next comes when so many times as long has passed */
#define SPARED_BYTES ((size_t)256 << 10)
#define CHAIN 8 /* exceptions looked at for a MemoryError, from one to its context */
#define REARM_STEP ((int64_t)1 << 20) /* growth past the limit before it is raised again */

enum alarm_state { ALARM_FREE, ALARM_POSTED, ALARM_PARKED, ALARM_DELIVERED };
struct alarm {
    enum alarm_state state;
    int attempts;
    unsigned long thread_id;
    PyObject *context; /* borrowed, for comparison only; NULL: any of the thread's in the group */
    struct memcg_failure failure;
    struct caller_line doubt; /* code not NULL: its refusal may have become a MemoryError */
    int64_t rearm_usage;
    uint64_t posted;    /* a count of all posts: which is older */
    uint64_t delivered; /* 0: never; else a count of all deliveries */
    bool shielded; /* parked until the shield ends: charges meanwhile are no news */
    bool again;  /* posted for growth since it was delivered */
    bool unseen; /* delivered, and the thread was at no check since: it may be unwinding still */
};

static struct alarm alarms[NR_ALARMS]; /* alarm_lock */
static pthread_mutex_t alarm_lock = PTHREAD_MUTEX_INITIALIZER;
static uint64_t nr_posts, nr_deliveries; /* alarm_lock */
static int nr_alarms, nr_parked; /* written under alarm_lock, read racily */
static uint64_t nr_changes;      /* atomic: of any entry; written under alarm_lock */
static int stopped;              /* atomic */
static int pending_call;         /* atomic: a call is on its way to the main thread */
static unsigned long main_thread;
static PyObject *oom_class, *guarded_functions, *collect, *find_error;
static PyObject *unraisable_hook; /* the code of sys.unraisablehook; for comparison only */

static unsigned long this_thread(void) { return (unsigned long)pthread_self(); }

static void set_state(struct alarm *alarm, enum alarm_state state)
{
    nr_alarms += (state != ALARM_FREE) - (alarm->state != ALARM_FREE);
    nr_parked += (state == ALARM_PARKED) - (alarm->state == ALARM_PARKED);
    alarm->state = state;
    __atomic_store_n(&nr_changes, nr_changes + 1, __ATOMIC_RELEASE);
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

/* The context's, else the thread's. */
static struct alarm *find_either(unsigned long thread_id, PyObject *context,
                                 struct mem_cgroup *memcg)
{
    struct alarm *alarm = find_alarm(thread_id, context, memcg);

    return alarm ? alarm : find_alarm(thread_id, NULL, memcg);
}

/* Its context does not run: parked, or about to be, for this thread runs another. */
static bool is_suspended(const struct alarm *alarm, unsigned long me, PyObject *context)
{
    return alarm->state == ALARM_PARKED || (alarm->state == ALARM_POSTED &&
                                            alarm->thread_id == me && alarm->context != context);
}

/* A free entry; else one that was delivered and can only be asked for its text; else the one
 * suspended longest: its context has likely ended, and is posted again if it charges again. */
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

static int deliver_here(void *unused);

/*
 * Other threads.  3.11 looks for an asynchronous exception after it has given up the GIL at a
 * check and got it back, so one that is set meanwhile comes at the place that was judged.  3.13
 * looks before, and raises at the next check, which may be in an __exit__.  Since 3.12 a
 * pending call can go to whatever thread is next at a check: most often the one that asks, as
 * it has the GIL.  It looks whether it is the one.
 */
static int pending_anywhere; /* atomic */

#if PY_VERSION_HEX >= 0x030c0000
extern int _PyEval_AddPendingCall(PyInterpreterState *, int (*)(void *), void *, int main_only);

static int deliver_anywhere(void *unused);

static void ask_all_threads(void)
{
    if (!__atomic_load_n(&pending_anywhere, __ATOMIC_RELAXED) &&
        !__atomic_exchange_n(&pending_anywhere, 1, __ATOMIC_SEQ_CST) &&
        _PyEval_AddPendingCall(PyInterpreterState_Main(), deliver_anywhere, NULL, 0))
        __atomic_store_n(&pending_anywhere, 0, __ATOMIC_SEQ_CST);
}
#else
static void ask_all_threads(void) {}
#endif

static void call_for_delivery(unsigned long thread_id)
{
    if (thread_id != main_thread)
        ask_all_threads();
    else if (!__atomic_exchange_n(&pending_call, 1, __ATOMIC_SEQ_CST) &&
             Py_AddPendingCall(deliver_here, NULL) == 0)
        return;
    worker_wake(WORKER_ALARM);
}

/* The thread is at a check: what it has grown by until here is no matter. */
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

/* What this thread's last charge past a limit came to: as long as no entry changes, one like it comes to
 * the same. */
static __thread struct {
    uint64_t changes;
    struct mem_cgroup *memcg;
    PyObject *context;
    int64_t due_at; /* bytes of usage */
    bool is_posted, is_shielded;
} last_post;

static bool is_like_last_post(struct mem_cgroup *memcg, PyObject *context, int64_t usage)
{
    return last_post.changes == __atomic_load_n(&nr_changes, __ATOMIC_ACQUIRE) &&
           last_post.memcg == memcg && last_post.context == context && usage < last_post.due_at &&
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
    last_post.changes = nr_changes;
    last_post.memcg = memcg;
    last_post.context = context;
    last_post.is_posted = alarm && alarm->state == ALARM_POSTED;
    last_post.is_shielded = alarm && alarm->state == ALARM_PARKED && alarm->shielded;
    last_post.due_at = last_post.is_posted || last_post.is_shielded ? INT64_MAX
                       : alarm && alarm->state == ALARM_DELIVERED ? alarm->rearm_usage
                                                                  : INT64_MIN;
}

/* In a hook, inside the data plane. */
static void alarm_post(struct mem_cgroup *memcg, struct mem_cgroup *limited, size_t bytes,
                       enum memcg_outcome outcome, unsigned refusals)
{
    unsigned long me = this_thread();
    PyObject *context = current_key.context;
    int64_t usage = mem_cgroup_usage(limited);
    struct memcg_failure failure = { memcg, limited, bytes, usage,
                                     mem_cgroup_get_limit(limited, MEMCG_MAX) };
    struct caller_line doubt = { 0 };
    bool refused = outcome != MEMCG_CHARGED, doubtful, due = false, is_posted = true;
    struct alarm *alarm;

    if (__atomic_load_n(&stopped, __ATOMIC_RELAXED))
        return;
    if (outcome == MEMCG_REFUSED_AT_CEILING)
        throttle_owe(limited, refusals);
    if (unlikely(throttle_is_due()))
        alarm_ask_check();
    doubtful = refused && refusal_note(&failure, &doubt);
    refused &= !doubtful;
    if (refused || doubtful || !is_like_last_post(memcg, context, usage)) {
        pthread_mutex_lock(&alarm_lock);
        alarm = find_either(me, context, memcg);
        is_posted = alarm && alarm->state == ALARM_POSTED;
        due = doubtful || !alarm || (alarm->state == ALARM_PARKED && !alarm->shielded) ||
              (alarm->state == ALARM_DELIVERED &&
               (mem_cgroup_alarmed(memcg) != MEMCG_ALARMED || usage >= alarm->rearm_usage));
        if (!alarm && (alarm = new_alarm(me, context)))
            alarm->delivered = 0;
        if (alarm && (due || refused)) { /* no alarm: hundreds wait; the next charge tries again */
            alarm->again = !doubtful && has_grown(alarm, usage);
            alarm->unseen &= alarm->again;
            alarm->thread_id = me;
            /* A callback's context may run nothing but the library's code. */
            alarm->context = refusal_is_unheard() ? NULL : context;
            alarm->posted = ++nr_posts;
            alarm->failure = failure;
            alarm->doubt = doubtful ? doubt : (struct caller_line){ 0 };
            if (refused) /* the MemoryError at this line says it; there is room to handle it */
                mark_delivered(alarm);
            else
                set_state(alarm, ALARM_POSTED);
        }
        remember_post(memcg, context, alarm);
        due &= alarm && !refused;
        pthread_mutex_unlock(&alarm_lock);
    } else {
        is_posted = last_post.is_posted;
    }
    if (due)
        call_for_delivery(me);
    else if (is_posted && me != main_thread)
        ask_all_threads(); /* another thread may have come first */
}

void alarm_ask_check(void)
{
#if PY_VERSION_HEX < 0x030c0000
    if (this_thread() != main_thread) {
        throttle_ask_line();
        return;
    }
#endif
    if (current_holds_gil())
        call_for_delivery(this_thread());
}

static bool is_inside(struct mem_cgroup *memcg)
{
    PyObject *entry = (PyObject *)current_key.entry;

    for (; entry && entry != Py_None; entry = ((struct entry *)entry)->previous)
        if (((struct entry *)entry)->c == memcg)
            return true;
    return memcg == mem_cgroup_root();
}

void alarm_resume(PyObject *context)
{
    unsigned long me = this_thread();
    bool call = false;

    if (likely(!nr_parked) || !context)
        return;
    pthread_mutex_lock(&alarm_lock);
    for (struct alarm *alarm = alarms; alarm < alarms + NR_ALARMS; alarm++)
        if (alarm->state == ALARM_PARKED &&
            (alarm->context ? alarm->context == context
                            : alarm->thread_id == me && is_inside(alarm->failure.memcg))) {
            alarm->thread_id = me;
            set_state(alarm, ALARM_POSTED);
            call = true;
        }
    pthread_mutex_unlock(&alarm_lock);
    if (call)
        call_for_delivery(me);
}

/* ---- may it be delivered now? GIL held; allocates, but never collects ----- */

static PyThreadState *only_tstate(unsigned long thread_id, int *count)
{
    PyThreadState *tstate, *found = NULL;

    *count = 0;
    tstate = PyInterpreterState_ThreadHead(PyInterpreterState_Main());
    for (; tstate; tstate = PyThreadState_Next(tstate))
        if (tstate->thread_id == thread_id) {
            found = tstate;
            ++*count;
        }
    return *count == 1 ? found : NULL;
}

static bool is_guarded(PyFrameObject *frame, bool innermost)
{
    PyCodeObject *code = PyFrame_GetCode(frame);
    bool guarded = PySet_Contains(guarded_functions, code->co_name) == 1 ||
                   (PyObject *)code == unraisable_hook;

    if (innermost && !guarded) {
        PyObject *globals = PyFrame_GetGlobals(frame);

        guarded = refusal_is_guarded(globals);
        Py_DECREF(globals);
    }
    Py_DECREF(code);
    return guarded;
}

static bool has_frame(PyThreadState *tstate)
{
    PyFrameObject *frame = PyThreadState_GetFrame(tstate);

    Py_XDECREF(frame);
    return frame != NULL;
}

static enum place place_now(PyThreadState *tstate, bool self)
{
    PyFrameObject *frame = PyThreadState_GetFrame(tstate);
    enum place place = frame ? instruction_place(frame, self) : PLACE_NO;

    for (int i = 0; frame && i < NEAR_FRAMES; i++) {
        PyFrameObject *back;

        if (is_guarded(frame, i == 0))
            place = PLACE_NO;
        back = place ? PyFrame_GetBack(frame) : NULL;
        Py_DECREF(frame);
        frame = back;
    }
    Py_XDECREF(frame);
    return place;
}

static bool is_memory_error(PyObject *error)
{
    return PyErr_GivenExceptionMatches(error, PyExc_MemoryError);
}

/* A MemoryError, a group that has one, or an error that was raised from one or while one was handled. */
static bool is_of_memory(PyObject *error)
{
    bool found = false;

    Py_INCREF(error);
    for (int i = 0; error && !found && i < CHAIN; i++) {
        PyObject *before = PyException_GetCause(error);

        if (!before)
            before = PyException_GetContext(error);
        found = is_memory_error(error);
        if (!found && PyObject_TypeCheck(error, (PyTypeObject *)PyExc_BaseExceptionGroup)) {
            PyObject *errors = ((PyBaseExceptionGroupObject *)error)->excs;

            for (Py_ssize_t n = 0; errors && !found && n < CHAIN && n < PyTuple_GET_SIZE(errors); n++)
                found = is_memory_error(PyTuple_GET_ITEM(errors, n));
        }
        Py_DECREF(error);
        error = before;
    }
    Py_XDECREF(error);
    return found;
}

/* Whether the thread is in an `except`, `finally` or __exit__ for an error of memory. */
static bool handles_memory_error(PyThreadState *tstate)
{
    for (_PyErr_StackItem *item = tstate->exc_info; item; item = item->previous_item)
        if (item->exc_value && item->exc_value != Py_None && is_of_memory(item->exc_value))
            return true;
    return false;
}

/* REFUSE: by the next request of the frame, if that goes past the reserve; else retry.  HANDLED: it was
 * delivered, and is being handled, or that begins here. */
enum verdict {
    VERDICT_DELIVER,
    VERDICT_REFUSE,
    VERDICT_RETRY,
    VERDICT_PARK,
    VERDICT_SHIELDED, /* parked too, until the shield ends */
    VERDICT_DROP,
    VERDICT_HANDLED
};

static enum verdict judge(const struct alarm *alarm, PyThreadState *tstate, bool self)
{
    enum entry_state state;
    enum place place;

    if (alarm->context && alarm->context != tstate->context)
        return alarm->attempts < SWITCHES ? VERDICT_RETRY : VERDICT_PARK; /* the task is suspended */
    state = entry_state_of(tstate->context, alarm->failure.memcg);
    if (state == ENTRY_LEFT)
        return alarm->context ? VERDICT_DROP : VERDICT_PARK;
    if (state == ENTRY_SHIELDED)
        return VERDICT_SHIELDED;
    if (tstate->async_exc || tstate->tracing)
        return VERDICT_RETRY;
    if ((alarm->again && alarm->unseen) || (alarm->delivered && handles_memory_error(tstate)))
        return VERDICT_HANDLED;
    if (!has_frame(tstate))
        return VERDICT_PARK; /* the interpreter ends, or the thread: nothing of it is cut short */
    place = place_now(tstate, self);
    return place == PLACE_OK ? VERDICT_DELIVER : place ? VERDICT_REFUSE : VERDICT_RETRY;
}

/* GIL held: no collection, so no Python code and no switch between judging and raising. */
static enum verdict judge_quietly(const struct alarm *alarm, PyThreadState *tstate, bool self)
{
    PyObject *type, *value, *traceback;
    int collecting = PyGC_Disable();
    enum verdict verdict;

    PyErr_Fetch(&type, &value, &traceback);
    memcg_stop_kmem_account();
    verdict = judge(alarm, tstate, self);
    memcg_resume_kmem_account();
    PyErr_Restore(type, value, traceback);
    if (collecting)
        PyGC_Enable();
    return verdict;
}

static int64_t monotonic_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/*
 * A group that meets its limit again and again would have the whole process collected each time, and
 * its neighbours wait: a collection holds the GIL.  After a few in vain the next has to wait, so that
 * they take a ninth of the time at most.
 */
bool collection_is_due(struct mem_cgroup *limited)
{
    return monotonic_ns() >= mem_cgroup_collect_after(limited);
}

void collection_ended(struct mem_cgroup *limited, int64_t freed, int64_t ns)
{
    int64_t max = mem_cgroup_get_limit(limited, MEMCG_MAX);
    bool helped = freed >= FUTILE || mem_cgroup_usage(limited) < max - max / 8; /* or one just before */
    int vain = helped ? 0 : mem_cgroup_vain(limited) + 1;

    mem_cgroup_set_collect_after(limited, vain > VAIN_FREE ? monotonic_ns() + VAIN_PAUSE * ns : 0, vain);
}

/*
 * Garbage may be all that fills the group, whoever has reclaimed since the alarm was posted: it
 * is collected here and now.  Not if a collection is under way, in a finalizer of it say: then
 * false.  GIL held, at a place where Python code may run.
 */
static bool collect_garbage(const struct alarm *alarm)
{
    struct mem_cgroup *limited = alarm->failure.limited;
    PyObject *type, *value, *traceback, *found;
    int64_t before = mem_cgroup_usage(limited), began = monotonic_ns(), freed;
    bool done;

    PyErr_Fetch(&type, &value, &traceback);
    memcg_stop_kmem_account();
    found = PyObject_CallNoArgs(collect);
    done = found != Py_False;
    if (!found)
        PyErr_WriteUnraisable(collect);
    Py_XDECREF(found);
    memcg_resume_kmem_account();
    PyErr_Restore(type, value, traceback);
    if (!done)
        return false;
    mem_cgroup_high_done(limited);
    mem_cgroup_reclaim(limited);
    freed = before - mem_cgroup_usage(limited);
    collection_ended(limited, freed, monotonic_ns() - began);
    mem_cgroup_set_alarmed(alarm->failure.memcg,
                           freed < FUTILE ? MEMCG_COLLECTED_IN_VAIN : MEMCG_NOT_ALARMED);
    return true;
}

/* Whether a refusal became a MemoryError that somebody keeps. As collect_garbage(). */
static bool was_heard(const struct caller_line *line)
{
    PyObject *type, *value, *traceback, *found;
    bool heard;

    PyErr_Fetch(&type, &value, &traceback);
    memcg_stop_kmem_account();
    found = PyObject_CallFunction(find_error, "Ni", PyLong_FromVoidPtr(line->code), line->lasti);
    heard = found != Py_False;
    if (!found)
        PyErr_WriteUnraisable(find_error);
    Py_XDECREF(found);
    memcg_resume_kmem_account();
    PyErr_Restore(type, value, traceback);
    return heard;
}

/* Reclaim may make the alarm needless.  A group without memory.high has asked for none. */
static enum verdict reclaim(const struct alarm *alarm)
{
    struct mem_cgroup *limited = alarm->failure.limited;

    if (alarm->doubt.code) /* what was refused was not charged: usage says nothing */
        return was_heard(&alarm->doubt) ? VERDICT_DROP : VERDICT_DELIVER;
    if (mem_cgroup_get_limit(limited, MEMCG_HIGH) == PAGE_COUNTER_MAX)
        return VERDICT_DELIVER;
    if ((mem_cgroup_high_pending(limited) ||
         mem_cgroup_alarmed(alarm->failure.memcg) != MEMCG_COLLECTED_IN_VAIN) &&
        collection_is_due(limited) && !collect_garbage(alarm))
        return VERDICT_RETRY;
    return mem_cgroup_usage(limited) <= mem_cgroup_get_limit(limited, MEMCG_MAX) ? VERDICT_DROP
                                                                                 : VERDICT_DELIVER;
}

/*
 * Where a check would raise outside the loop's `with`, a request in its body raises inside.  One
 * at a time: whoever is retried gets its turn.  Written with the GIL held.
 */
static struct {
    unsigned long thread_id; /* atomic; 0: nobody */
    PyThreadState *tstate;
    void *frame; /* for comparison only */
    struct mem_cgroup *memcg;
} to_refuse;

static enum verdict refuse_next(const struct alarm *alarm, PyThreadState *tstate)
{
    to_refuse.tstate = tstate;
    to_refuse.frame = caller_frame(tstate);
    to_refuse.memcg = alarm->failure.memcg;
    __atomic_store_n(&to_refuse.thread_id, alarm->thread_id, __ATOMIC_RELEASE);
    return VERDICT_RETRY;
}

/* In a hook, inside the data plane. Once: a handler in the same frame needs memory too. */
static bool refuses_at_jump(struct mem_cgroup *memcg)
{
    if (__atomic_load_n(&to_refuse.thread_id, __ATOMIC_ACQUIRE) != this_thread() ||
        to_refuse.tstate != _PyThreadState_UncheckedGet())
        return false;
    __atomic_store_n(&to_refuse.thread_id, 0, __ATOMIC_RELAXED);
    return to_refuse.memcg == memcg && to_refuse.frame == caller_frame(to_refuse.tstate);
}

/*
 * An unwinding that is refused a frame object loses its exception: a SystemError goes on in place of it
 * (take_ownership() in CPython's frame.c).  So what may be one is not refused, up to a bound; the
 * traceback object beside it is, which is survived.
 */
static bool is_spared_frame(size_t bytes)
{
    static __thread size_t spared;

    if (!caller_frame_takes(bytes) || (spared += bytes) > SPARED_BYTES) {
        spared = 0;
        return false;
    }
    return true;
}

/*
 * In a hook, inside the data plane.  A handler may have what it asks for up to the ceiling, a growing
 * list say.  So may a trace or profile function, which CPython takes out when it fails.  At the ceiling
 * only a thread that has the GIL is refused: without it CPython starts threads, say.
 */
static bool refuses(struct mem_cgroup *memcg, size_t bytes, enum memcg_bound bound)
{
    PyThreadState *tstate = current_holds_gil() ? tstate_get() : NULL;

    if (tstate && bound != MEMCG_AT_MAX && (bound == MEMCG_AT_CEILING || bytes > MEMCG_SMALL_SIZE) &&
        is_spared_frame(bytes))
        return false;
    if (bound == MEMCG_AT_CEILING)
        return tstate;
    if (bytes > MEMCG_SMALL_SIZE)
        return !tstate || !(tstate->tracing || handles_memory_error(tstate));
    return refuses_at_jump(memcg);
}

static enum verdict reclaim_or_judge(const struct alarm *alarm, PyThreadState *tstate, bool self)
{
    enum verdict verdict = judge_quietly(alarm, tstate, self);

    if (to_refuse.thread_id == alarm->thread_id)
        __atomic_store_n(&to_refuse.thread_id, 0, __ATOMIC_RELAXED);
    if (verdict == VERDICT_DELIVER || verdict == VERDICT_REFUSE)
        verdict = reclaim(alarm);
    if (verdict != VERDICT_DELIVER)
        return verdict;
    return judge_quietly(alarm, tstate, self); /* finalizers may have run */
}

/* alarm_lock not held; `alarm` is a copy.  Tells whether the table's entry was still the same. */
static bool settle(const struct alarm *copy, struct alarm *alarm, enum verdict verdict)
{
    bool same;

    pthread_mutex_lock(&alarm_lock);
    same = !__atomic_load_n(&stopped, __ATOMIC_RELAXED) && alarm->state == ALARM_POSTED && alarm->thread_id == copy->thread_id &&
           alarm->context == copy->context && alarm->failure.memcg == copy->failure.memcg;
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

/* only_thread 0: any but a main thread that is about to look itself */
static bool next_posted(struct alarm **alarm, struct alarm *copy, unsigned long only_thread)
{
    unsigned long but = __atomic_load_n(&pending_call, __ATOMIC_SEQ_CST) ? main_thread : 0;
    bool found = false;

    pthread_mutex_lock(&alarm_lock);
    for (; !found && *alarm < alarms + NR_ALARMS; ++*alarm)
        if ((*alarm)->state == ALARM_POSTED &&
            (only_thread ? (*alarm)->thread_id == only_thread : (*alarm)->thread_id != but)) {
            *copy = **alarm;
            found = true;
        }
    pthread_mutex_unlock(&alarm_lock);
    return found;
}

/*
 * CPython has nobody to raise to where a finalizer or a weak reference's callback fails: what was
 * raised there has reached nobody.  An audit hook sees it, put in with the first delivery, for one
 * cannot be taken out and costs each audited event.
 */
static void lost(PyObject *error)
{
    unsigned long me = this_thread();
    struct alarm *last = NULL;

    if (!PyObject_TypeCheck(error, (PyTypeObject *)oom_class))
        return;
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
    if (last)
        call_for_delivery(me);
}

static int audit(const char *event, PyObject *arguments, void *unused)
{
    enum { EXC_VALUE = 1 }; /* sys.UnraisableHookArgs */

    (void)unused;
    if (strcmp(event, "sys.unraisablehook") == 0 && PyTuple_GET_SIZE(arguments) == 2) {
        PyObject *hook = PyTuple_GET_ITEM(arguments, 0);
        PyObject *error = PyStructSequence_GetItem(PyTuple_GET_ITEM(arguments, 1), EXC_VALUE);

        if (PyMethod_Check(hook))
            hook = PyMethod_GET_FUNCTION(hook);
        unraisable_hook = PyFunction_Check(hook) ? PyFunction_GET_CODE(hook) : NULL;
        if (error)
            lost(error); /* it is raised when the hook is over */
    }
    return 0;
}

static void watch_for_lost(void)
{
    static bool done;

    if (done)
        return;
    done = true;
    memcg_stop_kmem_account();
    if (PySys_AddAuditHook(audit, NULL) < 0)
        PyErr_WriteUnraisable(NULL); /* another audit hook forbids it: what is lost is raised with growth */
    memcg_resume_kmem_account();
}

/* Whether this thread still stands where delivery was refused. CPython makes calls that are
 * added by a pending call in the same round. */
static bool stands_where_refused(PyThreadState *tstate)
{
    static __thread void *refused_frame; /* for comparison only */
    static __thread int refused_offset;
    PyFrameObject *frame = PyThreadState_GetFrame(tstate);
    int offset = frame ? PyFrame_GetLasti(frame) : -1;
    bool same = frame == refused_frame && offset == refused_offset;

    refused_frame = frame;
    refused_offset = offset;
    Py_XDECREF(frame);
    return same;
}

/* A pending call, at a check in Python code of this thread.  1: raise; -1: at the next check. */
static int look_at_mine(void)
{
    static __thread bool is_retry;
    PyThreadState *tstate = PyThreadState_Get();
    struct alarm *alarm = alarms, copy;

    if (__atomic_load_n(&stopped, __ATOMIC_RELAXED))
        return 0;
    if (throttle_is_due())
        throttle_at_check();
    if (is_retry && stands_where_refused(tstate))
        return -1;
    is_retry = false;
    while (next_posted(&alarm, &copy, this_thread())) {
        enum verdict verdict = reclaim_or_judge(&copy, tstate, true);

        if (verdict == VERDICT_REFUSE)
            verdict = refuse_next(&copy, tstate);
        is_retry |= verdict == VERDICT_RETRY;
        if (settle(&copy, alarm - 1, verdict) && verdict == VERDICT_DELIVER) {
            watch_for_lost();
            return 1;
        }
    }
    if (is_retry)
        stands_where_refused(tstate);
    return is_retry ? -1 : 0;
}

static int deliver_here(void *unused)
{
    int verdict;

    (void)unused;
    __atomic_store_n(&pending_call, 0, __ATOMIC_SEQ_CST);
    verdict = look_at_mine();
    if (verdict < 0)
        call_for_delivery(main_thread);
    if (verdict <= 0)
        return 0;
    PyErr_SetNone(oom_class);
    return -1;
}

#if PY_VERSION_HEX >= 0x030c0000
static int deliver_anywhere(void *unused)
{
    int verdict;

    (void)unused;
    verdict = this_thread() == main_thread ? 0 : look_at_mine();
    if (verdict > 0)
        PyErr_SetNone(oom_class);
    /* Not before: we may have given up the GIL, and while this call runs a further one would keep
     * the end of 3.13's interpreter, which holds the GIL, waiting for ever. */
    __atomic_store_n(&pending_anywhere, 0, __ATOMIC_SEQ_CST);
    if (verdict < 0)
        ask_all_threads();
    return verdict > 0 ? -1 : 0;
}

static enum verdict judge_for(const struct alarm *alarm, PyThreadState *tstate)
{
    enum verdict verdict = judge_quietly(alarm, tstate, false);

    if (verdict == VERDICT_PARK || verdict == VERDICT_SHIELDED || verdict == VERDICT_DROP)
        return verdict;
    ask_all_threads(); /* the thread itself settles it; it may be missed, so try again */
    return VERDICT_RETRY;
}
#else
static enum verdict judge_for(const struct alarm *alarm, PyThreadState *tstate)
{
    return reclaim_or_judge(alarm, tstate, false);
}
#endif

/* One round over what is posted; the number that must be tried again. */
static int deliver_all(void)
{
    struct alarm *alarm = alarms, copy;
    int left = 0;

    while (next_posted(&alarm, &copy, 0)) {
        int count;
        PyThreadState *tstate = only_tstate(copy.thread_id, &count);
        enum verdict verdict = count == 0 ? VERDICT_DROP : VERDICT_RETRY;

        if (tstate)
            verdict = judge_for(&copy, tstate);
        if (verdict == VERDICT_REFUSE)
            verdict = refuse_next(&copy, tstate);
        if (!settle(&copy, alarm - 1, verdict))
            continue;
        left += verdict == VERDICT_RETRY;
        if (verdict == VERDICT_DELIVER) {
            watch_for_lost();
            PyThreadState_SetAsyncExc(copy.thread_id, oom_class);
        }
    }
    return left;
}

void alarm_work(void)
{
    struct timespec pause = { 0, 500 * 1000 };

    while (deliver_all()) {
        if (worker_is_held()) { /* a fork, or the end of the interpreter, waits for us */
#if PY_VERSION_HEX < 0x030c0000
            worker_wake(WORKER_ALARM); /* when it is over */
#else
            ask_all_threads(); /* they look for themselves: one of us right after a fork makes it warn */
#endif
            return;
        }
        Py_BEGIN_ALLOW_THREADS
        nanosleep(&pause, NULL);
        Py_END_ALLOW_THREADS
        if (pause.tv_nsec < 10 * 1000 * 1000)
            pause.tv_nsec += pause.tv_nsec / 4;
    }
}

/* ---- the thread's own side ------------------------------------------------ */

/* Whether an alarm is needless after all.  Another thread's collection ends soon; one that this
 * thread is inside of does not, so not for ever. */
static bool reclaimed(const struct alarm *alarm)
{
    struct timespec pause = { 0, 1000 * 1000 };
    enum verdict verdict;

    mem_cgroup_set_collect_after(alarm->failure.limited, 0, mem_cgroup_vain(alarm->failure.limited));
    verdict = reclaim(alarm); /* whatever was in vain before: this is the last chance */
    for (int i = 0; i < LEAVING_WAITS && verdict == VERDICT_RETRY; i++) {
        Py_BEGIN_ALLOW_THREADS
        nanosleep(&pause, NULL);
        Py_END_ALLOW_THREADS
        verdict = reclaim(alarm);
    }
    return verdict == VERDICT_DROP;
}

/*
 * The context leaves a group whose alarm was delivered, or is raised by that.  Handling it is the
 * business of the group it comes to, if that is below the same max.
 */
static void hand_on(const struct alarm *taken, PyObject *context)
{
    PyObject *entry = current_key.entry ? current_key.entry->previous : Py_None;
    struct mem_cgroup *to = entry == Py_None ? mem_cgroup_root() : ((struct entry *)entry)->c;
    struct alarm *alarm;

    if (!mem_cgroup_is_descendant(to, taken->failure.limited))
        return;
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

bool alarm_take(struct mem_cgroup *memcg, struct memcg_failure *failure)
{
    PyThreadState *tstate;
    unsigned long me = this_thread();
    struct alarm *alarm, taken;
    bool raise = false, undelivered = false;

    if (likely(!nr_alarms))
        return false;
    tstate = PyThreadState_Get();
    pthread_mutex_lock(&alarm_lock);
    alarm = find_either(me, tstate->context, memcg);
    if (alarm) {
        undelivered = alarm->state == ALARM_DELIVERED && tstate->async_exc == oom_class;
        raise = undelivered || (alarm->state != ALARM_DELIVERED && !alarm->again);
        taken = *alarm;
        *failure = alarm->failure;
        set_state(alarm, ALARM_FREE);
    }
    pthread_mutex_unlock(&alarm_lock);
    if (!alarm)
        return false;
    if (undelivered) {
        PyThreadState_SetAsyncExc(me, NULL); /* counted already */
    } else if (raise) {
        if (reclaimed(&taken))
            return false;
        mem_cgroup_count_event(taken.failure.limited, MEMCG_EV_OOM_KILL);
    }
    if (raise)
        mem_cgroup_set_alarmed(memcg, MEMCG_NOT_ALARMED);
    hand_on(&taken, tstate->context);
    return raise;
}

bool alarm_last(struct memcg_failure *failure)
{
    unsigned long me = this_thread();
    uint64_t last = 0;

    pthread_mutex_lock(&alarm_lock);
    for (struct alarm *alarm = alarms; alarm < alarms + NR_ALARMS; alarm++)
        if (alarm->state != ALARM_FREE && alarm->thread_id == me && alarm->delivered > last) {
            last = alarm->delivered; /* it may be on its way again: unwinding needs memory */
            *failure = alarm->failure;
        }
    pthread_mutex_unlock(&alarm_lock);
    return last > 0;
}

void alarm_forget(struct mem_cgroup *memcg)
{
    if (!nr_alarms)
        return;
    pthread_mutex_lock(&alarm_lock);
    for (struct alarm *alarm = alarms; alarm < alarms + NR_ALARMS; alarm++)
        if (alarm->failure.memcg == memcg || alarm->failure.limited == memcg)
            set_state(alarm, ALARM_FREE);
    pthread_mutex_unlock(&alarm_lock);
}

void alarm_stop(void) { __atomic_store_n(&stopped, 1, __ATOMIC_RELAXED); }

void alarm_after_fork(void)
{
    throttle_after_fork();
    pthread_mutex_init(&alarm_lock, NULL);
    if (nr_posts) /* else the table was never written, and need not be touched */
        memset(alarms, 0, sizeof(alarms));
    nr_alarms = nr_parked = pending_call = pending_anywhere = 0;
    to_refuse.thread_id = 0;
    main_thread = this_thread();
}

void alarm_init(PyObject *exception, PyObject *collect_now, PyObject *find, PyObject *functions)
{
    Py_INCREF(exception);
    Py_INCREF(find);
    find_error = find;
    Py_INCREF(collect_now);
    collect = collect_now;
    Py_INCREF(functions);
    oom_class = exception;
    guarded_functions = functions;
    main_thread = PyThread_get_thread_ident();
    memcg_set_alarm(alarm_post);
    memcg_set_refusal(refuses);
    throttle_init();
}
