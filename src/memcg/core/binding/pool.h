/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pool.h - the group of threads that C code has started.
 */
#ifndef MEMCG_POOL_H
#define MEMCG_POOL_H

#include "compat.h"
#include "memcg.h"

/* GIL held, all but pool_answers().  Before pool_start() they do nothing. */
void pool_start(void);
extern bool pool_is_on MEMCG_HIDDEN;
void pool_enter(struct mem_cgroup *memcg, PyObject *context);
void pool_leave(struct mem_cgroup *memcg, PyObject *context);
void pool_forget(struct mem_cgroup *memcg); /* nothing is inside any more */
void pool_after_fork(void);

/* True if this thread was started by C code and runs no Python code.  Needs no GIL. */
bool pool_is_mine(void);
/* Which thread and context answer for what such a thread charges to memcg: those that entered memcg,
 * or a group below it, last.  False: none did. */
bool pool_answers(struct mem_cgroup *memcg, unsigned long *thread, PyObject **context);
/* Notes that such a thread was refused. */
void pool_note_refusal(const struct memcg_failure *failure);
/* Takes the last refusal of such a thread since memcg was entered in this context.  False: none. */
bool pool_take_refusal(struct mem_cgroup *memcg, PyObject *context, struct memcg_failure *failure);

#endif
