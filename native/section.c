/* SPDX-License-Identifier: Apache-2.0 */
/*
 * section.c - the protocol of sections and walkers.
 *
 * The owner stores busy, then reads stolen.  The walker stores stolen, runs a barrier on every CPU,
 * then waits for busy == 0.  So at least one of them sees the other's store.  Without membarrier an
 * owner's store is sequentially consistent, and there is no fast path (section.h).
 *
 * A signal handler must not allocate: as with libc, malloc is not async-signal-safe, and the
 * handler may have interrupted a section.
 *
 * Kernel: membarrier(2) stands where the kernel has IPIs (slub's flush_all).
 *
 * Locks: walker_mutex: the right to steal, all_threads; it is taken outside sections only.
 * orphan_lock: the orphan's section; it is taken before that section begins.
 */
#include "section.h"

#include <linux/membarrier.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

struct thread thread_unborn = { .stolen = { STOLEN_SLOW } }; /* for ever: its first call is slow */
struct thread thread_outside = { .stolen = { STOLEN_SLOW } };
__thread struct thread *memcg_self MEMCG_TLS_MODEL = &thread_unborn;

struct mutex walker_mutex = MUTEX_INITIALIZER;
struct mutex orphan_lock = MUTEX_INITIALIZER;  /* held while the orphan waits for a walker too */
struct hlist_head all_threads;                 /* walker_mutex */
static ATOMIC(struct thread *) forking_thread; /* the thread between fork's handlers, or NULL */
static atomic_uint_t slow_reasons;             /* section_slow bits */
static bool ready;                             /* set once, before there are threads */

static int membarrier(int command) { return (int)syscall(SYS_membarrier, command, 0, 0); }

void section_init(void)
{
    ready = true;
    if (membarrier(MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED))
        section_set_slow(SLOW_NO_MEMBARRIER, true);
}

bool section_is_ready(void) { return ready; }

void section_set_slow(enum section_slow reason, bool on)
{
    unsigned reasons = load_relaxed(&slow_reasons);

    store_relaxed(&slow_reasons, on ? reasons | reason : reasons & ~(unsigned)reason);
}

bool section_is_slow(enum section_slow reason) { return load_relaxed(&slow_reasons) & reason; }

int stolen_idle(void) { return load_relaxed(&slow_reasons) ? STOLEN_SLOW : 0; }

/* Afterwards, if an owner has already loaded stolen, its store of busy is visible. */
static void barrier_everywhere(void)
{
    assert_walker();
#ifndef __SANITIZE_THREAD__ /* in its builds all four accesses are sequentially consistent */
    struct thread *t;

    if (section_is_slow(SLOW_NO_MEMBARRIER) || !membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED))
        return;
    /* It worked when we registered and is forbidden now (seccomp).  From now on sections begin with
     * fences.  A store that is still in a store buffer leaves it within a microsecond, so the sleep
     * covers it. */
    section_set_slow(SLOW_NO_MEMBARRIER, true);
    for_each_thread(t) store_seq_cst(&t->stolen, (t->wanted ? STOLEN_BY_WALKER : 0) | STOLEN_SLOW);
    usleep(10000);
#endif
}

void walker_lock(void)
{
    struct thread *t;

    mutex_lock(&walker_mutex);
    for_each_thread(t) t->wanted = false;
}

void walker_unlock(void) { mutex_unlock(&walker_mutex); }

void thread_steal_wanted(void)
{
    struct thread *t;

    assert_walker();
    for_each_thread(t) if (t->wanted) store_seq_cst(&t->stolen, STOLEN_BY_WALKER | stolen_idle());
    barrier_everywhere();
    for_each_thread(t) while (t->wanted && load_seq_cst(&t->busy)) sched_yield();
}

void thread_steal_all(void)
{
    struct thread *t;

    mutex_lock(&walker_mutex);
    for_each_thread(t) t->wanted = true;
    thread_steal_wanted();
}

void thread_release_all(void)
{
    struct thread *t;

    for_each_thread(t) store_release(&t->stolen, stolen_idle());
    mutex_unlock(&walker_mutex);
}

bool memcg_is_outside(void) { return memcg_self == &thread_outside; }

void memcg_synchronize(void)
{
    thread_steal_all();
    thread_release_all();
}

bool section_begin_slow(struct thread *self)
{
    MEMCG_ASSERT(!load_relaxed(&self->busy)); /* no section inside another */
    if (section_begin(self))
        return true;
    if (!stolen_idle())
        return false;
    store_seq_cst(&self->busy, 1); /* sequentially consistent, as the walker's accesses are */
    if (!(load_seq_cst(&self->stolen) & STOLEN_BY_WALKER))
        return true;
    store_release(&self->busy, 0);
    return false;
}

bool thread_is_forking(void)
{
    struct thread *t = load_relaxed(&forking_thread);

    return t && t == memcg_self;
}

void thread_set_forking(bool on) { store_relaxed(&forking_thread, on ? memcg_self : NULL); }

void section_fork_child(void)
{
    orphan_lock = (struct mutex)MUTEX_INITIALIZER; /* a thread that the child does not have may hold
                                                    * it */
    membarrier(MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED);
}
