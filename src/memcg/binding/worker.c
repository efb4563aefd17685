/*
 * worker.c - a thread that comes when the data plane has events, and goes.
 *
 * A hook may hold no GIL and must not wait, so it starts a native thread, which takes the
 * GIL and calls the control plane.  A standing thread would make os.fork warn.
 *
 * Kernel: schedule_work().  Where we differ: transient.
 */
#include <pthread.h>
#include <sched.h>
#include <signal.h>

#include "binding.h"

static PyObject *work;
static int starting[NR_WORKERS]; /* atomic: a thread is on its way and has not begun */
static int nr_workers; /* atomic: started and not yet gone */
static int stopped;    /* atomic */
static __thread int is_worker; /* it does not wait for itself */

void worker_init(PyObject *callable)
{
    Py_INCREF(callable);
    work = callable;
}

static void *worker_main(void *argument)
{
    enum worker_kind kind = (enum worker_kind)(intptr_t)argument;
    PyGILState_STATE state;
    PyObject *result;

    is_worker = 1;
    memcg_stop_kmem_account(); /* nothing we do is refused or raises an alarm */
    state = PyGILState_Ensure();
    __atomic_store_n(&starting[kind], 0, __ATOMIC_SEQ_CST); /* before the work: no wake is lost */
    if (kind == WORKER_ALARM) {
        alarm_work();
    } else {
        result = PyObject_CallNoArgs(work);
        if (result)
            Py_DECREF(result);
        else
            PyErr_WriteUnraisable(work);
    }
    PyGILState_Release(state);
    __atomic_sub_fetch(&nr_workers, 1, __ATOMIC_SEQ_CST);
    return NULL;
}

void worker_wake(enum worker_kind kind)
{
    pthread_attr_t attributes;
    pthread_t thread;
    sigset_t all, before;

    if (!work || __atomic_load_n(&stopped, __ATOMIC_SEQ_CST) ||
        __atomic_exchange_n(&starting[kind], 1, __ATOMIC_SEQ_CST))
        return;
    __atomic_add_fetch(&nr_workers, 1, __ATOMIC_SEQ_CST);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are the program's threads' */
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    if (pthread_create(&thread, &attributes, worker_main, (void *)(intptr_t)kind)) {
        __atomic_sub_fetch(&nr_workers, 1, __ATOMIC_SEQ_CST); /* the next event tries again */
        __atomic_store_n(&starting[kind], 0, __ATOMIC_SEQ_CST);
    }
    pthread_attr_destroy(&attributes);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

void worker_wait(void)
{
    if (is_worker)
        return;
    Py_BEGIN_ALLOW_THREADS
    while (__atomic_load_n(&nr_workers, __ATOMIC_SEQ_CST))
        sched_yield();
    Py_END_ALLOW_THREADS
}

void worker_stop(void)
{
    __atomic_store_n(&stopped, 1, __ATOMIC_SEQ_CST);
    worker_wait();
}

void worker_after_fork(void)
{
    memset(starting, 0, sizeof(starting));
    nr_workers = 0;
    alarm_after_fork();
}
