/* SPDX-License-Identifier: Apache-2.0 */
/*
 * current.h - the group of the running context.
 */
#ifndef MEMCG_CURRENT_H
#define MEMCG_CURRENT_H

#include "compat.h"
#include "memcg.h"
#include "section.h"

/* What an entry into a group is; its class is Entry in _core.pyx. */
struct entry {
    PyObject_HEAD PyObject *memcg; /* the group */
    PyObject *previous;            /* the entry before it, or None */
    struct mem_cgroup *c;          /* of memcg */
    enum shield_state {
        NO_SHIELD,
        SHIELD_UP,
        SHIELD_LEFT
    } shield; /* of memcg.shield(), in memcg */
    int slot; /* where the context maps with and without it may be kept */
};

/* The ContextVar of entries.  loaded_ver: the context's version when a thread last loaded its entry;
 * or an object, or NULL: the variable was read, set or reset since.  See current.c. */
extern struct py_context_var entry_var MEMCG_HIDDEN;

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
/* Have resumed called, in a hook, when this thread begins to run a context, or a context comes to
 * another entry. */
void current_set_resumed(void (*resumed)(PyObject *context));
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
/* Make entry (or NULL), of another context, this one's for a while, and go back to what was there before:
 * index is what the first returned. -1: an exception. */
int current_enter_bound(struct entry *entry);
int current_leave_bound(struct entry *entry, int index, struct entry *before);
/* Leave the context's entry for the one before it. 0, or -1 with an exception. */
int current_leave(void);
void current_forget(PyObject *memcg); /* drop what is kept for a group, NULL: for all */

static inline PyObject *current_context(void)
{
    return py_context(PyThreadState_Get());
} /* borrowed */

/* GIL held.  Addresses of thread states are used again; versions are not: current.c. */
static inline bool current_is_fresh(void)
{
    PyThreadState *tstate = py_tstate_quick();

    return likely(tstate == current_key.tstate) &&
           likely(*py_context_ver(tstate) == entry_var.loaded_ver);
}

static inline void current_refresh(void)
{
    if (!current_is_fresh())
        current_reload(py_tstate());
}

/* Whether this thread has it; for hooks that any thread may call. */
static inline bool current_holds_gil(void)
{
    PyThreadState *tstate = py_tstate();

    return tstate && (PY_TSTATE_IS_OWN || tstate == current_key.tstate);
}

/* What a context is to a group: outside it, inside, inside under memcg.shield(). */
enum entry_state { ENTRY_LEFT, ENTRY_INSIDE, ENTRY_SHIELDED };
enum entry_state current_state_of(PyObject *context, struct mem_cgroup *memcg);
/* Whether the context is in memcg or below it. Runs no Python code. */
bool current_is_below(PyObject *context, struct mem_cgroup *memcg);

#endif
