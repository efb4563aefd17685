/*
 * binding.h - the only code that includes Python.h: hooks, the current group, alarms.
 *
 * Inside a hook nothing here blocks, runs Python code or allocates from Python.
 * Law 1 of docs/design.md.
 */
#ifndef MEMCG_BINDING_H
#define MEMCG_BINDING_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "inline.h"
#include "memcg.h"

/* ---- current.c: the group of the running context ------------------------- */
/* What the thread's group was read from; see current_refresh(). */
struct current_key {
    PyThreadState *tstate;
    uint64_t id, context_ver;
    PyObject *context; /* borrowed, for comparison only */
};
extern __thread struct current_key current_key;

/* var: the ContextVar; entry_memcg: the group an entry names. Called once, GIL held. */
void current_init(PyObject *var, struct mem_cgroup *(*entry_memcg)(PyObject *entry));
void current_reload(PyThreadState *tstate);
/* The entry in a context (borrowed) or NULL. Runs no Python code, allocates nothing. */
PyObject *current_entry_of(PyObject *context);
/* After an entry was set: the thread's group is memcg (NULL: root) until the context changes. */
void current_set(struct mem_cgroup *memcg);

static inline PyThreadState *tstate_get(void)
{
#if PY_VERSION_HEX >= 0x030d0000
    return PyThreadState_GetUnchecked();
#else
    return _PyThreadState_UncheckedGet();
#endif
}

/*
 * GIL held.  The version alone is no key: it starts at 1 in each thread state, and addresses of
 * thread states are used again.
 */
static inline void current_refresh(void)
{
    PyThreadState *tstate = tstate_get();

    if (likely(tstate == current_key.tstate && tstate &&
               tstate->context_ver == current_key.context_ver && tstate->id == current_key.id))
        return;
    current_reload(tstate);
}

/* ---- hooks.c: CPython's allocators and NumPy's ---------------------------- */
/* 0, or -1 with an exception. Once; a second call is nothing. */
int hooks_install(void);
int hooks_installed(void);
/* From now on new RAW requests go where they went before us; our free goes on. */
void hooks_exiting(void);
/* array_api: NumPy's _ARRAY_API capsule.  0, or -1 with an exception. */
int hooks_numpy(PyObject *array_api);

/* ---- worker.c: a thread when the data plane has events --------------------- */
/* work: called in the thread, GIL held; borrowed for ever. */
void worker_init(PyObject *work);
void worker_wake(void);    /* any context */
void worker_wait(void);    /* until no worker is at work; releases the GIL */
void worker_stop(void);    /* wakes are ignored from now on; then as worker_wait */
void worker_after_fork(void);

#endif
