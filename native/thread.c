/*
 * thread.c - threads, read-side sections, and the walker that needs all of them out.
 *
 * memcg_self starts at thread_first, which is stolen for ever, so that the first call
 * takes the slow path, where a real thread is made.  A thread that ends gives its
 * slabs to their caches and its later calls (other libraries' destructors) go
 * to one locked orphan, through thread_ended, stolen as thread_first is.
 *
 * The protocol: the owner stores busy, then reads stolen; the walker stores stolen,
 * runs a barrier on every CPU, then waits for busy == 0.  One of them sees the other.
 *
 * Without membarrier an owner's store is sequentially consistent, and there is no fast path
 * (inline.h).
 *
 * A section is no place for a signal handler that allocates: as with libc, malloc is not
 * async-signal-safe.
 *
 * Kernel: membarrier(2) stands where the kernel has IPIs (slub's flush_all).
 *
 * Locks: walker_mutex: the right to steal, all_threads, free_threads; not inside a section.
 * orphan_lock: the orphan's section, before it begins.
 */
#include <linux/membarrier.h>
#include <pthread.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "inline.h"

struct slab slab_none = { .place = SLAB_FULL };
static struct thread thread_first = { .stolen = { STOLEN_SLOW } };
static struct thread thread_ended = { .stolen = { STOLEN_SLOW } };
static struct thread orphan = { .is_orphan = true };
__thread struct thread *memcg_self MEMCG_TLS_MODEL = &thread_first;

static struct mutex walker_mutex = MUTEX_INITIALIZER;
struct mutex orphan_lock = MUTEX_INITIALIZER; /* the orphan's section; held while it waits for stolen */
struct hlist_head all_threads;         /* walker_mutex */
static struct hlist_head free_threads; /* walker_mutex */
atomic_int_t thread_needs_fence;       /* set before memcg_init() by tests */
static ATOMIC(struct thread *) forking_thread; /* the thread between fork's handlers */
static pthread_key_t thread_key;

static int membarrier(int command)
{
    return (int)syscall(SYS_membarrier, command, 0, 0);
}

static bool needs_fence(void)
{
    return load_relaxed(&thread_needs_fence);
}

/* `stolen` of a thread that no walker wants.  Slow: every request is to come by a call, to be
 * failed or checked, or a section needs a fence at its beginning. */
static int stolen_idle(void)
{
    return needs_fence() || slab_debug || load_relaxed(&faults_armed)
               ? STOLEN_SLOW : 0;
}

/* Every owner's store of busy that its load of stolen has passed is visible afterwards. */
static void barrier_everywhere(void)
{
#ifndef __SANITIZE_THREAD__ /* there all four accesses are sequentially consistent */
    struct thread *t;

    if (needs_fence() || !membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED))
        return;
    /* Forbidden since we registered (seccomp): fences from now on, and time for what is in
     * store buffers, where nothing stays for a microsecond. */
    store_relaxed(&thread_needs_fence, 1);
    for_each_thread(t)
        store_seq_cst(&t->stolen, (t->wanted ? STOLEN_BY_WALKER : 0) | STOLEN_SLOW);
    usleep(10000);
#endif
}

void walker_lock(void)
{
    struct thread *t;

    mutex_lock(&walker_mutex);
    for_each_thread(t)
        t->wanted = false;
}

void walker_unlock(void)
{
    mutex_unlock(&walker_mutex);
}

void thread_steal_wanted(void)
{
    struct thread *t;

    for_each_thread(t)
        if (t->wanted)
            store_seq_cst(&t->stolen, STOLEN_BY_WALKER | stolen_idle());
    barrier_everywhere();
    for_each_thread(t)
        while (t->wanted && load_seq_cst(&t->busy))
            sched_yield();
}

void thread_steal_all(void)
{
    struct thread *t;

    mutex_lock(&walker_mutex);
    for_each_thread(t)
        t->wanted = true;
    thread_steal_wanted();
}

void thread_release_all(void)
{
    struct thread *t;

    for_each_thread(t)
        store_release(&t->stolen, stolen_idle());
    mutex_unlock(&walker_mutex);
}

void memcg_synchronize(void)
{
    thread_steal_all();
    thread_release_all();
}

/* walker_mutex and all threads stolen. */
static void thread_empty(struct thread *t)
{
    struct heap *heap;

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
    hlist_del(&t->node);
    hlist_add_head(&t->node, &free_threads);
}

static void thread_exit(void *arg)
{
    struct thread *self = arg;

    memcg_self = &thread_ended;
    thread_steal_all();
    thread_empty(self);
    thread_unlink(self);
    thread_release_all();
}

static struct thread *thread_create(void)
{
    struct thread *t;

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
    mutex_unlock(&walker_mutex);
    return t;
}

/* section_begin() that works without membarrier too. */
static bool section_begin_slow(struct thread *self)
{
    MEMCG_ASSERT(!load_relaxed(&self->busy)); /* no section inside another */
    if (section_begin(self))
        return true;
    if (!stolen_idle())
        return false;
    store_seq_cst(&self->busy, 1); /* as the walker's accesses are */
    if (!(load_seq_cst(&self->stolen) & STOLEN_BY_WALKER))
        return true;
    store_release(&self->busy, 0);
    return false;
}

struct thread *thread_enter_slow(void)
{
    struct thread *self = memcg_self;

    if (self == &thread_first)
        self = thread_create();
    if (!self || self == &thread_ended) {
        mutex_lock(&orphan_lock);
        self = &orphan;
    }
    while (!section_begin_slow(self))
        sched_yield();
    return self;
}

bool thread_is_forking(void)
{
    struct thread *t = load_relaxed(&forking_thread);

    return t && t == memcg_self;
}

/*
 * walker_mutex is ours across the fork.  orphan_lock and fault_lock may be held by a thread that the
 * child does not have, and are made anew there.  Every other lock is taken inside a section or with
 * walker_mutex held, so it is free while all threads are stolen.  Other libraries' handlers run
 * between ours, in this thread; they may allocate, so it is not stolen from itself.
 */
static void fork_prepare(void)
{
    thread_leave(thread_enter()); /* makes the thread, which needs walker_mutex */
    thread_steal_all();
    store_relaxed(&memcg_self->stolen, stolen_idle());
    store_relaxed(&forking_thread, memcg_self);
}

static void fork_parent(void)
{
    store_relaxed(&forking_thread, NULL);
    thread_release_all();
}

static void fork_child(void)
{
    struct hlist_node *next;
    struct thread *t;

    orphan_lock = (struct mutex)MUTEX_INITIALIZER; /* a dead thread may have waited with it */
    fault_fork_child();
    membarrier(MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED);
    hlist_for_each_entry_safe(t, next, &all_threads, node) {
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

    if (membarrier(MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED))
        store_relaxed(&thread_needs_fence, 1);
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
