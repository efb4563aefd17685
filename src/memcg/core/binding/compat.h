/* SPDX-License-Identifier: Apache-2.0 */
/*
 * compat.h - what the binding knows of CPython beyond its documented interface.
 *
 * compat.h and compat.c alone know CPython's version, its internal headers and the layout of its
 * structures: a port to the next version is a reading of these two files.  Everything that they
 * offer begins with py_ or PY_.
 *
 * Versions: 3.11 to 3.13, with the GIL.
 */
#ifndef MEMCG_COMPAT_H
#define MEMCG_COMPAT_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "base.h"

/* Looks up once what only a running interpreter shows; the GIL is held.  Until then, and where CPython
 * is not as expected, the slower way is taken. */
void py_init(void);

/* ---- what the versions differ in ------------------------------------------- */

/* py_tstate() is the calling thread's own state, or NULL.  Before 3.12 it is the state of whichever
 * thread holds the GIL. */
#define PY_TSTATE_IS_OWN (PY_VERSION_HEX >= 0x030c0000)
/* A pending call can be made by whichever thread comes to a check first.  Before 3.12 only the main
 * thread makes pending calls. */
#define PY_CALLS_ANY_THREAD (PY_VERSION_HEX >= 0x030c0000)

/* ---- thread states ----------------------------------------------------------- */

static inline PyThreadState *py_tstate(void)
{
#if PY_VERSION_HEX >= 0x030d0000
    return PyThreadState_GetUnchecked();
#else
    return _PyThreadState_UncheckedGet();
#endif
}

#if PY_VERSION_HEX < 0x030c0000
extern PyThreadState **py_tstate_now
    MEMCG_HIDDEN; /* where CPython keeps it; a NULL if that is not known */
#endif

/* py_tstate(), without a call where CPython's place for it is known; NULL for "not known" too. */
static inline PyThreadState *py_tstate_quick(void)
{
#if PY_VERSION_HEX < 0x030c0000
    return __atomic_load_n(py_tstate_now, __ATOMIC_RELAXED);
#else
    return py_tstate();
#endif
}

/* This thread, as py_thread_id() tells it. */
static inline unsigned long py_this_thread(void) { return (unsigned long)pthread_self(); }
static inline PyInterpreterState *py_interpreter(const PyThreadState *tstate)
{
    return tstate->interp;
}
static inline unsigned long py_thread_id(const PyThreadState *tstate) { return tstate->thread_id; }
/* The thread has memory for the frames of Python functions: it has run one. */
static inline bool py_has_frame_memory(const PyThreadState *tstate)
{
    return tstate->datastack_chunk;
}
/* A trace or profile function runs in the thread. */
static inline bool py_is_tracing(const PyThreadState *tstate) { return tstate->tracing; }
/* What PyThreadState_SetAsyncExc() left for the thread and it has not raised; borrowed, NULL: none. */
static inline PyObject *py_async_exc(const PyThreadState *tstate) { return tstate->async_exc; }

/* Whether matches() says so of an exception that the thread is handling: one that an `except`, a
 * `finally` or an __exit__ of it runs for. */
bool py_is_handling(PyThreadState *tstate, bool (*matches)(PyObject *error));

bool py_is_main_thread(void); /* GIL held */
bool py_is_finalizing(void);  /* the interpreter ends: daemon threads do not get the GIL any more */

/* A new thread state for a thread that CPython did not start; NULL: no memory. No GIL needed. */
PyThreadState *py_new_tstate(void);
void py_new_tstate_init(void); /* once, before the first; GIL held */

/* Show an error that ended a thread that runs fn, as CPython does. */
void py_show_error_of_thread(PyObject *fn, PyObject *error);

/* ---- calls at a thread's next check ------------------------------------------- */

/* Have fn called by whichever thread comes to a check first; false: the queue is full, or never where
 * !PY_CALLS_ANY_THREAD. */
bool py_call_any_thread(int (*fn)(void *));
/* Have fn called at this thread's next line, unless a debugger traces it; false: it does, or
 * PY_CALLS_ANY_THREAD, where it is not needed.  GIL held. */
bool py_call_at_next_line(void (*fn)(void));

/* ---- contexts ------------------------------------------------------------------ */

/* CPython's PyContextVar, with its cache under a name of ours: current.c. */
struct py_context_var {
    uintptr_t gc_head[2];
    PyObject object;
    PyObject *name, *default_value;
    uint64_t loaded_ver; /* CPython keeps an object here, or NULL */
    uint64_t cached_tsid, cached_tsver;
    Py_hash_t hash;
};
/* Make *copy the ContextVar, which hands over what it refers to.  0, or -1 with an exception. */
int py_copy_context_var(struct py_context_var *copy, PyObject *var);

static inline PyObject *py_context(const PyThreadState *tstate) { return tstate->context; }
/* Counts the changes of the thread's context; begins at 1 in each thread state. */
static inline uint64_t *py_context_ver(PyThreadState *tstate) { return &tstate->context_ver; }

extern size_t py_map_offset MEMCG_HIDDEN; /* 0: a context is not as we know it */

/* Where a context keeps its immutable map of values; NULL: not known. */
static inline PyObject **py_context_map(PyObject *context)
{
    return context && py_map_offset ? (PyObject **)((char *)context + py_map_offset) : NULL;
}

/* The context that runs this one, while it does; borrowed, NULL: none, or not known. */
PyObject *py_context_runner(PyObject *context);

/* ---- frames -------------------------------------------------------------------- */

typedef struct _PyInterpreterFrame py_frame; /* that runs: no object of CPython's yet */

py_frame *py_running_frame(PyThreadState *tstate);   /* the innermost; NULL: none */
py_frame *py_frame_before(py_frame *frame);          /* that called it; NULL: none */
PyCodeObject *py_frame_code(py_frame *frame);        /* borrowed */
PyObject *py_frame_globals(py_frame *frame);         /* borrowed */
int py_frame_lasti(py_frame *frame);                 /* as a traceback's tb_lasti */
PyObject **py_frame_locals(py_frame *frame, int *n); /* as co_localsplusnames; a NULL is unset */
size_t py_frame_object_bytes(py_frame *frame);       /* that a frame object of it would take */
/* Of a frame object, a generator, a coroutine; NULL: it has ended. */
py_frame *py_frame_of(PyObject *op);
/* An address in the C frame that runs the thread's Python code; the highest of all: not known. */
uintptr_t py_c_stack(PyThreadState *tstate);

/* ---- bytecode ------------------------------------------------------------------ */

enum py_instruction { /* up to JUMP_BACKWARD: CPython checks after it */
                      PY_OTHER,
                      PY_RESUME,
                      PY_CALL,
                      PY_JUMP_BACKWARD,
                      PY_JUMP_IF, /* of 3.11; it jumps, and CPython checks, or neither */
                      PY_COMPARE, /* may be one with a JUMP_IF that follows */
                      PY_GET_AWAITABLE,
                      PY_EXTENDED_ARG,
};
enum py_instruction py_instruction(unsigned char opcode);
/* The code unit of the handler for a code unit, or -1. */
int py_handler_of(PyCodeObject *code, int unit);

/* ---- attributes without a dict --------------------------------------------------- */

/* The name of owner's attribute that is this value; borrowed, NULL: none. */
PyObject *py_attribute_name(PyObject *owner, PyObject *value);
/* The dict that the attributes of such an object are in after all; NULL: none. */
PyObject *py_managed_dict(PyObject *owner);
/* The words in front of the object that lead to its values: from *from to *to; false: none. */
bool py_words_before(PyObject *op, const uintptr_t **from, const uintptr_t **to);

/* ---- allocators -------------------------------------------------------------------- */

/*
 * With PYTHONMALLOC=debug and -X dev CPython's debug hooks stand above ours, where they see every
 * block.  The two below are PyMem_GetAllocator() and PyMem_SetAllocator() beneath them.
 */
void py_find_debug_hooks(void);
void py_get_allocator(PyMemAllocatorDomain domain, PyMemAllocatorEx *allocator);
void py_set_allocator(PyMemAllocatorDomain domain, PyMemAllocatorEx *allocator);
int py_debug_header(void); /* bytes that the debug hooks put before a block; 0: there are none */

#endif
