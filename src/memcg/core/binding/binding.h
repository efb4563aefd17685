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

#include "debug.h"
#include "fault.h"
#include "kmalloc.h"
#include "kmem_cache.h"
#include "memcg.h"

/* ---- current.c: the group of the running context ------------------------- */
/* What an entry into a group is; its class is Entry in _core.pyx. */
struct entry {
    PyObject_HEAD
    PyObject *memcg;         /* the group */
    PyObject *previous;      /* the entry before it, or None */
    struct mem_cgroup *c;    /* of memcg */
    enum shield_state { NO_SHIELD, SHIELD_UP, SHIELD_LEFT } shield; /* of memcg.shield(), in memcg */
    int slot;                /* where the context maps with and without it may be kept */
};

/* The ContextVar of entries: CPython's PyContextVar, with its cache used by us; see current.c. */
struct context_var {
    uintptr_t gc_head[2];
    PyObject object;
    PyObject *name, *default_value;
    uint64_t loaded_ver; /* the context's version when a thread last loaded its entry; or an object,
                          * or NULL: the variable was read, set or reset since */
    uint64_t cached_tsid, cached_tsver;
    Py_hash_t hash;
};
extern struct context_var entry_var MEMCG_HIDDEN;

/* What the thread's group was read from; see current_refresh(). */
struct current_key {
    PyThreadState *tstate; /* never NULL */
    uint64_t context_ver;
    PyObject *context;   /* borrowed, for comparison only */
    struct entry *entry; /* borrowed from the context; NULL: none */
    bool is_foreign;     /* the variable holds what is no entry */
};
extern __thread struct current_key current_key MEMCG_TLS_MODEL;

/* var: a ContextVar that the one of entries becomes a copy of; type: of entries. Returns the copy, a
 * new reference, or NULL with an exception. Called once, GIL held. */
PyObject *current_init(PyObject *var, PyTypeObject *type);
void current_reload(PyThreadState *tstate);
/* What others have set the variable to, if that is no entry; borrowed. After current_refresh(). */
PyObject *current_foreign_value(void);
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
           likely(tstate->context_ver == entry_var.loaded_ver);
}

static inline void current_refresh(void)
{
    if (!current_is_fresh())
        current_reload(tstate_get());
}

/* Whether this thread has it; for hooks that any thread may call. */
static inline bool current_holds_gil(void)
{
    PyThreadState *tstate = tstate_get();

#if PY_VERSION_HEX < 0x030c0000 /* the running thread's, whichever that is */
    return tstate && tstate == current_key.tstate;
#else
    return tstate != NULL;
#endif
}

/* Whether the context is in memcg or below it. Runs no Python code. */
bool context_is_below(PyObject *context, struct mem_cgroup *memcg);

/* ---- opened.c: the contexts that a group was entered in ------------------- */
struct opened {
    PyObject *context; /* borrowed, for comparison only */
    long n;            /* times that it was entered there and not left there */
};
/* All 0 at first.  GIL held. */
struct opened_table {
    struct opened first;        /* most groups are entered in one context at a time */
    struct opened *more;        /* a hash table of `size`, with `nr_used` places that are not new */
    unsigned int nr_used, size; /* size is 0 or a power of two */
};
void opened_add(struct opened_table *table, PyObject *context);
void opened_remove(struct opened_table *table, PyObject *context); /* if it is there */
bool opened_has(const struct opened_table *table, PyObject *context);
void opened_clear(struct opened_table *table);

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

/* ---- caller.c: the innermost Python frame, without allocating ------------------- */
void caller(char *text, size_t n); /* "file:line in function"; a memcg_caller_fn */
void *caller_frame(PyThreadState *tstate); /* for comparison only */
/* In a hook, GIL held: whether a frame object of the innermost frame, or of the one before it, takes so
 * many bytes. */
bool caller_frame_takes(size_t bytes);
PyObject *caller_globals(PyThreadState *tstate); /* borrowed; NULL: no frame */
struct caller_line {
    PyObject *code; /* borrowed, for comparison only; NULL: no frame */
    int lasti;      /* as a traceback's tb_lasti */
};
struct caller_line caller_line(PyThreadState *tstate);
/* An address in the C frame that runs it; the highest address of all: not known. */
uintptr_t caller_stack(PyThreadState *tstate);

/* ---- refusal.c: requests that must not be refused ----------------------------- */
/* modules: the names of those that are guarded. 0, or -1 with an exception. */
int refusal_init(PyObject *modules);
/* Whether code of one of them runs whose frame has these globals. GIL held; runs no Python code
 * and allocates nothing. */
bool refusal_is_guarded(PyObject *globals);
bool refusal_is_unheard(void); /* in a hook: a guarded module's code asks */
/* In a hook: a request was refused. true: so was one before, here in this context, and no
 * MemoryError has gone since; *before: where. */
bool refusal_note(const struct memcg_failure *failure, struct caller_line *before);
/* Whether a refusal became a MemoryError: it did, for Python code; perhaps, and C code dropped it; it
 * did not. */
enum refusal_doubt { REFUSAL_HEARD, REFUSAL_HIDDEN, REFUSAL_SILENT };
/* Take the running context's last refusal in memcg. GIL held. */
enum refusal_doubt refusal_take(struct mem_cgroup *memcg, struct memcg_failure *failure,
                                struct caller_line *line);

/* ---- alarm.c: MemcgOOM in the offender ------------------------------------ */
/* What a context is to a group: outside it, inside, inside under memcg.shield(). */
enum entry_state { ENTRY_LEFT, ENTRY_INSIDE, ENTRY_SHIELDED };
enum entry_state entry_state_of(PyObject *context, struct mem_cgroup *memcg);

/* exception: a class; collect: collects, or returns False; find(code's address, lasti): whether a
 * MemoryError is alive that was raised there; functions: a frozenset of names whose frames are left
 * alone, as those of guarded modules are. On the main thread, after refusal_init. */
void alarm_init(PyObject *exception, PyObject *collect, PyObject *find, PyObject *functions);
void alarm_work(void); /* GIL held: until nothing is left to be tried again */
void alarm_resume(PyObject *context); /* in a hook: the context runs, in this thread */
/* Leaving memcg: true if an alarm was not raised yet and reclaim does not make it needless; it is
 * the caller's to raise. Growth after one that was raised is none: handling it may have taken that. */
bool alarm_take(struct mem_cgroup *memcg, struct memcg_failure *failure);
void alarm_ask_check(void); /* in a hook, GIL held: throttle_at_check() at this thread's next one */
/* GIL held: garbage may be collected for limited, and was; freed: bytes of its usage. */
bool collection_is_due(struct mem_cgroup *limited);
void collection_ended(struct mem_cgroup *limited, int64_t freed, int64_t ns);
void alarm_stop(void);      /* before the interpreter ends: none is raised from now on */
bool alarm_last(struct memcg_failure *failure); /* the last that was delivered to this thread */
void alarm_forget(struct mem_cgroup *memcg);    /* before it is freed */
void alarm_after_fork(void);

/* ---- throttle.c: what bounds an offender that goes on ------------------------ */
void throttle_init(void);
/* In a hook: this thread was refused at the ceiling of limited, for so many times now. */
void throttle_owe(struct mem_cgroup *limited, unsigned refusals);
bool throttle_is_due(void); /* this thread has to come to throttle_at_check() */
void throttle_at_check(void); /* GIL held, where it may be given up */
void throttle_ask_line(void); /* 3.11: it is called at this thread's next line */
void throttle_after_fork(void);

/* ---- instruction.c: where an exception may come ---------------------------- */
/* PLACE_JUMP: not here, but in the loop's body. at_check: CPython is checking at this moment. */
enum place { PLACE_NO, PLACE_JUMP, PLACE_OK };
enum place instruction_place(PyFrameObject *frame, bool at_check);

/* ---- mutex.c: the control plane's mutexes ----------------------------------- */
PyObject *mutex_type(void); /* the class: a new reference, or NULL with an exception */
void mutex_after_fork(void); /* in the child: who waited is gone */

/* ---- holders.c: what the memory of a group is ------------------------------- */
/* types: a list of every type; tracked: of what the collector tracks now; frozen: gc.freeze() hides
 * some of it. (number of blocks, [(kind, objects, bytes)], [(object, kind, bytes, guessed, path)]),
 * the last of the biggest, biggest first. kind: a type, a user's Cache, or None. guessed: object is one
 * that points to it. object and path (of object, see referrers()): None if there is none. */
PyObject *holders_scan(struct mem_cgroup *memcg, PyObject *types, PyObject *tracked, int frozen);

/* ---- worker.c: a thread when the data plane has events --------------------- */
/* work: called in the thread, GIL held. run_worker(kind): calls worker_run, then worker_ended.
 * traced: tracemalloc is tracing. */
void worker_init(PyObject *work, PyObject *run_worker, int traced);
enum worker_kind { WORKER_EVENTS, WORKER_ALARM, NR_WORKERS };
void worker_ended(enum worker_kind kind);
void worker_run(enum worker_kind kind);  /* GIL held */
void worker_wake(enum worker_kind kind); /* any context */
bool worker_is_starting(enum worker_kind kind); /* it was woken and has not begun */
bool worker_is_held(void);
bool worker_wait(double seconds); /* until no worker is at work, at most so long (below 0:
                                     for ever): true; releases the GIL */
void worker_hold(void);    /* no worker starts until worker_release by this thread */
void worker_release(void); /* GIL held */
void worker_stop(void);    /* worker_hold for ever; then as worker_wait, but not for the alarm's */
void worker_after_fork(void);

#endif
