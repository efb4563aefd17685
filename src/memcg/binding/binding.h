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
/* What an entry into a group is; its class is Entry in _core.pyx. */
struct entry {
    PyObject_HEAD
    PyObject *memcg;         /* the group */
    PyObject *previous;      /* the entry before it, or None */
    struct mem_cgroup *c;    /* of memcg */
    int shielded;            /* depth of memcg.shield() */
    int slot;                /* where the context maps with and without it may be kept */
};

/* What the thread's group was read from; see current_refresh(). */
struct current_key {
    PyThreadState *tstate; /* never NULL */
    uint64_t context_ver;
    PyObject *context;   /* borrowed, for comparison only */
    struct entry *entry; /* borrowed from the context; NULL: none */
};
extern __thread struct current_key current_key MEMCG_TLS_MODEL;

/* var: the ContextVar of entries. Called once, GIL held. */
void current_init(PyObject *var);
void current_reload(PyThreadState *tstate);
/* This context's entry; borrowed, NULL: none. */
struct entry *current_entry_now(void);
/* Enter memcg again as it was entered from this very context map before; false: not known. */
int current_enter_again(PyObject *memcg);
/* Make entry (or NULL) the context's. -1: an exception; else, of ENTER_BOUND, the index (below). */
enum entering { ENTER_NOT, ENTER_GROUP, ENTER_BOUND };
int current_set_entry(struct entry *entry, enum entering enter);
/* Make entry (or NULL), of another context, this one's for a while, and go back to what was there before: index
 * is what the first returned. -1: an exception. */
int current_enter_bound(struct entry *entry);
int current_leave_bound(struct entry *entry, int index, struct entry *before);
/* Leave the context's entry for the one before it. 0, or -1 with an exception. */
int current_leave(void);
void current_forget(PyObject *memcg); /* drop what is kept for a group, NULL: for all */

static inline PyThreadState *tstate_get(void)
{
#if PY_VERSION_HEX >= 0x030d0000
    return PyThreadState_GetUnchecked();
#else
    return _PyThreadState_UncheckedGet();
#endif
}

#if PY_VERSION_HEX < 0x030c0000
extern PyThreadState **tstate_now MEMCG_HIDDEN; /* where CPython keeps it; a NULL if that is not known */
#endif

/* GIL held.  Addresses of thread states are used again; versions are not: current.c. */
static inline bool current_is_fresh(void)
{
#if PY_VERSION_HEX < 0x030c0000
    PyThreadState *tstate = __atomic_load_n(tstate_now, __ATOMIC_RELAXED);
#else
    PyThreadState *tstate = tstate_get();
#endif

    return likely(tstate == current_key.tstate) &&
           likely(tstate->context_ver == current_key.context_ver);
}

static inline void current_refresh(void)
{
    if (!current_is_fresh())
        current_reload(tstate_get());
}

/* ---- hooks.c: CPython's allocators and NumPy's ---------------------------- */
/* The file whose hooks stand in CPython's allocators before ours are in; NULL: nobody's. */
const char *hooks_stranger(void);
/* 0, or -1 with an exception. Once; a second call is nothing. */
int hooks_install(void);
int hooks_installed(void);
bool hooks_is_raw(void *(*malloc_function)(void *, size_t)); /* as it was set in the RAW domain */
int hooks_header(void); /* bytes that CPython's debug hooks put before a block of ours */
/* From now on new RAW requests go where they went before us; our free goes on. */
void hooks_exiting(void);
/* array_api: NumPy's _ARRAY_API capsule.  0, or -1 with an exception. */
int hooks_numpy(PyObject *array_api);

/* ---- alarm.c: MemcgOOM in the offender ------------------------------------ */
/* What a context is to a group: outside it, inside, inside under memcg.shield(). */
enum entry_state { ENTRY_LEFT, ENTRY_INSIDE, ENTRY_SHIELDED };
enum entry_state entry_state_of(PyObject *context, struct mem_cgroup *memcg);

/* exception: a class; collect: collects, or returns False; modules, functions: frozensets of names
 * whose frames are left alone. On the main thread. */
void alarm_init(PyObject *exception, PyObject *collect, PyObject *modules, PyObject *functions);
void alarm_work(void); /* GIL held: until nothing is left to be tried again */
void alarm_resume(PyObject *context); /* in a hook: the context runs, in this thread */
/* Leaving memcg: true if an alarm was not raised yet and reclaim does not make it needless; it is
 * the caller's to raise. */
bool alarm_take(struct mem_cgroup *memcg, struct memcg_failure *failure);
bool alarm_last(struct memcg_failure *failure); /* the last that was delivered to this thread */
void alarm_forget(struct mem_cgroup *memcg);    /* before it is freed */
void alarm_after_fork(void);

/* ---- instruction.c: where an exception may come ---------------------------- */
/* PLACE_JUMP: not here, but in the loop's body. at_check: CPython is checking at this moment. */
enum place { PLACE_NO, PLACE_JUMP, PLACE_OK };
enum place instruction_place(PyFrameObject *frame, bool at_check);

/* ---- caller.c: for MEMCG_DEBUG=U -------------------------------------------- */
void caller(char *text, size_t n); /* "file:line in function"; a memcg_caller_fn */
void *caller_frame(PyThreadState *tstate); /* the innermost, for comparison only */

/* ---- mutex.c: the control plane's mutexes ----------------------------------- */
PyObject *mutex_type(void); /* the class: a new reference, or NULL with an exception */
void mutex_after_fork(void); /* in the child: who waited is gone */

/* ---- worker.c: a thread when the data plane has events --------------------- */
/* work: called in the thread, GIL held. run_worker(kind): calls worker_run, then worker_ended.
 * traced: tracemalloc is tracing. */
void worker_init(PyObject *work, PyObject *run_worker, int traced);
void worker_ended(void);
enum worker_kind { WORKER_EVENTS, WORKER_ALARM, NR_WORKERS };
void worker_run(enum worker_kind kind);  /* GIL held */
void worker_wake(enum worker_kind kind); /* any context */
void worker_wait(void);    /* until no worker is at work; releases the GIL */
void worker_hold(void);    /* no worker starts until worker_release by this thread */
void worker_release(void); /* GIL held */
void worker_stop(void);    /* worker_hold for ever; then as worker_wait */
void worker_after_fork(void);

#endif
