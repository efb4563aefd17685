/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pool.c - the group of threads that C code has started: the pools of polars, Arrow and DuckDB.
 *
 * Such a thread works for whichever Python thread has called the library, and it is not known for
 * which.  So it charges the nearest common ancestor of the groups that are entered at the moment:
 * where only one is, that group; where two tenants are, their parent.  It never charges one group for
 * what another has asked for.  What is known of a context is the group that it entered last.
 *
 * A thread looks at the common group when its fast path has run dry, not at each request.  So up to
 * a sheaf of a size class (native/README.md) may be charged to the group before.
 *
 * It runs no Python code in which an exception could be raised.  So its alarms are raised in the
 * context that entered the group last, or in the main thread for the root.
 *
 * Locks: pool_lock, a leaf: the entries.  They are written with the GIL held too.
 */
#include "pool.h"

#include <pthread.h>

#define NR_INSIDE 256 /* contexts that have entered groups; where there are more, it is the root */

static struct inside {
    struct mem_cgroup *memcg;
    unsigned long thread;
    PyObject *context; /* for comparison only */
    bool is_outer;     /* the same context has entered another group since */
    bool was_refused;
    struct memcg_failure failure;
} inside[NR_INSIDE];  /* pool_lock; the oldest first */
static int nr_inside; /* pool_lock */
static int nr_more;   /* GIL: entries for which there was no room */
static pthread_mutex_t pool_lock = PTHREAD_MUTEX_INITIALIZER;
bool pool_is_on;

static bool is_below(struct mem_cgroup *memcg, const struct mem_cgroup *top)
{
    while (memcg && memcg != top)
        memcg = mem_cgroup_parent(memcg);
    return memcg;
}

/* Tells the data plane which group it is now. */
static void set_common(void)
{
    struct mem_cgroup *common = nr_more ? mem_cgroup_root() : NULL;

    for (int i = 0; i < nr_inside; i++) {
        if (inside[i].is_outer)
            continue;
        if (!common)
            common = inside[i].memcg;
        while (!is_below(inside[i].memcg, common))
            common = mem_cgroup_parent(common);
    }
    memcg_set_pool_group(common);
}

/* The newest entry of a context that is no outer one, or with `outer` one that is; -1: none. */
static int newest_of(PyObject *context, bool outer)
{
    int i = nr_inside - 1;

    while (i >= 0 && (inside[i].context != context || inside[i].is_outer != outer))
        i--;
    return i;
}

void pool_enter(struct mem_cgroup *memcg, PyObject *context)
{
    int outer;

    if (!pool_is_on)
        return;
    pthread_mutex_lock(&pool_lock);
    outer = newest_of(context, false);
    if (nr_inside == NR_INSIDE) {
        nr_more++;
    } else {
        if (outer >= 0)
            inside[outer].is_outer = true;
        inside[nr_inside++] =
            (struct inside){ .memcg = memcg, .thread = py_this_thread(), .context = context };
    }
    pthread_mutex_unlock(&pool_lock);
    set_common();
}

static void drop(int i)
{
    bool was_outer = inside[i].is_outer;
    PyObject *context = inside[i].context;

    nr_inside--;
    memmove(inside + i, inside + i + 1, sizeof(*inside) * (size_t)(nr_inside - i));
    if (!was_outer && (i = newest_of(context, true)) >= 0)
        inside[i].is_outer = false;
}

void pool_leave(struct mem_cgroup *memcg, PyObject *context)
{
    int i, elsewhere = -1;

    if (!pool_is_on)
        return;
    pthread_mutex_lock(&pool_lock);
    for (i = nr_inside - 1; i >= 0; i--) {
        if (inside[i].memcg == memcg && inside[i].context == context)
            break;
        if (inside[i].memcg == memcg && elsewhere < 0)
            elsewhere = i; /* it was entered in a context that is left in a copy */
    }
    i = i >= 0 ? i : elsewhere;
    if (i >= 0)
        drop(i);
    else if (nr_more)
        nr_more--;
    pthread_mutex_unlock(&pool_lock);
    set_common();
}

void pool_forget(struct mem_cgroup *memcg)
{
    if (!nr_inside)
        return;
    pthread_mutex_lock(&pool_lock);
    for (int i = nr_inside - 1; i >= 0; i--)
        if (inside[i].memcg == memcg)
            drop(i);
    pthread_mutex_unlock(&pool_lock);
    set_common();
}

void pool_after_fork(void)
{
    pthread_mutex_init(&pool_lock, NULL);
    for (int i = nr_inside - 1; i >= 0; i--)
        if (inside[i].thread != py_this_thread())
            drop(i);
    nr_more = 0;
    if (pool_is_on)
        set_common();
}

/* ---- in hooks --------------------------------------------------------------------- */

bool pool_is_mine(void) { return !PyGILState_GetThisThreadState(); }

/* The newest entry into memcg or a group below it, or NULL. */
static struct inside *newest_in(const struct mem_cgroup *memcg)
{
    for (int i = nr_inside - 1; i >= 0; i--)
        if (is_below(inside[i].memcg, memcg))
            return &inside[i];
    return NULL;
}

bool pool_answers(struct mem_cgroup *memcg, unsigned long *thread, PyObject **context)
{
    struct inside *found;

    pthread_mutex_lock(&pool_lock);
    found = newest_in(memcg);
    if (found) {
        *thread = found->thread;
        *context = found->context;
    }
    pthread_mutex_unlock(&pool_lock);
    return found;
}

void pool_note_refusal(const struct memcg_failure *failure)
{
    struct inside *found;

    pthread_mutex_lock(&pool_lock);
    found = newest_in(failure->memcg);
    if (found) {
        found->was_refused = true;
        found->failure = *failure;
    }
    pthread_mutex_unlock(&pool_lock);
}

bool pool_take_refusal(struct mem_cgroup *memcg, PyObject *context, struct memcg_failure *failure)
{
    bool was_refused = false;

    if (!pool_is_on)
        return false;
    pthread_mutex_lock(&pool_lock);
    for (int i = nr_inside - 1; i >= 0 && !was_refused; i--)
        if (inside[i].memcg == memcg && inside[i].context == context && inside[i].was_refused) {
            was_refused = true;
            inside[i].was_refused = false;
            *failure = inside[i].failure;
        }
    pthread_mutex_unlock(&pool_lock);
    return was_refused;
}

void pool_start(void)
{
    pool_is_on = true;
    memcg_set_pool(pool_is_mine);
}
