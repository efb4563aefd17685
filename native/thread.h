/* SPDX-License-Identifier: Apache-2.0 */
/*
 * thread.h - a thread's life.
 */
#ifndef MEMCG_THREAD_H
#define MEMCG_THREAD_H

#include "types.h"

int thread_init(void); /* once; the caller is the only thread */

#endif
