/* SPDX-License-Identifier: Apache-2.0 */
/* contender.h - the functions of native/ours.c; for peers they are malloc and free. */
#ifndef CONTENDER_H
#define CONTENDER_H

#include <stddef.h>
#include <stdlib.h>

#ifdef OURS
void *bench_malloc(size_t size);
void bench_free(void *p);
void bench_enter(void);  /* puts this thread into the group; once per thread */
void bench_worker(void); /* does the control plane's work between rounds */
#else
#define bench_malloc malloc
#define bench_free free
static inline void bench_enter(void) {}
static inline void bench_worker(void) {}
#endif

#endif
