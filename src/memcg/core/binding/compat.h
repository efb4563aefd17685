/* SPDX-License-Identifier: Apache-2.0 */
/*
 * compat.h - what the binding knows of CPython beyond its documented interface.
 *
 * Only compat.h and compat.c know CPython's version, its internal headers and the layout of its
 * structures.  To port to the next version, read these two files.  All names that they offer begin
 * with py_ or PY_.
 *
 * Versions: 3.11 to 3.15, with the GIL.  core/__init__.py and meson.build name them too.
 */
#ifndef MEMCG_COMPAT_H
#define MEMCG_COMPAT_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#if PY_VERSION_HEX < 0x030b0000 || PY_VERSION_HEX >= 0x03100000
#error "memcg charges on CPython 3.11 to 3.15; nobody has read the internals of this one yet"
#endif

#include "atomic.h"
#include "base.h"
#include "tls.h"

/* Looks up once what only a running interpreter shows; the GIL is held.  Until then, and if CPython
 * is not as expected, slower ways are used. */
void py_init(void);

/* ---- what the versions differ in ------------------------------------------- */

/* py_tstate() is the calling thread's own state, or NULL.  Before 3.12 it is the state of the
 * thread that holds the GIL. */
#define PY_TSTATE_IS_OWN (PY_VERSION_HEX >= 0x030c0000)
/* A pending call is made by the first thread that gets to a check.  Before 3.12 only the main
 * thread makes pending calls. */
#define PY_CALLS_ANY_THREAD (PY_VERSION_HEX >= 0x030c0000)
/* ARENA_SIZE of Objects/obmalloc.c, which has asked for no other size since 3.10 on 64 bits. */
#define PYMALLOC_ARENA_BYTES ((size_t)1 << 20)

/* ---- thread states ----------------------------------------------------------- */

static inline PyThreadState *py_tstate(void)
{
#if PY_VERSION_HEX >= 0x030d0000
    return PyThreadState_GetUnchecked();
#else
    return _PyThreadState_UncheckedGet();
#endif
}

/* Where CPython keeps it, and until that is known a place that has no thread state. */
#if PY_VERSION_HEX < 0x030c0000
typedef ATOMIC(PyThreadState *) atomic_tstate_t;
extern atomic_tstate_t *py_tstate_now MEMCG_HIDDEN;
#else
extern intptr_t py_tstate_offset MEMCG_HIDDEN; /* 0: the C library's own word */
#endif

/* py_tstate(), without a call if CPython's place for it is known.  If not, it is no thread
 * state. */
static inline PyThreadState *py_tstate_quick(void)
{
#if PY_VERSION_HEX < 0x030c0000
    return load_relaxed(py_tstate_now);
#else
    return tls_read(py_tstate_offset);
#endif
}

/* True if that place is not known, so that only a call returns the state. */
static inline bool py_tstate_is_hidden(void)
{
#if PY_VERSION_HEX < 0x030c0000
    return false;
#else
    return unlikely(!py_tstate_offset);
#endif
}

/* This thread's id, as in py_thread_id(). */
static inline unsigned long py_this_thread(void) { return (unsigned long)pthread_self(); }
static inline PyInterpreterState *py_interpreter(const PyThreadState *tstate)
{
    return tstate->interp;
}
static inline unsigned long py_thread_id(const PyThreadState *tstate) { return tstate->thread_id; }
/* The thread has memory for the frames of Python functions, because it has run one. */
static inline bool py_has_frame_memory(const PyThreadState *tstate)
{
    return tstate->datastack_chunk;
}
/* A trace or profile function runs in the thread. */
static inline bool py_is_tracing(const PyThreadState *tstate) { return tstate->tracing; }
/* What PyThreadState_SetAsyncExc() has left for the thread and it has not yet raised; borrowed;
 * NULL: none. */
static inline PyObject *py_async_exc(const PyThreadState *tstate) { return tstate->async_exc; }

/* True if matches() accepts an exception that the thread is handling, that is, one for which an
 * `except`, a `finally` or an __exit__ of it runs. */
bool py_is_handling(PyThreadState *tstate, bool (*matches)(PyObject *error));

/* True while the collector of the thread's interpreter is at work; false in a release other than the headers'.
 * GIL held. */
bool py_is_collecting(const PyThreadState *tstate);
/* True for a function of CPython's that calls the collector, and whatever else. */
bool py_calls_anything(uintptr_t function);

/* True if this thread holds its interpreter's GIL.  PyGILState_Check() is always true once there was
 * another interpreter. */
bool py_holds_gil(void);
bool py_is_main_thread(void); /* GIL held */
/* True if `refs` references are all that refer to an object.  There is no weak one. */
bool py_has_only(PyObject *op, Py_ssize_t refs);
bool py_is_finalizing(void); /* the interpreter is ending: daemon threads get the GIL no more */

/* Makes a thread state for a thread that CPython did not start.  NULL: no memory.  Needs no GIL. */
PyThreadState *py_new_tstate(void);
void py_new_tstate_init(void); /* once, before the first one is made; GIL held */

/* Shows an error that has ended a thread that ran fn, as CPython does. */
void py_show_error_of_thread(PyObject *fn, PyObject *error);

/* ---- calls at a thread's next check ------------------------------------------- */

/* Has fn called by the first thread that gets to a check.  False: the queue is full, or
 * !PY_CALLS_ANY_THREAD. */
bool py_call_any_thread(int (*fn)(void *));
/* Has fn called at this thread's next line.  False: a debugger traces the thread, or
 * PY_CALLS_ANY_THREAD, where it is not needed.  GIL held. */
bool py_call_at_next_line(void (*fn)(void));

/* ---- contexts ------------------------------------------------------------------ */

/* CPython's PyContextVar; current.c uses its cache, under a name of ours. */
struct py_context_var {
    uintptr_t gc_head[2];
    PyObject object;
    PyObject *name, *default_value;
    uint64_t loaded_ver; /* CPython keeps an object or NULL here */
    uint64_t cached_tsid, cached_tsver;
    Py_hash_t hash;
};
/* Makes *copy the ContextVar, which hands over its references. 0, or -1 with an exception. */
int py_copy_context_var(struct py_context_var *copy, PyObject *var);

static inline PyObject *py_context(const PyThreadState *tstate) { return tstate->context; }
/* Counts the changes of the thread's context; it begins at 1 in each thread state. */
static inline uint64_t *py_context_ver(PyThreadState *tstate) { return &tstate->context_ver; }

extern size_t py_map_offset MEMCG_HIDDEN; /* 0: the layout of a context is not known */

/* The place where a context keeps its immutable map of values; NULL: not known. */
static inline PyObject **py_context_map(PyObject *context)
{
    return context && py_map_offset ? (PyObject **)((char *)context + py_map_offset) : NULL;
}

/* The context that runs this one now; borrowed; NULL: none, or not known. */
PyObject *py_context_runner(PyObject *context);

/* ---- frames -------------------------------------------------------------------- */

typedef struct _PyInterpreterFrame py_frame; /* a running frame; it has no frame object yet */

py_frame *py_running_frame(PyThreadState *tstate); /* the innermost; NULL: none */
py_frame *py_frame_before(py_frame *frame);        /* its caller; NULL: none */
PyCodeObject *py_frame_code(py_frame *frame);      /* borrowed */
PyObject *py_frame_globals(py_frame *frame);       /* borrowed */
int py_frame_lasti(py_frame *frame);               /* as a traceback's tb_lasti */
/* Locals are in the order of co_localsplusnames. */
int py_frame_nr_locals(py_frame *frame);
PyObject *py_frame_local(py_frame *frame, int i); /* borrowed; NULL: unset */
size_t py_frame_object_bytes(py_frame *frame);    /* bytes that its frame object would take */
/* The frame of a frame object, a generator or a coroutine; NULL: it has ended. */
py_frame *py_frame_of(PyObject *op);
/* An address in the C frame that runs the thread's Python code.  The highest address: not known. */
uintptr_t py_c_stack(PyThreadState *tstate);
/* The same of the outermost C frame that runs one of the innermost Python frames. 0: not known. What
 * lies beyond a greenlet's outermost is another's, and following it may crash. */
uintptr_t py_c_stack_near(PyThreadState *tstate);

/* ---- bytecode ------------------------------------------------------------------ */

enum py_instruction { /* CPython checks after those up to JUMP_BACKWARD */
                      PY_OTHER,
                      PY_RESUME,
                      PY_CALL,
                      PY_JUMP_BACKWARD,
                      PY_JUMP_IF, /* 3.11 only; if it jumps, CPython checks */
                      PY_COMPARE, /* may be merged with a JUMP_IF behind it */
                      PY_GET_AWAITABLE,
                      PY_LOAD_SPECIAL, /* since 3.14; PY_ENTER: its argument for `with` */
                      PY_EXTENDED_ARG,
};
#define PY_ENTER 0
enum py_instruction py_instruction(unsigned char opcode);
/* The code unit of the handler for a code unit; -1: there is none. */
int py_handler_of(PyCodeObject *code, int unit);

/* ---- attributes without a dict --------------------------------------------------- */

/* The name of the attribute of owner that has this value; borrowed; NULL: none. */
PyObject *py_attribute_name(PyObject *owner, PyObject *value);
/* The dict of such an object, if its attributes were moved into one; NULL: none. */
PyObject *py_managed_dict(PyObject *owner);
/* The words in front of the object that lead to its attributes' values, from *from to *to.  False:
 * there are none. */
bool py_words_before(PyObject *op, const uintptr_t **from, const uintptr_t **to);

/* ---- allocators -------------------------------------------------------------------- */

/*
 * With PYTHONMALLOC=debug and -X dev CPython's debug hooks stand above ours, where they see every
 * block.  The next two functions work like PyMem_GetAllocator() and PyMem_SetAllocator(), below
 * those hooks.
 */
void py_find_debug_hooks(void);
bool py_has_debug_hooks(void); /* they were found */
void py_get_allocator(PyMemAllocatorDomain domain, PyMemAllocatorEx *allocator);
void py_set_allocator(PyMemAllocatorDomain domain, PyMemAllocatorEx *allocator);
/* Bytes that the debug hooks put before a block; 0: there are no hooks. */
int py_debug_header(void);
/* Whether a request is for a thread state, or for a file's buffer (open()'s, where it is more than 64 KiB).
 * Its size tells, as the hooks see it; another request of that size is taken for the same. */
bool py_makes_tstate(size_t bytes);
bool py_makes_file_buffer(size_t bytes);

#endif
