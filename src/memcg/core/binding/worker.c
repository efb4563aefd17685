/* SPDX-License-Identifier: Apache-2.0 */
/*
 * worker.c - threads that are started for one kind of work and end after it: events of the data
 * plane, alarms.
 *
 * A hook may not hold the GIL and must not wait.  So it starts a native thread, which takes the GIL
 * and calls the control plane.  A permanent thread would make os.fork warn.
 *
 * Kernel: schedule_work().  Where we differ: the thread ends when the work is done.
 */
#include "worker.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "fault.h"
#include "hooks.h"

#define ALARM_WORKER_ENDS 1.0 /* seconds that the interpreter's end waits for it */
#define EXIT_TAKES 0.5        /* seconds, at most: a thread that has done its work exits at once */
#define NR_EXITING 8          /* threads whose exit is waited for, the latest */

static PyObject *work, *thread_main;
static PyMemAllocatorEx first_raw; /* the RAW allocator before tracemalloc was started; or zero */
static atomic_int_t starting[NR_WORKERS]; /* 1 while a thread is being started and has not begun */
static atomic_int_t nr_workers[NR_WORKERS]; /* threads that were started and have not ended */
static atomic_int_t ending;                 /* the interpreter is ending; it waits for no alarm */
/* forks, and the interpreter's end, during which no worker starts */
static atomic_int_t nr_holds;
static atomic_int_t missed[NR_WORKERS]; /* a worker was to start during a hold */
static atomic_int_t
    last_tids[NR_EXITING]; /* of workers' threads, in the kernel; 0: none, or gone */
static atomic_uint_t nr_tids;
static __thread int my_holds;
static __thread int is_worker; /* this thread is a worker and does not wait for itself */

void worker_init(PyObject *callable, PyObject *run_worker, int traced)
{
    if (!work) /* two pairs of fork handlers would wait for each other */
        py_new_tstate_init();
    Py_INCREF(callable);
    Py_INCREF(run_worker);
    if (!traced) /* if it traces, any allocator but ours may be tracemalloc's */
        PyMem_GetAllocator(PYMEM_DOMAIN_RAW, &first_raw);
    thread_main = run_worker;
    work = callable;
}

static void call_work(void)
{
    PyObject *result = PyObject_CallNoArgs(work);

    if (result)
        Py_DECREF(result);
    else
        PyErr_WriteUnraisable(work);
}

static void (*registered[NR_WORKERS])(void) = { [WORKER_EVENTS] = call_work };

void worker_register(enum worker_kind kind, void (*fn)(void)) { registered[kind] = fn; }

/* GIL held. */
void worker_run(enum worker_kind kind)
{
    is_worker = 1;
    store_relaxed(&last_tids[add_relaxed(&nr_tids, 1) % NR_EXITING], (int)syscall(SYS_gettid));
    memcg_stop_kmem_account(); /* nothing that we do is refused or raises an alarm */
    /* before the work, so that no wake is lost */
    store_seq_cst(&starting[kind], 0);
    registered[kind]();
}

void worker_ended(enum worker_kind kind) { sub_seq_cst(&nr_workers[kind], 1); }

/* Counts a worker that is about to start.  False: workers are held, and the end of the last hold
 * starts it. */
static bool worker_begins(enum worker_kind kind)
{
    do {
        add_seq_cst(&nr_workers[kind], 1);
        if (!load_seq_cst(&nr_holds))
            return true;
        store_seq_cst(&missed[kind], 1);
        worker_ended(kind);
    } while (!load_seq_cst(&nr_holds) && exchange_seq_cst(&missed[kind], 0));
    return false;
}

/* The next event, or the next charge past a limit, tries again. */
static void not_started(enum worker_kind kind)
{
    store_seq_cst(&starting[kind], 0);
    if (kind == WORKER_EVENTS)
        memcg_not_woken();
}

/*
 * A native thread makes its thread state without the GIL, through the RAW allocator.  If
 * tracemalloc stands above us there, its stop() may free tables that are in use (cpython #128679).
 * In that case the main thread starts a Python thread, with the GIL.
 */
static int start_python_thread(void *argument)
{
    enum worker_kind kind = (enum worker_kind)(intptr_t)argument;
    PyObject *module, *ident = NULL;

    if (!worker_begins(kind))
        return 0;
    module = PyImport_ImportModule("_thread");
    if (module && !should_fail(FAULT_THREAD, NULL, NULL, 0))
        ident = PyObject_CallMethod(module, "start_new_thread", "O(i)", thread_main, (int)kind);
    if (!ident) { /* no thread could be started, or the interpreter is ending */
        PyErr_Clear();
        not_started(kind);
        worker_ended(kind);
    }
    Py_XDECREF(ident);
    Py_XDECREF(module);
    return 0;
}

static int create_thread(const pthread_attr_t *attributes, void *(*fn)(void *), void *argument)
{
    pthread_t thread;

    if (should_fail(FAULT_THREAD, NULL, NULL, 0))
        return EAGAIN;
    return pthread_create(&thread, attributes, fn, argument);
}

static bool raw_is_covered(void)
{
    PyMemAllocatorEx now;

    PyMem_GetAllocator(PYMEM_DOMAIN_RAW, &now);
    return !hooks_is_raw(now.malloc) && (hooks_installed() || now.malloc != first_raw.malloc);
}

/* The worker is not counted until it is started, because the main thread may be waiting for
 * workers. */
static void ask_main_thread(enum worker_kind kind)
{
    if (Py_AddPendingCall(start_python_thread, (void *)(intptr_t)kind))
        not_started(kind);
}

static void *worker_main(void *argument)
{
    enum worker_kind kind = (enum worker_kind)(intptr_t)argument;
    PyThreadState *tstate;

    memcg_stop_kmem_account();
    if (raw_is_covered()) { /* tracemalloc was started since we were */
        ask_main_thread(kind);
        worker_ended(kind);
        return NULL;
    }
    tstate = py_new_tstate();
    if (tstate) {
        PyEval_AcquireThread(tstate);
        worker_run(kind);
        PyThreadState_Clear(tstate);
        PyThreadState_DeleteCurrent();
    } else {
        not_started(kind);
    }
    worker_ended(kind);
    return NULL;
}

void worker_wake(enum worker_kind kind)
{
    pthread_attr_t attributes;
    sigset_t all, before;

    if (!work || exchange_seq_cst(&starting[kind], 1))
        return;
    if (raw_is_covered()) {
        ask_main_thread(kind);
        return;
    }
    if (!worker_begins(kind))
        return;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* only the program's threads handle signals */
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    if (create_thread(&attributes, worker_main, (void *)(intptr_t)kind)) {
        not_started(kind);
        worker_ended(kind);
    }
    pthread_attr_destroy(&attributes);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

bool worker_is_starting(enum worker_kind kind) { return load_seq_cst(&starting[kind]); }

bool worker_is_at_work(enum worker_kind kind)
{
    return !is_worker && load_seq_cst(&nr_workers[kind]);
}

bool worker_is_held(void) { return load_seq_cst(&nr_holds); }

/* The alarm worker holds no lock of the control plane, so once it has had its time, the
 * interpreter's end waits for it no longer. */
static bool at_work(void)
{
    return load_seq_cst(&nr_workers[WORKER_EVENTS]) ||
           (load_seq_cst(&nr_workers[WORKER_ALARM]) && !load_seq_cst(&ending));
}

static double seconds_between(const struct timespec *begin, const struct timespec *end)
{
    return (double)(end->tv_sec - begin->tv_sec) + (double)(end->tv_nsec - begin->tv_nsec) / 1e9;
}

/* A thread that has done its work still counts as a thread of the process for a moment, and since
 * 3.12 a fork warns of it. */
static bool any_exits(void)
{
    pid_t tid;

    for (enum worker_kind kind = 0; kind < NR_WORKERS; kind++)
        if (load_seq_cst(&nr_workers[kind]))
            return false; /* it works, and is not waited for any more */
    for (int i = 0; i < NR_EXITING; i++)
        if ((tid = load_relaxed(&last_tids[i]))) {
            if (!syscall(SYS_tgkill, getpid(), tid, 0))
                return true;
            store_relaxed(&last_tids[i], 0);
        }
    return false;
}

/* Waits for `seconds`, or for ever if below 0. */
bool worker_wait(double seconds)
{
    struct timespec begin, now;
    bool late = false;

    if (is_worker || (load_seq_cst(&ending) && !at_work()))
        return true; /* not before a fork: a worker that has just ended still needs time to exit */
    Py_BEGIN_ALLOW_THREADS clock_gettime(CLOCK_MONOTONIC, &begin);
    while (at_work() && !late) {
        sched_yield();
        clock_gettime(CLOCK_MONOTONIC, &now);
        late = seconds >= 0 && seconds_between(&begin, &now) > seconds;
    }
    clock_gettime(CLOCK_MONOTONIC, &begin);
    for (now = begin; any_exits() && seconds_between(&begin, &now) < EXIT_TAKES;) {
        sched_yield();
        clock_gettime(CLOCK_MONOTONIC, &now);
    }
    Py_END_ALLOW_THREADS return !late;
}

void worker_hold(void)
{
    my_holds++;
    add_seq_cst(&nr_holds, 1);
}

static bool any_missed(void)
{
    enum worker_kind kind;

    for (kind = 0; kind < NR_WORKERS; kind++)
        if (load_seq_cst(&missed[kind]))
            return true;
    return false;
}

static void start_missed(void)
{
    enum worker_kind kind;

    for (kind = 0; kind < NR_WORKERS; kind++)
        if (exchange_seq_cst(&missed[kind], 0)) {
            store_seq_cst(&starting[kind], 0);
            worker_wake(kind);
        }
}

/* The frame that forks, and its instruction while its thread runs the fork's handlers. */
struct forker {
    PyFrameObject *frame;
    int lasti;
};

/* Called in the handler that ended the hold, whose caller is the frame that forks. */
static struct forker *forker_new(void)
{
    struct forker *forker = PyMem_RawMalloc(sizeof(*forker));
    PyFrameObject *handler = PyEval_GetFrame();

    if (forker) {
        forker->frame = handler ? PyFrame_GetBack(handler) : NULL;
        forker->lasti = forker->frame ? PyFrame_GetLasti(forker->frame) : -1;
    }
    return forker;
}

static bool still_forks(const struct forker *forker)
{
    PyFrameObject *frame = PyEval_GetFrame(), *back;
    bool found;

    if (!forker->frame || frame == forker->frame ||
        PyFrame_GetLasti(forker->frame) != forker->lasti)
        return false;
    for (Py_XINCREF(frame); frame && frame != forker->frame; frame = back) {
        back = PyFrame_GetBack(frame);
        Py_DECREF(frame);
    }
    found = frame;
    Py_XDECREF(frame);
    return found;
}

/* A pending call of the main thread.  It may be made between the fork's other handlers. */
static int start_missed_past_fork(void *argument)
{
    struct forker *forker = argument;

    if (!still_forks(forker)) {
        Py_XDECREF(forker->frame);
        PyMem_RawFree(forker);
        if (!worker_is_held())
            start_missed();
    } else if (Py_AddPendingCall(start_missed_past_fork, forker)) {
        Py_XDECREF(forker->frame);
        PyMem_RawFree(forker);
        start_missed();
    }
    return 0;
}

/*
 * Since 3.13 os.fork() counts the threads of the process after the handlers have run, and warns if
 * there are several.  Therefore the main thread, which may be the only one, starts what was missed
 * after it has returned from the fork.  If another thread forks, there are several threads anyway.
 */
void worker_release(void)
{
    struct forker *forker;

    my_holds--;
    if (sub_seq_cst(&nr_holds, 1))
        return;
    if (!any_missed())
        return;
    forker = py_is_main_thread() ? forker_new() : NULL;
    if (!forker || Py_AddPendingCall(start_missed_past_fork, forker)) {
        if (forker)
            Py_XDECREF(forker->frame);
        PyMem_RawFree(forker);
        start_missed();
    }
}

/*
 * An alarm worker that is being started would make its thread state while the interpreter frees the
 * main one's, which it might be given (since 3.12).  It ends as soon as it has the GIL, because
 * workers are held.
 */
void worker_stop(void)
{
    worker_hold();
    if (PY_CALLS_ANY_THREAD)
        worker_wait(ALARM_WORKER_ENDS);
    store_seq_cst(&ending, 1);
    worker_wait(-1);
}

void worker_after_fork(void)
{
    memset(starting, 0, sizeof(starting));
    memset(missed, 0, sizeof(missed)); /* the next post wakes a worker */
    memset(nr_workers, 0, sizeof(nr_workers));
    store_plain(&nr_holds, my_holds);
}
