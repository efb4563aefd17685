/* SPDX-License-Identifier: Apache-2.0 */
/*
 * malloc.h - the C library's malloc, served by the data plane.
 */
#ifndef MEMCG_MALLOC_H
#define MEMCG_MALLOC_H

#include "base.h"

/* 1 once the data plane serves; set by start.c. */
extern atomic_int_t malloc_serves MEMCG_HIDDEN;

/* For other names of malloc: caller is an address in the code that asks. */
void *malloc_for(size_t size, const void *caller);
void *calloc_for(size_t nelem, size_t elsize, const void *caller);
void *realloc_for(void *p, size_t size, const void *caller);
void *memalign_for(size_t align, size_t size, const void *caller);
void free_block(void *p);

#endif
