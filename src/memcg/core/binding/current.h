/* SPDX-License-Identifier: Apache-2.0 */
/*
 * current.h - the group of the running context.
 */
#ifndef MEMCG_CURRENT_H
#define MEMCG_CURRENT_H

#include "compat.h"
#include "memcg.h"
#include "section.h"

/* An entry into a group; its class is Entry in _groups.pyx. */
struct entry {
    PyObject_HEAD PyObject *memcg; /* the group */
    PyObject *previous;            /* the entry before it, or None */
    struct mem_cgroup *c;          /* memcg's own structure */
    enum shield_state {
        NO_SHIELD,
        SHIELD_UP,
        SHIELD_LEFT
    } shield; /* whether memcg.shield() made it, in memcg, and still protects */
    int slot; /* where the context maps with and without it may be kept */
};

/* The ContextVar of entries. loaded_ver is the context's version when a thread last loaded its
 * entry. It is an object or NULL if the variable was read, set or reset since. See current.c. */
extern struct py_context_var entry_var MEMCG_HIDDEN;

/* From where the thread's group was read; see current_refresh(). */
struct current_key {
    PyThreadState *tstate; /* never NULL */
    uint64_t context_ver;
    PyObject *context;   /* borrowed, for comparison only */
    struct entry *entry; /* borrowed from the context; NULL: none */
    bool is_foreign;     /* the variable holds a value that is no entry */
};
extern __thread struct current_key current_key MEMCG_TLS_MODEL;

/* var: a ContextVar, which is copied and becomes the one of entries; type: the class of entries.
 * Returns the copy, a new reference, or NULL with an exception. Called once, GIL held. */
PyObject *current_init(PyObject *var, PyTypeObject *type);
/* Has `resumed` called, in a hook, when this thread begins to run a context or a context gets
 * another entry. */
void current_set_resumed(void (*resumed)(PyObject *context));
void current_reload(PyThreadState *tstate);
/* The value that other code has set the variable to, if it is no entry; borrowed. Call it after
 * current_refresh(). */
PyObject *current_foreign_value(void);
/* This context's entry; borrowed; NULL: none. */
struct entry *current_entry_now(void);
/* The entry that a context has by itself, or None: a new reference. Runs no Python code. */
PyObject *current_entry_in(PyObject *context);
/* Enters memcg again if it was entered from this very context map before. 0: not known. */
int current_enter_again(PyObject *memcg);
/* Makes entry (or NULL) the context's. -1: an exception; ENTER_BOUND returns the index for
 * current_leave_bound(). */
enum entering { ENTER_NOT, ENTER_GROUP, ENTER_BOUND };
int current_set_entry(struct entry *entry, enum entering enter);
/* Makes an entry of another context (or NULL) this context's for a while, and then restores the one
 * before it. index is what the first function returned. -1: an exception. */
int current_enter_bound(struct entry *entry);
int current_leave_bound(struct entry *entry, int index, struct entry *before);
/* Leaves the context's entry for the one before it. 0, or -1 with an exception. */
int current_leave(void);
void current_forget_last(PyObject *memcg); /* the maps of its last entry */
void current_forget(PyObject *memcg);      /* drops the maps kept for a group; NULL: for all */

static inline PyObject *current_context(void)
{
    return py_context(PyThreadState_Get());
} /* borrowed */

/* GIL held. Addresses of thread states are used again, but their versions are not: current.c. */
static inline bool current_is_fresh_for(PyThreadState *tstate)
{
    return likely(tstate == current_key.tstate) &&
           likely(*py_context_ver(tstate) == entry_var.loaded_ver);
}

static inline bool current_is_fresh(void) { return current_is_fresh_for(py_tstate_quick()); }

static inline void current_refresh(void)
{
    if (!current_is_fresh())
        current_reload(py_tstate());
}

/* True if this thread holds the GIL; for hooks that any thread may call. */
static inline bool current_holds_gil(void)
{
    PyThreadState *tstate = py_tstate();

    return tstate && (PY_TSTATE_IS_OWN || tstate == current_key.tstate);
}

/* How a context stands to a group: outside it, inside, or inside under memcg.shield(). */
enum entry_state { ENTRY_LEFT, ENTRY_INSIDE, ENTRY_SHIELDED };
enum entry_state current_state_of(PyObject *context, struct mem_cgroup *memcg);
/* True if the context is in memcg or below it. Runs no Python code. */
bool current_is_below(PyObject *context, struct mem_cgroup *memcg);

#endif
