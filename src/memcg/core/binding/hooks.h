/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hooks.h - CPython's allocators.
 */
#ifndef MEMCG_HOOKS_H
#define MEMCG_HOOKS_H

#include "compat.h"
#include "kmalloc.h"

/* The file whose hooks stand in CPython's allocators before ours are installed; NULL: there is
 * none. */
const char *hooks_stranger(void);
/* 0, or -1 with an exception. A second call does nothing. */
int hooks_install(void);
int hooks_installed(void);
/* True if it is the RAW domain's malloc of now, as we set it. */
bool hooks_is_raw(void *(*malloc_function)(void *, size_t));
/* From now on new RAW requests are passed to the allocator before us. Our blocks can still be
 * freed. */
void hooks_exiting(void);

/* nelem elements of elsize bytes, all zero. NULL: it was refused, or the product overflows. */
static inline void *zero_malloc(size_t nelem, size_t elsize)
{
    size_t size;
    void *p;

    if (unlikely(__builtin_mul_overflow(nelem, elsize, &size)))
        return NULL;
    if (size > KMALLOC_MAX_CACHE_SIZE)
        return memcg_calloc(size);
    p = memcg_malloc_fast(size);
    if (likely(p != NULL))
        memset(p, 0, size);
    return p;
}

#endif
