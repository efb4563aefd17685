/* SPDX-License-Identifier: Apache-2.0 */
/*
 * base.h - what every file of native/ starts from: hints, asserts, a mutex.
 *
 * MEMCG_ASSERT checks invariants in debug builds (MEMCG_DEBUG_VM); release builds compile it to
 * nothing.
 */
#ifndef MEMCG_BASE_H
#define MEMCG_BASE_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "atomic.h"
#include "memcg.h"

#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)
#define ALIGN_UP(n, align) (((n) + (align) - 1) / (align) * (align))
/* Avoids the detour by the global offset table: -fvisibility covers definitions only. */
#define MEMCG_HIDDEN __attribute__((visibility("hidden")))
/* A function that reads, without any order, what another thread writes. It says why that is
 * safe. */
#define racy __attribute__((noinline, no_sanitize("thread")))

#ifdef MEMCG_DEBUG_VM
#define MEMCG_ASSERT(condition)                                                    \
    do {                                                                           \
        if (!(condition)) {                                                        \
            fprintf(stderr, "memcg: %s:%d: %s\n", __FILE__, __LINE__, #condition); \
            abort();                                                               \
        }                                                                          \
    } while (0)
#else
#define MEMCG_ASSERT(condition) ((void)0)
#endif

struct mutex {
    pthread_mutex_t lock;
#ifdef MEMCG_DEBUG_VM
    ATOMIC(pthread_t) owner; /* 0: no thread holds it */
#endif
};
#define MUTEX_INITIALIZER { .lock = PTHREAD_MUTEX_INITIALIZER }

#ifdef MEMCG_DEBUG_VM
#define mutex_set_owner(m, thread) store_relaxed(&(m)->owner, thread)
#define mutex_is_held(m) (load_relaxed(&(m)->owner) == pthread_self()) /* held by this thread */
#else
#define mutex_set_owner(m, thread) ((void)0)
#endif
/* Kernel: lockdep_assert_held(). */
#define assert_locked(m) MEMCG_ASSERT(mutex_is_held(m))

static inline void mutex_init(struct mutex *m)
{
    pthread_mutex_init(&m->lock, NULL);
    mutex_set_owner(m, 0);
}

static inline void mutex_lock(struct mutex *m)
{
    pthread_mutex_lock(&m->lock);
    mutex_set_owner(m, pthread_self());
}

static inline void mutex_unlock(struct mutex *m)
{
    mutex_set_owner(m, 0);
    pthread_mutex_unlock(&m->lock);
}

#endif
