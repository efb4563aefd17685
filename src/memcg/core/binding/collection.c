/* SPDX-License-Identifier: Apache-2.0 */
/*
 * collection.c - collects garbage for a group at its limit.
 *
 * A collection takes the whole process's garbage and holds the GIL, so one that frees too little is
 * not repeated at once.
 *
 * Locks: none; the GIL throughout.
 */
#include "collection.h"

#include <time.h>

#define FUTILE (128 << 10) /* bytes; a collection that frees less is in vain */
#define VAIN_FREE 2        /* collections in vain that may follow each other without a pause */
#define VAIN_PAUSE 8       /* the pause after the next one, as a multiple of its duration */

static PyObject *collect;

static int64_t monotonic_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/*
 * A group that meets its limit again and again would have the whole process collected each time,
 * and its neighbours wait, because a collection holds the GIL.  After a few in vain there is a
 * pause, so that they take a ninth of the time at most.
 */
bool collection_is_due(struct mem_cgroup *limited)
{
    return monotonic_ns() >= mem_cgroup_collect_after(limited);
}

void collection_ended(struct mem_cgroup *limited, int64_t freed, int64_t ns)
{
    int64_t max = mem_cgroup_get_limit(limited, MEMCG_MAX);
    /* or an earlier collection did */
    bool helped = freed >= FUTILE || mem_cgroup_usage(limited) < max - max / 8;
    int vain = helped ? 0 : mem_cgroup_vain(limited) + 1;

    mem_cgroup_set_collect_after(limited, vain > VAIN_FREE ? monotonic_ns() + VAIN_PAUSE * ns : 0,
                                 vain);
}

/*
 * Garbage may be all that fills the group, even if some was collected since the alarm was posted,
 * so it is collected here and now.  If a collection is under way, for example because this runs in
 * a finalizer, it returns false.  The GIL is held, and Python code may run here.
 */
bool collection_run(const struct memcg_failure *failure)
{
    struct mem_cgroup *limited = failure->limited;
    PyObject *type, *value, *traceback, *found;
    int64_t before = mem_cgroup_usage(limited), began = monotonic_ns(), freed;
    bool done;

    PyErr_Fetch(&type, &value, &traceback);
    memcg_stop_kmem_account();
    found = PyObject_CallNoArgs(collect);
    done = found != Py_False;
    if (!found)
        PyErr_WriteUnraisable(collect);
    Py_XDECREF(found);
    memcg_resume_kmem_account();
    PyErr_Restore(type, value, traceback);
    if (!done)
        return false;
    mem_cgroup_high_done(limited);
    mem_cgroup_reclaim(limited);
    freed = before - mem_cgroup_usage(limited);
    collection_ended(limited, freed, monotonic_ns() - began);
    mem_cgroup_set_alarmed(failure->memcg,
                           freed < FUTILE ? MEMCG_COLLECTED_IN_VAIN : MEMCG_NOT_ALARMED);
    return true;
}

void collection_init(PyObject *callable)
{
    Py_INCREF(callable);
    collect = callable;
}
