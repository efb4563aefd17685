/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tls.h - thread-local variables of other files that have no name to link to.
 *
 * A variable of a program, or of a library that was loaded with it, lies at one offset from the
 * thread pointer in all threads.
 */
#ifndef MEMCG_TLS_H
#define MEMCG_TLS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

static inline char *tls_pointer(void)
{
#if defined(__x86_64__)
    char *pointer; /* its own address is the first word there */

    __asm__("mov %%fs:0, %0" : "=r"(pointer));
    return pointer;
#else
    return __builtin_thread_pointer();
#endif
}

/* This thread's word at an offset. */
static inline void *tls_read(intptr_t offset)
{
#if defined(__x86_64__)
    return *(void *__seg_fs *)(uintptr_t)offset;
#else
    return *(void **)(tls_pointer() + offset);
#endif
}

/* The thread-local variables of one file, as the calling thread has them. */
struct tls_block {
    const void *function; /* the file contains it */
    char *start;
    size_t bytes;
    bool is_program; /* the file is the program itself */
};

/* Fills in the variables of the file that contains `function`. False: this thread has none. */
bool tls_find(const void *function, struct tls_block *block);
/* True if the block lies at the same offset in every thread. It may start a thread, and waits until
 * that has ended. */
bool tls_is_fixed(const struct tls_block *block);

#endif
