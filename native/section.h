/* SPDX-License-Identifier: Apache-2.0 */
/*
 * section.h - read-side sections, and the walker that needs all threads out of them.
 *
 * A section is entered with a store, a compiler fence and a load.  The walker (section.c) pays for
 * the fence with membarrier.  While there is a reason to be slow (no membarrier, MEMCG_DEBUG, armed
 * faults), `stolen` is never 0, and every section begins in thread_enter(), with a fence.
 * ThreadSanitizer knows neither fence, so its builds use sequentially consistent accesses.
 *
 * thread_enter_slow() is declared here and provided by thread.c above.  It is the one call up in
 * native/: the first entry of a thread makes its heaps, of which a section knows nothing.
 */
#ifndef MEMCG_SECTION_H
#define MEMCG_SECTION_H

#include "types.h"

#ifdef __GLIBC__
#define MEMCG_TLS_MODEL __attribute__((tls_model("initial-exec")))
#else
#define MEMCG_TLS_MODEL /* musl has no static TLS to spare for dlopen */
#endif

extern __thread struct thread *memcg_self MEMCG_TLS_MODEL MEMCG_EXPORT;
extern struct thread thread_unborn;   /* memcg_self of a thread that has not entered yet */
extern struct thread thread_outside;  /* memcg_self while a section or a walker calls out */
extern struct mutex walker_mutex;     /* the right to steal; never taken inside a section */
extern struct mutex orphan_lock;      /* the orphan's section; taken before it begins */
extern struct hlist_head all_threads; /* walker_mutex */
#define for_each_thread(t) hlist_for_each_entry(t, &all_threads, node)

void section_init(void); /* once, while there is one thread */
bool section_is_ready(void);
void section_fork_child(void);

/* Reasons why sections have no fast beginning, in bits. */
enum section_slow { SLOW_NO_MEMBARRIER = 1, SLOW_DEBUG = 2, SLOW_FAULTS = 4 };
/* To be called with all threads stolen, or while there is one thread. */
void section_set_slow(enum section_slow reason, bool on);
bool section_is_slow(enum section_slow reason);
int stolen_idle(void); /* the value of `stolen` while no walker wants the thread */

void thread_steal_all(void); /* takes walker_mutex; not inside a section */
void thread_release_all(void);
/* The same for some threads: walker_lock() marks none as wanted, thread_steal_wanted() steals those
 * that are. */
void walker_lock(void);         /* takes walker_mutex; not inside a section */
void thread_steal_wanted(void); /* under walker_mutex; thread_release_all() ends it */
void walker_unlock(void);       /* if no thread was stolen */
/* True between fork's handlers in the thread that forks.  It is the walker and is not stolen from
 * itself. */
bool thread_is_forking(void);
void thread_set_forking(bool on);

struct thread *thread_enter_slow(void); /* thread.c */

/* Around each call of code that is not ours, from a section or by a walker.  That code may call
 * malloc (pthread_create() does, say), and malloc may be ours: outside, it is glibc's. */
static inline struct thread *section_go_out(void)
{
    struct thread *self = memcg_self;

    memcg_self = &thread_outside;
    return self;
}

static inline void section_come_back(struct thread *self) { memcg_self = self; }

/* section_begin() that also works where a section needs a fence. */
bool section_begin_slow(struct thread *self);

/* Pairs with thread_steal_all(): either we see stolen, or the walker sees busy. */
static inline bool section_begin(struct thread *self)
{
#ifdef __SANITIZE_THREAD__
    store_seq_cst(&self->busy, 1);
    if (!load_seq_cst(&self->stolen))
        return true;
#else
    store_relaxed(&self->busy, 1);
    compiler_fence();
    if (__builtin_expect(!load_acquire(&self->stolen), 1))
        return true;
#endif
    store_release(&self->busy, 0);
    return false;
}

static inline void section_end(struct thread *self) { store_release(&self->busy, 0); }

/* Begins a section; makes the thread on its first entry. */
static inline struct thread *thread_enter(void)
{
    struct thread *self = memcg_self;

    MEMCG_ASSERT(load_relaxed(&self->stolen) ||
                 !load_relaxed(&self->busy)); /* no section inside another */
    return likely(section_begin(self)) ? self : thread_enter_slow();
}

static inline void thread_leave(struct thread *self)
{
    section_end(self);
    if (unlikely(self->is_orphan))
        mutex_unlock(&orphan_lock);
}

/* ---- asserts ----
 *
 * assert_section(t): this thread may touch what t's section protects: it is in that section, or it
 * is a walker that has stolen t (or is t), or no other thread sees t yet.  assert_any_section(): it
 * is in some section or is a walker, so it may take a leaf lock.  assert_walker(): it has stolen
 * threads. */
#ifdef MEMCG_DEBUG_VM
static inline bool section_is_held(const struct thread *t)
{
    if (!t->node.pprev) /* no other thread sees it */
        return true;
    if (load_relaxed(&t->busy) &&
        (t == memcg_self || (t->is_orphan && mutex_is_held(&orphan_lock))))
        return true;
    return mutex_is_held(&walker_mutex) &&
           (t == memcg_self || load_relaxed(&t->stolen) & STOLEN_BY_WALKER);
}

static inline bool any_section_is_held(void)
{
    return hlist_empty(&all_threads) || memcg_self == &thread_outside ||
           load_relaxed(&memcg_self->busy) || mutex_is_held(&orphan_lock) ||
           mutex_is_held(&walker_mutex);
}
#endif
#define assert_section(t) MEMCG_ASSERT(section_is_held(t))
#define assert_any_section() MEMCG_ASSERT(any_section_is_held())
#define assert_walker() assert_locked(&walker_mutex)

#endif
