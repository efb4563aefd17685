/* SPDX-License-Identifier: Apache-2.0 */
/*
 * served.c - whether malloc itself is served by the data plane (libmemcg_malloc), or why it cannot
 * be.
 *
 * Locks: none; written before there are threads.
 */
#include "memcg.h"

#include <string.h>

#include "base.h"

/* Only their addresses are used: NULL if the process has none of that name. */
extern void __asan_init(void) __attribute__((weak));
extern void __hwasan_init(void) __attribute__((weak));
extern void __msan_init(void) __attribute__((weak));
extern void __tsan_init(void) __attribute__((weak));

static atomic_int_t serves_c;
static const char *why_not_c;

void memcg_set_serves_c(const char *why_not)
{
    why_not_c = why_not;
    store_relaxed(&serves_c, !why_not);
}

bool memcg_serves_c(void) { return load_relaxed(&serves_c); }
const char *memcg_why_not_c(void) { return why_not_c; }

const char *memcg_malloc_is_replaced(const char *preloaded)
{
    if (__asan_init || __hwasan_init || __msan_init || __tsan_init)
        return "a sanitizer has replaced malloc in this process";
    /* Callgrind and its kin preload vgpreload_core alone. */
    for (const char *at = preloaded; at && (at = strstr(at, "/vgpreload_")); at++)
        if (strncmp(at, "/vgpreload_core", strlen("/vgpreload_core")))
            return "valgrind has replaced malloc in this process";
    return NULL;
}
