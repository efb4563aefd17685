/* SPDX-License-Identifier: Apache-2.0 */
/*
 * threads.c - the contexts that threads run, and those whose threads a fork has ended.
 *
 * A fork's child has one thread.  CPython drops the states of the others there, but what they ran
 * may keep their contexts: the frames that no thread goes on with, and, since 3.14, the Thread
 * objects.  Whatever these contexts have entered would be entered for ever.  Only the states tell
 * which contexts these are, so they are listed in the fork itself.  No other thread can change
 * anything then, because the thread that forks holds the GIL until it is done.
 *
 * Locks: none.  A new thread state is put at the head of the list, without the GIL; the walk passes
 * it by, or finds that it runs no context yet.
 */
#include "threads.h"

#include <pthread.h>

#include "plain.h"

static struct running *at_fork; /* GIL */
static size_t nr_at_fork;
static __thread bool listed; /* this thread is forking, and has listed them */

struct running *threads_running(size_t *n)
{
    struct running *found = NULL, *grown;
    size_t room = 0;

    *n = 0;
    for (PyThreadState *tstate = PyInterpreterState_ThreadHead(PyInterpreterState_Main()); tstate;
         tstate = PyThreadState_Next(tstate))
        for (PyObject *context = py_context(tstate); context;
             context = py_context_runner(context)) {
            if (*n == room) {
                room = room ? 2 * room : 64;
                grown = plain_realloc(found, room * sizeof(*found));
                if (!grown) /* the rest is not known */
                    return found;
                found = grown;
            }
            found[(*n)++] = (struct running){ py_thread_id(tstate), context };
        }
    return found;
}

/* C code may fork without the GIL, and its child cannot run Python code. */
static void fork_prepare(void)
{
    PyThreadState *tstate = py_tstate();

    listed = tstate && py_thread_id(tstate) == py_this_thread();
    if (!listed)
        return;
    plain_free(at_fork);
    at_fork = threads_running(&nr_at_fork);
}

static void fork_parent(void) { listed = false; }

/* CPython drops the other threads' states next. */
static void fork_child(void)
{
    size_t nr_ended = 0;

    if (!listed)
        nr_at_fork = 0;
    for (size_t i = 0; i < nr_at_fork; i++)
        if (at_fork[i].thread != py_this_thread()) {
            Py_INCREF(at_fork[i].context);
            at_fork[nr_ended++] = at_fork[i];
        }
    nr_at_fork = nr_ended;
    listed = false;
}

void threads_init(void)
{
    if (pthread_atfork(fork_prepare, fork_parent, fork_child))
        Py_FatalError("memcg: no memory for a fork handler");
}

PyObject *threads_next_ended(void)
{
    if (!nr_at_fork)
        Py_RETURN_NONE;
    return at_fork[--nr_at_fork].context;
}
