/* SPDX-License-Identifier: Apache-2.0 */
/*
 * plain.c - memory that no group is charged for.
 *
 * A report would otherwise list its own tables as memory of the group that it is about.  Where
 * there is no second name for the C library's functions, malloc is never ours (native/preload).  A
 * sanitizer must see every allocation.
 */
#include "plain.h"

#include <stdlib.h>

#if defined(__GLIBC__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
void *__libc_malloc(size_t size);
void *__libc_calloc(size_t nelem, size_t elsize);
void *__libc_realloc(void *p, size_t size);
void __libc_free(void *p);
#else
#define __libc_malloc malloc
#define __libc_calloc calloc
#define __libc_realloc realloc
#define __libc_free free
#endif

void *plain_malloc(size_t size) { return __libc_malloc(size); }

void *plain_calloc(size_t nelem, size_t elsize) { return __libc_calloc(nelem, elsize); }

void *plain_realloc(void *p, size_t size) { return __libc_realloc(p, size); }

void plain_free(void *p) { __libc_free(p); }
