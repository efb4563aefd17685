/* SPDX-License-Identifier: Apache-2.0 */
/*
 * worker.h - threads that are started for one kind of work and end after it.
 */
#ifndef MEMCG_WORKER_H
#define MEMCG_WORKER_H

#include "compat.h"

enum worker_kind { WORKER_EVENTS, WORKER_ALARM, NR_WORKERS };

/* work: the function that WORKER_EVENTS calls in its thread, GIL held. run_worker(kind): calls
 * worker_run, then worker_ended. traced: tracemalloc is tracing. */
void worker_init(PyObject *work, PyObject *run_worker, int traced);
/* Has fn called by a worker of this kind, in its thread, GIL held. Call it before the first
 * worker_wake(kind). */
void worker_register(enum worker_kind kind, void (*fn)(void));
void worker_ended(enum worker_kind kind);
void worker_run(enum worker_kind kind);         /* GIL held */
void worker_wake(enum worker_kind kind);        /* from any context */
bool worker_is_starting(enum worker_kind kind); /* it was woken and has not begun */
bool worker_is_at_work(enum worker_kind kind);  /* it has not ended; false for itself */
bool worker_is_held(void);
/* Waits until no worker runs, for at most so many seconds (below 0: for ever). True: none runs.
 * Releases the GIL. */
bool worker_wait(double seconds);
void worker_hold(void);    /* no worker starts until this thread calls worker_release */
void worker_release(void); /* GIL held */
/* Holds workers for ever, and waits as worker_wait does, but for the alarm worker a second only. */
void worker_stop(void);
void worker_after_fork(void);

#endif
