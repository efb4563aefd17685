/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libc.c - glibc's functions that malloc.c replaces, where they have no second name.
 *
 * dlsym() may call calloc(), which is ours and then asks glibc.  It calls none of the two functions
 * that are looked up here.
 *
 * Locks: none; two threads that look a function up find the same.
 */
#define _GNU_SOURCE
#include "libc.h"

#include <dlfcn.h>

#include "base.h"

typedef size_t (*usable_size_fn)(void *);
typedef int (*trim_fn)(size_t);

size_t libc_usable_size(void *p)
{
    static ATOMIC(usable_size_fn) found;
    usable_size_fn fn = load_relaxed(&found);

    if (!fn) {
        *(void **)&fn = dlsym(RTLD_NEXT, "malloc_usable_size");
        store_relaxed(&found, fn);
    }
    return fn ? fn(p) : 0;
}

int libc_trim(size_t pad)
{
    static ATOMIC(trim_fn) found;
    trim_fn fn = load_relaxed(&found);

    if (!fn) {
        *(void **)&fn = dlsym(RTLD_NEXT, "malloc_trim");
        store_relaxed(&found, fn);
    }
    return fn ? fn(pad) : 0;
}
