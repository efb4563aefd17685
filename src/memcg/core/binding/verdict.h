/* SPDX-License-Identifier: Apache-2.0 */
/*
 * verdict.h - whether an alarm may be raised now.  GIL held throughout.
 */
#ifndef MEMCG_VERDICT_H
#define MEMCG_VERDICT_H

#include "alarm.h"

/* find(address of code, lasti): true if a MemoryError that was raised there is alive. */
void verdict_init(PyObject *find);
/* self: the thread itself asks, at a check.  Allocates, but runs no Python code. */
enum verdict verdict_of(const struct alarm *alarm, PyThreadState *tstate, bool self);
/* Collects garbage if that may help.  DROP: the alarm is needless now; DELIVER: it is not; RETRY:
 * another collection is under way.  Called where Python code may run. */
enum verdict verdict_of_reclaim(const struct alarm *alarm);

#endif
