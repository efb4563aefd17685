/* SPDX-License-Identifier: Apache-2.0 */
/*
 * delivery.c - raises MemcgOOM in the thread that met the limit, never in another.
 *
 * A hook that charged past a limit only notes the alarm: thread, context, group (alarm.c).
 * Delivery holds the GIL.  It first checks that the thread state is the only one with that thread
 * id (a thread that is being started may carry its parent's), and that the alarm may and must be
 * raised (verdict.c).  If one of these conditions fails, delivery is tried again.  After some
 * seconds the alarm is parked until the context runs again or the thread charges past the limit
 * once more.  Leaving the group removes an alarm that was not raised yet.
 *
 * The main thread delivers to itself at its next check (Py_AddPendingCall).  Since 3.12 the other
 * threads do so too, when the worker asks them.  On 3.11 the worker delivers to them
 * (PyThreadState_SetAsyncExc).
 *
 * Locks: none of its own.
 */
#include "delivery.h"

#include <time.h>

#include "alarm.h"
#include "css.h"
#include "current.h"
#include "handler.h"
#include "pool.h"
#include "refusal.h"
#include "throttle.h"
#include "verdict.h"
#include "worker.h"

#define LEAVING_WAITS 100 /* ms to wait for a collection in another thread */

static atomic_int_t pending_call;     /* 1 while a pending call of the main thread is queued */
static atomic_int_t pending_anywhere; /* 1 while a pending call of any thread is queued */
static unsigned long main_thread;
static PyObject *oom_class;

/* ---- asking threads to look ------------------------------------------------------- */

static int deliver_here(void *unused);
static int deliver_anywhere(void *unused);

/*
 * Asks the threads other than the main thread. 3.11 looks for an asynchronous exception after it
 * has given up the GIL at a check and got it back.  So one that is set in between is raised at the
 * place that was judged. 3.13 looks before, and raises at the next check, which may be in an
 * __exit__.  Since 3.12 a pending call can be made by the next thread at a check.  That is most
 * often the thread that asks, because it has the GIL.  The call checks whether it runs in the right
 * thread.
 */
static void ask_all_threads(void)
{
    if (PY_CALLS_ANY_THREAD && !load_relaxed(&pending_anywhere) &&
        !exchange_seq_cst(&pending_anywhere, 1) && !py_call_any_thread(deliver_anywhere))
        store_seq_cst(&pending_anywhere, 0);
}

static void call_for_delivery(unsigned long thread_id)
{
    if (thread_id != main_thread)
        ask_all_threads();
    else if (!exchange_seq_cst(&pending_call, 1) && Py_AddPendingCall(deliver_here, NULL) == 0)
        return;
    worker_wake(WORKER_ALARM);
}

/* In a hook.  Has throttle_at_check() called at a check of this thread.  On 3.11 only the main
 * thread makes pending calls. */
static void ask_check(void)
{
    if (!current_holds_gil())
        return;
    if (PY_CALLS_ANY_THREAD || py_this_thread() == main_thread)
        call_for_delivery(py_this_thread());
    /* false if a debugger traces it: the next charge asks again */
    else
        py_call_at_next_line(throttle_at_check);
}

/* In a hook, inside the data plane: a memcg_alarm_fn. */
static void met_limit(struct mem_cgroup *memcg, struct mem_cgroup *limited, size_t bytes,
                      enum memcg_outcome outcome, unsigned refusals)
{
    struct memcg_failure failure = { memcg, limited, bytes, mem_cgroup_usage(limited),
                                     mem_cgroup_get_limit(limited, MEMCG_MAX) };
    bool refused = outcome == MEMCG_REFUSED || outcome == MEMCG_REFUSED_AT_CEILING, doubtful;
    unsigned long me = py_this_thread();
    PyObject *context = current_key.context;
    struct code_line doubt;

    if (alarm_is_stopped())
        return;
    if (unlikely(!context) && pool_is_mine()) { /* C code has started it: others must answer */
        if (!pool_answers(memcg, &me, &context)) {
            me = main_thread;
            context = NULL;
        }
        if (refused) {
            pool_note_refusal(&failure);
            return; /* the library raises an error of its own in the thread that has called it */
        }
    }
    if (outcome == MEMCG_REFUSED_AT_CEILING || outcome == MEMCG_PASSED_OVER)
        throttle_owe(limited, refusals);
    if (unlikely(throttle_is_due()))
        ask_check();
    doubtful = refused && refusal_note(&failure, &doubt);
    switch (alarm_post(&failure, refused && !doubtful, doubtful ? &doubt : NULL, me, context)) {
    case ALARM_IS_DUE:
        call_for_delivery(me);
        break;
    case ALARM_IS_POSTED: /* another thread may have taken the call */
        if (me != main_thread)
            ask_all_threads();
        break;
    case ALARM_IS_NOT_DUE:
        break;
    }
}

void delivery_resume(PyObject *context)
{
    if (unlikely(alarm_nr_parked) && context && alarm_resume(context))
        call_for_delivery(py_this_thread());
}

/* ---- refusing the next request ----------------------------------------------------- */

/*
 * If a check would raise outside the loop's `with`, a request in the loop's body raises inside it.
 * Only one thread at a time is refused; the others are retried and get their turn later.  This is
 * written with the GIL held.
 */
static struct {
    ATOMIC(unsigned long) thread_id; /* 0: no thread */
    PyThreadState *tstate;
    void *frame; /* for comparison only */
    struct mem_cgroup *memcg;
} to_refuse;

static enum verdict refuse_next(const struct alarm *alarm, PyThreadState *tstate)
{
    to_refuse.tstate = tstate;
    to_refuse.frame = frame_innermost(tstate);
    to_refuse.memcg = alarm->failure.memcg;
    store_release(&to_refuse.thread_id, alarm->thread_id);
    return VERDICT_RETRY;
}

/* In a hook, inside the data plane.  It refuses once, because a handler in the same frame needs
 * memory too. */
static bool refuses_at_jump(struct mem_cgroup *memcg)
{
    if (load_acquire(&to_refuse.thread_id) != py_this_thread() || to_refuse.tstate != py_tstate())
        return false;
    store_relaxed(&to_refuse.thread_id, 0);
    return to_refuse.memcg == memcg && to_refuse.frame == frame_innermost(to_refuse.tstate);
}

/*
 * In a hook, inside the data plane.  A handler gets what it asks for up to the ceiling, for a
 * growing list say.  So does a trace or profile function, because CPython removes it if it fails.
 * At the ceiling only a thread that has the GIL is refused: without the GIL CPython starts threads,
 * say.
 *
 * A thread state counts as small, although 3.15's is larger than 1 KiB; otherwise no thread could start
 * past the reserve.  open()'s buffer goes into the reserve; otherwise a full group could open no file
 * and import nothing.
 */
static bool refuses(struct mem_cgroup *memcg, size_t bytes, enum memcg_bound bound)
{
    PyThreadState *tstate = current_holds_gil() ? py_tstate() : NULL;
    bool small = bytes <= MEMCG_SMALL_SIZE || py_makes_tstate(bytes);

    if (bound == MEMCG_AT_MAX && py_makes_file_buffer(bytes))
        return false;
    if (tstate && bound != MEMCG_AT_MAX && (bound == MEMCG_AT_CEILING || !small) &&
        handler_needs_frame(bytes))
        return false;
    if (bound == MEMCG_AT_CEILING)
        return tstate;
    if (!small)
        return !tstate || !(py_is_tracing(tstate) || handler_runs(tstate));
    return refuses_at_jump(memcg);
}

/* ---- delivering ------------------------------------------------------------------------ */

static PyThreadState *only_tstate(unsigned long thread_id, int *count)
{
    PyThreadState *tstate, *found = NULL;

    *count = 0;
    tstate = PyInterpreterState_ThreadHead(PyInterpreterState_Main());
    for (; tstate; tstate = PyThreadState_Next(tstate))
        if (py_thread_id(tstate) == thread_id) {
            found = tstate;
            ++*count;
        }
    return *count == 1 ? found : NULL;
}

static enum verdict reclaim_or_judge(const struct alarm *alarm, PyThreadState *tstate, bool self)
{
    enum verdict verdict = verdict_of(alarm, tstate, self);

    if (load_relaxed(&to_refuse.thread_id) == alarm->thread_id)
        store_relaxed(&to_refuse.thread_id, 0);
    if (verdict == VERDICT_DELIVER || verdict == VERDICT_REFUSE)
        verdict = verdict_of_reclaim(alarm);
    if (verdict != VERDICT_DELIVER)
        return verdict;
    return verdict_of(alarm, tstate, self); /* judged again, because finalizers may have run */
}

/*
 * If a finalizer or a weak reference's callback fails, CPython has no caller to raise to, and the
 * exception is lost.  An audit hook sees that.  It is added at the first delivery only, because a
 * hook cannot be removed and makes each audited event slower.
 */
static void lost(PyObject *error)
{
    if (PyObject_TypeCheck(error, (PyTypeObject *)oom_class) && alarm_repost_last())
        call_for_delivery(py_this_thread());
}

static int audit(const char *event, PyObject *arguments, void *unused)
{
    enum { EXC_VALUE = 1 }; /* an index into sys.UnraisableHookArgs */

    (void)unused;
    if (strcmp(event, "sys.unraisablehook") == 0 && PyTuple_GET_SIZE(arguments) == 2) {
        PyObject *hook = PyTuple_GET_ITEM(arguments, 0);
        PyObject *error = PyStructSequence_GetItem(PyTuple_GET_ITEM(arguments, 1), EXC_VALUE);

        if (PyMethod_Check(hook))
            hook = PyMethod_GET_FUNCTION(hook);
        refusal_set_unraisable(PyFunction_Check(hook) ? (PyCodeObject *)PyFunction_GET_CODE(hook)
                                                      : NULL);
        if (error)
            lost(error); /* it is raised when the hook has returned */
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
        PyErr_WriteUnraisable(
            NULL); /* another audit hook forbids it: what is lost is raised when usage grows */
    memcg_resume_kmem_account();
}

/* True if this thread still stands where delivery was not possible.  CPython makes a call that a
 * pending call adds in the same round. */
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

/* A pending call, at a check in this thread's Python code. 1: raise; -1: try at the next check. */
static int look_at_mine(void)
{
    static __thread bool is_retry;
    PyThreadState *tstate = PyThreadState_Get();
    struct alarm *alarm = alarm_first(), copy;

    if (alarm_is_stopped())
        return 0;
    if (throttle_is_due())
        throttle_at_check();
    if (is_retry && stands_where_refused(tstate))
        return -1;
    is_retry = false;
    while (alarm_next_posted(&alarm, &copy, py_this_thread(), 0)) {
        enum verdict verdict = reclaim_or_judge(&copy, tstate, true);

        if (verdict == VERDICT_REFUSE)
            verdict = refuse_next(&copy, tstate);
        is_retry |= verdict == VERDICT_RETRY;
        if (alarm_settle(&copy, alarm - 1, verdict) && verdict == VERDICT_DELIVER) {
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
    store_seq_cst(&pending_call, 0);
    verdict = look_at_mine();
    if (verdict < 0)
        call_for_delivery(main_thread);
    if (verdict <= 0)
        return 0;
    PyErr_SetNone(oom_class);
    return -1;
}

static int deliver_anywhere(void *unused)
{
    int verdict;

    (void)unused;
    verdict = py_this_thread() == main_thread ? 0 : look_at_mine();
    if (verdict > 0)
        PyErr_SetNone(oom_class);
    /* Not earlier, because we may have given up the GIL.  If another call were added while this one
     * runs, the end of 3.13's interpreter, which holds the GIL, would wait for ever. */
    store_seq_cst(&pending_anywhere, 0);
    if (verdict < 0)
        ask_all_threads();
    return verdict > 0 ? -1 : 0;
}

static enum verdict judge_for(const struct alarm *alarm, PyThreadState *tstate)
{
    enum verdict verdict;

    if (!PY_CALLS_ANY_THREAD)
        return reclaim_or_judge(alarm, tstate, false);
    verdict = verdict_of(alarm, tstate, false);
    if (verdict == VERDICT_PARK || verdict == VERDICT_SHIELDED || verdict == VERDICT_DROP)
        return verdict;
    /* the thread itself settles it; it may be missed, so the worker tries again */
    ask_all_threads();
    return VERDICT_RETRY;
}

/* Skips the main thread's alarms while a pending call of it is queued. */
static bool next_for_worker(struct alarm **alarm, struct alarm *copy)
{
    unsigned long but = load_seq_cst(&pending_call) ? main_thread : 0;

    return alarm_next_posted(alarm, copy, 0, but);
}

/* One round over the posted alarms.  Returns how many must be tried again. */
static int deliver_all(void)
{
    struct alarm *alarm = alarm_first(), copy;
    int left = 0;

    while (next_for_worker(&alarm, &copy)) {
        int count;
        PyThreadState *tstate = only_tstate(copy.thread_id, &count);
        enum verdict verdict = count == 0 ? VERDICT_DROP : VERDICT_RETRY;

        if (tstate)
            verdict = judge_for(&copy, tstate);
        if (verdict == VERDICT_REFUSE)
            verdict = refuse_next(&copy, tstate);
        if (!alarm_settle(&copy, alarm - 1, verdict))
            continue;
        left += verdict == VERDICT_RETRY;
        if (verdict == VERDICT_DELIVER) {
            watch_for_lost();
            PyThreadState_SetAsyncExc(copy.thread_id, oom_class);
        }
    }
    return left;
}

/* GIL held.  Runs until no alarm must be tried again. */
static void deliver_until_done(void)
{
    struct timespec pause = { 0, 500 * 1000 };

    while (deliver_all()) {
        if (worker_is_held()) { /* a fork, or the end of the interpreter, waits for us */
            /* threads look for themselves: a worker right after a fork would make it warn */
            if (PY_CALLS_ANY_THREAD)
                ask_all_threads();
            else
                worker_wake(WORKER_ALARM); /* starts when the hold is over */
            return;
        }
        Py_BEGIN_ALLOW_THREADS nanosleep(&pause, NULL);
        Py_END_ALLOW_THREADS if (pause.tv_nsec < 10 * 1000 * 1000) pause.tv_nsec +=
            pause.tv_nsec / 4;
    }
}

/* ---- the thread's own side ------------------------------------------------------------- */

/* True if reclaim makes an alarm needless.  Another thread's collection ends soon.  A collection
 * that this thread is inside of cannot end meanwhile, so the wait is bounded. */
static bool reclaimed(const struct alarm *alarm)
{
    struct timespec pause = { 0, 1000 * 1000 };
    enum verdict verdict;

    mem_cgroup_set_collect_after(alarm->failure.limited, 0,
                                 mem_cgroup_vain(alarm->failure.limited));
    verdict = verdict_of_reclaim(alarm); /* collects even if that was in vain before: this is the
                                          * last chance */
    for (int i = 0; i < LEAVING_WAITS && verdict == VERDICT_RETRY; i++) {
        Py_BEGIN_ALLOW_THREADS nanosleep(&pause, NULL);
        Py_END_ALLOW_THREADS verdict = verdict_of_reclaim(alarm);
    }
    return verdict == VERDICT_DROP;
}

/*
 * The context leaves a group whose alarm was delivered, or is raised by leaving.  The exception is
 * then handled in the group that the context returns to.  If that group is below the same max, the
 * alarm counts as delivered there.
 */
static void hand_on(const struct alarm *taken, PyObject *context)
{
    PyObject *entry = current_key.entry ? current_key.entry->previous : Py_None;
    struct mem_cgroup *to = entry == Py_None ? mem_cgroup_root() : ((struct entry *)entry)->c;

    if (mem_cgroup_is_descendant(to, taken->failure.limited))
        alarm_hand_on(taken, context, to);
}

bool delivery_leave(struct mem_cgroup *memcg, struct memcg_failure *failure)
{
    PyThreadState *tstate;
    struct alarm taken;
    bool raise, undelivered;

    if (likely(!alarm_nr))
        return false;
    tstate = PyThreadState_Get();
    if (!alarm_take(memcg, py_context(tstate), &taken))
        return false;
    undelivered = taken.state == ALARM_DELIVERED && py_async_exc(tstate) == oom_class;
    raise = undelivered || (taken.state != ALARM_DELIVERED && !taken.again);
    *failure = taken.failure;
    if (undelivered) {
        /* it was counted when it was delivered */
        PyThreadState_SetAsyncExc(py_this_thread(), NULL);
    } else if (raise) {
        if (reclaimed(&taken))
            return false;
        mem_cgroup_count_event(taken.failure.limited, MEMCG_EV_OOM_KILL);
    }
    if (raise)
        mem_cgroup_set_alarmed(memcg, MEMCG_NOT_ALARMED);
    hand_on(&taken, py_context(tstate));
    return raise;
}

void delivery_after_fork(void)
{
    throttle_after_fork();
    alarm_after_fork();
    store_plain(&pending_call, 0);
    store_plain(&pending_anywhere, 0);
    store_plain(&to_refuse.thread_id, 0);
    main_thread = py_this_thread();
}

void delivery_init(PyObject *exception)
{
    Py_INCREF(exception);
    oom_class = exception;
    main_thread = PyThread_get_thread_ident();
    current_set_resumed(delivery_resume);
    worker_register(WORKER_ALARM, deliver_until_done);
    memcg_set_alarm(met_limit);
    memcg_set_refusal(refuses);
    throttle_init(ask_check);
}
