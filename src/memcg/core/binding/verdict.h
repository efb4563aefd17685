/* SPDX-License-Identifier: Apache-2.0 */
/*
 * verdict.h - whether an alarm may be raised now.  GIL held throughout.
 */
#ifndef MEMCG_VERDICT_H
#define MEMCG_VERDICT_H

#include "alarm.h"

/* find(code's address, lasti): whether a MemoryError is alive that was raised there. */
void verdict_init(PyObject *find);
/* Frames of this code are left alone too; for comparison only, NULL: of none. */
void verdict_set_unraisable(PyObject *code);
/* self: the thread itself asks, at a check.  Allocates, but runs no Python code. */
enum verdict verdict_of(const struct alarm *alarm, PyThreadState *tstate, bool self);
/* Whether it is needless after garbage is collected: DROP; DELIVER: it is not; RETRY: another collection
 * is under way.  Where Python code may run. */
enum verdict verdict_of_reclaim(const struct alarm *alarm);

#endif
