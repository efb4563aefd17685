/* SPDX-License-Identifier: Apache-2.0 */
/*
 * thread.c - a thread's life: its first entry, its end, a fork.
 *
 * memcg_self starts as thread_unborn, which is stolen for ever.  So the first call takes the slow
 * path, where a real thread is made.  A thread that ends gives its slabs to their caches.  It may
 * still make calls afterwards, from other libraries' destructors.  They find thread_gone, which is
 * stolen for ever too, and use the one orphan under its lock.
 *
 * Kernel: none; ours (CPUs do not end).
 * Locks: walker_mutex: all_threads, free_threads.
 */
#include "thread.h"

#include <pthread.h>
#include <sched.h>

#include "arena.h"
#include "event.h"
#include "fault.h"
#include "publish.h"
#include "shared.h"

static struct thread thread_gone = { .stolen = { STOLEN_SLOW } };
static struct thread orphan = { .is_orphan = true };
static struct hlist_head free_threads; /* walker_mutex */
static pthread_key_t thread_key;

static void thread_empty(struct thread *t)
{
    struct heap *heap;

    assert_walker();
    thread_collect(t);
    while ((heap = hlist_first_entry(&t->heaps, struct heap, node)))
        heap_drop(heap);
    if (t->by_id)
        metadata_free(t->by_id, sizeof(*t->by_id) * (size_t)t->nr_by_id);
    t->by_id = NULL;
    t->nr_by_id = 0;
    store_relaxed(&t->heap, NULL);
    t->root_heap = t->shared_heap = NULL;
    t->kmalloc = NULL;
}

static void thread_unlink(struct thread *t)
{
    assert_walker();
    hlist_del(&t->node);
    hlist_add_head(&t->node, &free_threads);
}

static void thread_exit(void *arg)
{
    struct thread *self = arg;

    memcg_self = &thread_gone;
    thread_steal_all();
    thread_empty(self);
    thread_unlink(self);
    thread_release_all();
}

static struct thread *thread_create(void)
{
    struct thread *t;

    memcg_self = &thread_outside; /* pthread_setspecific() may call malloc */
    mutex_lock(&walker_mutex);
    t = hlist_first_entry(&free_threads, struct thread, node);
    if (t)
        hlist_del(&t->node);
    else
        t = metadata_alloc(sizeof(*t));
    if (t) {
        memset(t, 0, sizeof(*t));
        t->current = &root_mem_cgroup;
        store_plain(&t->stolen, stolen_idle());
        if (heap_init(t) || pthread_setspecific(thread_key, t)) {
            thread_empty(t);
            hlist_add_head(&t->node, &free_threads);
            t = NULL;
        } else {
            hlist_add_head(&t->node, &all_threads);
            memcg_self = t;
        }
    }
    if (!t)
        memcg_self = &thread_unborn;
    mutex_unlock(&walker_mutex);
    return t;
}

struct thread *thread_enter_slow(void)
{
    struct thread *self = memcg_self;

    if (self == &thread_unborn)
        self = thread_create();
    if (!self || self == &thread_gone) {
        mutex_lock(&orphan_lock);
        self = &orphan;
    }
    while (!section_begin_slow(self))
        sched_yield();
    return self;
}

/*
 * walker_mutex is held across the fork. orphan_lock and fault_lock may be held by a thread that the
 * child does not have, and are made anew there.  Every other lock is taken inside a section or with
 * walker_mutex held, so it is free while all threads are stolen.  Other libraries' handlers run
 * between ours, in this thread.  They may allocate, so this thread is not stolen from itself.
 */
static void fork_prepare(void)
{
    thread_leave(thread_enter()); /* makes the thread, for which walker_mutex must be free */
    thread_steal_all();
    store_relaxed(&memcg_self->stolen, stolen_idle());
    thread_set_forking(true);
    publish_pause();
}

static void fork_parent(void)
{
    publish_resume();
    thread_set_forking(false);
    thread_release_all();
}

static void fork_child(void)
{
    struct hlist_node *next;
    struct thread *t;

    section_fork_child();
    fault_fork_child();
    publish_fork_child();
    hlist_for_each_entry_safe(t, next, &all_threads, node)
    {
        if (t == memcg_self || t->is_orphan)
            continue;
        thread_empty(t);
        thread_unlink(t);
    }
    event_fork_child();
    fork_parent();
}

int thread_init(void)
{
    int error;

    section_init();
    error = -pthread_key_create(&thread_key, thread_exit);
    if (error)
        return error;
    error = -pthread_atfork(fork_prepare, fork_parent, fork_child);
    if (error)
        return error;
    orphan.current = &root_mem_cgroup;
    store_plain(&orphan.stolen, stolen_idle());
    error = heap_init(&orphan);
    hlist_add_head(&orphan.node, &all_threads);
    return error;
}
