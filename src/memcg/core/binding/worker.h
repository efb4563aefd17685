/* SPDX-License-Identifier: Apache-2.0 */
/*
 * worker.h - a thread that comes for a kind of work, and goes.
 */
#ifndef MEMCG_WORKER_H
#define MEMCG_WORKER_H

#include "compat.h"

enum worker_kind { WORKER_EVENTS, WORKER_ALARM, NR_WORKERS };

/* work: what WORKER_EVENTS calls in its thread, GIL held. run_worker(kind): calls worker_run, then
 * worker_ended. traced: tracemalloc is tracing. */
void worker_init(PyObject *work, PyObject *run_worker, int traced);
/* Have fn called by a worker of this kind, in its thread, GIL held. Before the first worker_wake(kind). */
void worker_register(enum worker_kind kind, void (*fn)(void));
void worker_ended(enum worker_kind kind);
void worker_run(enum worker_kind kind);         /* GIL held */
void worker_wake(enum worker_kind kind);        /* any context */
bool worker_is_starting(enum worker_kind kind); /* it was woken and has not begun */
bool worker_is_held(void);
bool worker_wait(double seconds); /* until no worker is at work, at most so long (below 0:
                                     for ever): true; releases the GIL */
void worker_hold(void);           /* no worker starts until worker_release by this thread */
void worker_release(void);        /* GIL held */
void worker_stop(void); /* worker_hold for ever; then as worker_wait, but not for the alarm's */
void worker_after_fork(void);

#endif
