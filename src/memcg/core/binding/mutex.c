/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mutex.c - a mutex of the control plane, which is taken only by a thread that holds the GIL.
 *
 * A thread that waits for a lock of CPython's takes the lock first and waits for the GIL then.
 * Meanwhile the thread with the GIL wants the lock, so the two change places at every release: a
 * convoy.  Here a woken thread has nothing yet.  It waits for the GIL like any thread, and then
 * looks whether the mutex is free; other threads may have taken it in between, many times.  One
 * waiter is awake at a time, and until it has looked a release wakes none.  If the woken thread
 * finds the mutex taken again, later arrivals queue behind the sleepers until one of the sleepers
 * has acquired it (`overdue`).
 *
 * The thread that holds a mutex may lend it: it keeps the mutex until another thread has needed it
 * for LENT_MS.  A fork lends its mutexes.  So it keeps other threads away from the structures that
 * the child must find whole.  And it cannot close a circle of threads that wait for each other,
 * although it waits for the program's own locks with our mutexes held.
 *
 * The GIL protects every field.  If a mutex is free and has sleepers, one of them is awake.  If it
 * is overdue, it has a waiter.  If it is lent, at least one of the threads that wait for it counts
 * the time.
 *
 * Kernel: kernel/locking/mutex.c (overdue: MUTEX_FLAG_HANDOFF).  Where we differ: the thread that
 * holds it may take it again, as with an RLock of CPython's.
 */
#include <errno.h>
#include <semaphore.h>
#include <time.h>

#include "mutex.h"

#include <structmember.h>

#define LENT_MS 20 /* four of CPython's switch intervals: a thread that can run has run by then */

struct waiter {
    sem_t woken;
    bool asleep;         /* on the list */
    struct waiter *next; /* the waiter after it, which has waited for less long */
};

struct gil_mutex {
    PyObject_HEAD PyObject *name;
    unsigned long owner;    /* the thread that holds it, unless depth is 0 */
    int depth;              /* how often the owner has taken it */
    struct waiter *asleep;  /* waiters that were not woken, the longest first */
    bool awake;             /* a waiter was woken and has not had the GIL yet */
    bool overdue;           /* a woken thread found the mutex taken again */
    bool lent;              /* by the owner, while depth is 1 */
    struct gil_mutex *next; /* in all_mutexes */
};

static struct gil_mutex *all_mutexes;
static PyObject *the_type; /* it is never freed */

static bool is_held(const struct gil_mutex *mutex)
{
    return mutex->depth && mutex->owner == PyThread_get_thread_ident();
}

static void wake_one(struct gil_mutex *mutex)
{
    struct waiter *waiter = mutex->asleep;

    if (!waiter || mutex->awake)
        return;
    mutex->asleep = waiter->next;
    mutex->awake = true;
    waiter->asleep = false;
    sem_post(&waiter->woken);
}

/* A waiter that was woken in vain is put at the head of the queue, a new one at its tail. */
static void enlist(struct gil_mutex *mutex, struct waiter *waiter, bool first)
{
    struct waiter **link = &mutex->asleep;

    while (!first && *link)
        link = &(*link)->next;
    waiter->next = *link;
    *link = waiter;
}

static void unlist(struct gil_mutex *mutex, struct waiter *waiter)
{
    struct waiter **link = &mutex->asleep;

    while (*link != waiter)
        link = &(*link)->next;
    *link = waiter->next;
}

static bool is_lent(const struct gil_mutex *mutex) { return mutex->lent && mutex->depth == 1; }

static struct timespec after_ms(long ms)
{
    struct timespec time;

    clock_gettime(CLOCK_REALTIME, &time); /* the clock of sem_timedwait() */
    time.tv_sec += ms / 1000;
    time.tv_nsec += ms % 1000 * 1000000;
    if (time.tv_nsec >= 1000000000) {
        time.tv_sec++;
        time.tv_nsec -= 1000000000;
    }
    return time;
}

static bool is_past(const struct timespec *end)
{
    struct timespec now = after_ms(0);

    return now.tv_sec > end->tv_sec || (now.tv_sec == end->tv_sec && now.tv_nsec >= end->tv_nsec);
}

/*
 * Sleeps until it is woken, until `end` if that is not NULL, or until a signal. 0, or -1 with what
 * a signal handler raised.  Only the main thread returns for a signal.  Another thread might find
 * the interpreter ending and be ended itself, and its waiter would stay on the list.
 */
static int sleep_for(struct gil_mutex *mutex, bool in_vain, const struct timespec *end)
{
    struct waiter me = { .asleep = true };
    bool interrupted, late = false, is_main = py_is_main_thread();

    sem_init(&me.woken, 0, 0);
    enlist(mutex, &me, in_vain);
    Py_BEGIN_ALLOW_THREADS do
    {
        interrupted = end ? sem_timedwait(&me.woken, end) : sem_wait(&me.woken);
        late = interrupted && errno == ETIMEDOUT;
    }
    while (interrupted && !late && !is_main)
        ;
    Py_END_ALLOW_THREADS sem_destroy(&me.woken);
    if (me.asleep)
        unlist(mutex, &me);
    else
        mutex->awake = false;
    if (!interrupted || late)
        return 0;
    mutex->overdue = false;
    if (!mutex->depth)
        wake_one(mutex); /* wakes first, because a handler may take long, or raise */
    return Py_MakePendingCalls();
}

/* 1: taken; 0: `end` has passed; -1: an exception of a signal handler. */
static int take(struct gil_mutex *mutex, const struct timespec *end)
{
    bool in_vain = false;

    if (!is_held(mutex) && (mutex->depth || (mutex->overdue && !py_is_finalizing()))) {
        do {
            bool lent = is_lent(mutex);
            struct timespec lent_end = after_ms(lent ? LENT_MS : 0);

            if (sleep_for(mutex, in_vain, lent ? &lent_end : end))
                return -1;
            if (lent && is_lent(mutex) && is_past(&lent_end))
                mutex->depth = 0; /* it is free now: the lender knows that it may lose it */
            in_vain = mutex->depth;
            if (in_vain && end && is_past(end)) {
                mutex->overdue = false; /* the next thread that takes it has slept, or is new */
                return 0;
            }
            mutex->overdue = in_vain;
        } while (in_vain);
    }
    mutex->owner = PyThread_get_thread_ident();
    if (!mutex->depth++)
        mutex->lent = false;
    return 1;
}

static PyObject *mutex_acquire(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    if (take((struct gil_mutex *)self, NULL) < 0)
        return NULL;
    Py_RETURN_TRUE;
}

static PyObject *mutex_acquire_within(PyObject *self, PyObject *seconds)
{
    double s = PyFloat_AsDouble(seconds);
    struct timespec end;
    int taken;

    if (s == -1 && PyErr_Occurred())
        return NULL;
    end = after_ms(s > 0 ? (long)(s * 1000) : 0);
    taken = take((struct gil_mutex *)self, &end);
    return taken < 0 ? NULL : PyBool_FromLong(taken);
}

/* Wakes a waiter, which begins to count the time. */
static PyObject *mutex_lend(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    struct gil_mutex *mutex = (struct gil_mutex *)self;

    if (!is_held(mutex))
        return PyErr_Format(PyExc_RuntimeError, "%U is not held by this thread", mutex->name);
    mutex->lent = true;
    wake_one(mutex);
    Py_RETURN_NONE;
}

static PyObject *mutex_release(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    struct gil_mutex *mutex = (struct gil_mutex *)self;

    if (!is_held(mutex))
        return PyErr_Format(PyExc_RuntimeError, "%U is not held by this thread", mutex->name);
    if (!--mutex->depth)
        wake_one(mutex);
    Py_RETURN_NONE;
}

static PyObject *mutex_exit(PyObject *self, PyObject *const *Py_UNUSED(exc),
                            Py_ssize_t Py_UNUSED(n))
{
    return mutex_release(self, NULL);
}

static PyObject *mutex_held(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(is_held((struct gil_mutex *)self));
}

/* Whether this thread holds one of the mutexes that are passed. */
static PyObject *mutex_any_held(PyObject *Py_UNUSED(type), PyObject *const *mutexes, Py_ssize_t n)
{
    for (Py_ssize_t i = 0; i < n; i++) {
        PyObject *held;

        if (PyObject_TypeCheck(mutexes[i], (PyTypeObject *)the_type)) {
            if (is_held((struct gil_mutex *)mutexes[i]))
                Py_RETURN_TRUE;
            continue;
        }
        held = PyObject_CallMethod(mutexes[i], "held", NULL); /* it only stands for a mutex */
        if (held != Py_False)
            return held;
        Py_DECREF(held);
    }
    Py_RETURN_FALSE;
}

static PyObject *mutex_locked(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(((struct gil_mutex *)self)->depth);
}

/* In the child of a fork, for a mutex that a thread of the parent held. */
static PyObject *mutex_forget_holder(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    ((struct gil_mutex *)self)->depth = 0;
    Py_RETURN_NONE;
}

void mutex_after_fork(void)
{
    struct gil_mutex *mutex;

    for (mutex = all_mutexes; mutex; mutex = mutex->next) {
        mutex->asleep = NULL;
        mutex->awake = mutex->overdue = false;
    }
}

static PyObject *mutex_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(kwargs))
{
    struct gil_mutex *mutex;
    PyObject *name;

    if (!PyArg_ParseTuple(args, "U:Mutex", &name))
        return NULL;
    mutex = (struct gil_mutex *)type->tp_alloc(type, 0);
    if (!mutex)
        return NULL;
    mutex->name = Py_NewRef(name);
    mutex->next = all_mutexes;
    all_mutexes = mutex;
    return (PyObject *)mutex;
}

static void mutex_dealloc(PyObject *self)
{
    struct gil_mutex *mutex = (struct gil_mutex *)self;
    PyTypeObject *type = Py_TYPE(self);
    struct gil_mutex **link = &all_mutexes;

    while (*link != mutex)
        link = &(*link)->next;
    *link = mutex->next;
    Py_DECREF(mutex->name);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyObject *get_depth(PyObject *self, void *Py_UNUSED(closure))
{
    struct gil_mutex *mutex = (struct gil_mutex *)self;

    return PyLong_FromLong(is_held(mutex) ? mutex->depth : 0);
}

static PyGetSetDef getsets[] = {
    { "depth", get_depth, NULL, PyDoc_STR("How often this thread holds it."), NULL },
    { NULL },
};

static PyMemberDef members[] = {
    { "name", T_OBJECT_EX, offsetof(struct gil_mutex, name), READONLY, NULL },
    { NULL },
};

static PyMethodDef methods[] = {
    { "acquire", mutex_acquire, METH_NOARGS, NULL },
    { "__enter__", mutex_acquire, METH_NOARGS, NULL },
    { "acquire_within", mutex_acquire_within, METH_O, NULL },
    { "lend", mutex_lend, METH_NOARGS, NULL },
    { "release", mutex_release, METH_NOARGS, NULL },
    { "__exit__", (PyCFunction)(void (*)(void))mutex_exit, METH_FASTCALL, NULL },
    { "held", mutex_held, METH_NOARGS, NULL },
    { "locked", mutex_locked, METH_NOARGS, NULL },
    { "any_held", (PyCFunction)(void (*)(void))mutex_any_held, METH_FASTCALL | METH_STATIC, NULL },
    { "forget_holder", mutex_forget_holder, METH_NOARGS, NULL },
    { NULL },
};

static PyType_Slot slots[] = {
    { Py_tp_new, mutex_new },  { Py_tp_dealloc, mutex_dealloc }, { Py_tp_members, members },
    { Py_tp_getset, getsets }, { Py_tp_methods, methods },       { 0, NULL },
};

static PyType_Spec spec = {
    .name = "memcg.core._core.Mutex",
    .basicsize = sizeof(struct gil_mutex),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = slots,
};

PyObject *mutex_type(void)
{
    the_type = PyType_FromSpec(&spec);
    return the_type;
}
