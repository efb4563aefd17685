/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mutex.h - the control plane's mutexes.
 */
#ifndef MEMCG_MUTEX_H
#define MEMCG_MUTEX_H

#include "compat.h"

PyObject *mutex_type(void);  /* the class: a new reference, or NULL with an exception */
void mutex_after_fork(void); /* in the child: the threads that waited are gone */

#endif
