/* SPDX-License-Identifier: Apache-2.0 */
/*
 * plain.h - memory that no group is charged for: glibc's own, also where malloc is ours.
 */
#ifndef MEMCG_PLAIN_H
#define MEMCG_PLAIN_H

#include <stddef.h>

/* As the functions of the C library.  free() takes such memory too. */
void *plain_malloc(size_t size);
void *plain_calloc(size_t nelem, size_t elsize);
void *plain_realloc(void *p, size_t size);
void plain_free(void *p);

#endif
