/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libc.h - glibc's own allocator, which serves what the data plane cannot.
 */
#ifndef MEMCG_LIBC_H
#define MEMCG_LIBC_H

#include <stddef.h>

void *__libc_malloc(size_t size);
void *__libc_calloc(size_t nelem, size_t elsize);
void *__libc_realloc(void *p, size_t size);
void *__libc_memalign(size_t align, size_t size);
void __libc_free(void *p);
/* malloc_usable_size() and malloc_trim() have no second name, so they are looked up. */
size_t libc_usable_size(void *p);
int libc_trim(size_t pad);

#endif
