/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mutex.h - the control plane's mutexes.
 */
#ifndef MEMCG_MUTEX_H
#define MEMCG_MUTEX_H

#include "compat.h"

PyObject *mutex_type(void); /* the class: a new reference, or NULL with an exception */
/* In the child of a fork, which does not have the threads that waited. */
void mutex_after_fork(void);

#endif
