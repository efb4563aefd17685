/* SPDX-License-Identifier: Apache-2.0 */
/*
 * compat.c - CPython's private layouts, and what differs between its versions; see compat.h.
 *
 * Locks: state_mutex, on 3.11 only; a thread state is made under it.
 */
#define Py_BUILD_CORE 1
#include "compat.h"

#include <internal/pycore_context.h>
#include <internal/pycore_dict.h>
#include <internal/pycore_frame.h>
#if PY_VERSION_HEX >= 0x030e0000
#include <internal/pycore_interpframe.h>
#include <internal/pycore_stackref.h>
#endif
#include <internal/pycore_interp.h>
#include <internal/pycore_object.h>
#if PY_VERSION_HEX >= 0x030d0000
#include <internal/pycore_tstate.h>
#endif
#include <opcode.h>

#if PY_VERSION_HEX < 0x030c0000
#include <internal/pycore_runtime.h>
#endif

#define NR_LOOKED_AT 4096 /* frames of Python functions that call each other directly */

/* ---- thread states ----------------------------------------------------------- */

#if PY_VERSION_HEX < 0x030c0000
static atomic_tstate_t no_tstate;
atomic_tstate_t *py_tstate_now = &no_tstate;

/* A direct read saves a call in each hook.  It is tried out first, because the place is known from
 * this CPython's headers only. */
static void find_tstate(void)
{
    atomic_tstate_t *now = (atomic_tstate_t *)&_PyRuntime.gilstate.tstate_current._value;
    PyThreadState *tstate = PyThreadState_Get();
    bool found = load_plain(now) == tstate;

    PyThreadState_Swap(NULL);
    found = found && !load_plain(now);
    PyThreadState_Swap(tstate);
    if (found && load_plain(now) == tstate)
        py_tstate_now = now;
}
#else
intptr_t py_tstate_offset;
#define NR_ALIKE 8

/*
 * A direct read saves a call in each hook.  CPython's variable is hidden, but it is one of the
 * thread-locals of the file that has CPython's functions.  It is the only word there that is this
 * thread's state while the thread has the GIL, and NULL while it has not.  (Another word keeps the
 * state for PyGILState_Ensure().)
 */
static void find_tstate(void)
{
    PyThreadState *tstate = PyThreadState_Get(), **alike[NR_ALIKE], **word;
    int nr_alike = 0, nr_left = 0;
    struct tls_block block;

    if (!tls_find((const void *)(uintptr_t)PyThreadState_Get, &block))
        return;
    word = (PyThreadState **)block.start;
    for (size_t i = 0; i < block.bytes / sizeof(*word) && nr_alike < NR_ALIKE; i++)
        if (word[i] == tstate)
            alike[nr_alike++] = &word[i];
    PyEval_SaveThread();
    for (int i = 0; i < nr_alike; i++)
        if (!*alike[i])
            alike[nr_left++] = alike[i];
    PyEval_RestoreThread(tstate);
    if (nr_left == 1 && *alike[0] == tstate && tls_is_fixed(&block))
        py_tstate_offset = (char *)alike[0] - tls_pointer();
}
#endif

bool py_is_handling(PyThreadState *tstate, bool (*matches)(PyObject *error))
{
    for (_PyErr_StackItem *item = tstate->exc_info; item; item = item->previous_item)
        if (item->exc_value && item->exc_value != Py_None && matches(item->exc_value))
            return true;
    return false;
}

/* Releases of one version have moved the flag, so it is read in the release of the headers only. */
bool py_is_collecting(const PyThreadState *tstate)
{
    return Py_Version == PY_VERSION_HEX && tstate->interp->gc.collecting;
}

bool py_calls_anything(uintptr_t function)
{
    return function == (uintptr_t)_PyEval_EvalFrameDefault ||
           function == (uintptr_t)_PyObject_GC_New || function == (uintptr_t)_PyObject_GC_NewVar;
}

bool py_holds_gil(void)
{
    PyThreadState *tstate = py_tstate();

    return tstate && (PY_TSTATE_IS_OWN || tstate == PyGILState_GetThisThreadState());
}

extern int _PyOS_IsMainThread(void);

bool py_has_only(PyObject *op, Py_ssize_t refs)
{
    Py_ssize_t offset = Py_TYPE(op)->tp_weaklistoffset;

    return Py_REFCNT(op) == refs && offset > 0 && !*(PyObject **)((char *)op + offset);
}

bool py_is_main_thread(void) { return _PyOS_IsMainThread(); }

bool py_is_finalizing(void)
{
#if PY_VERSION_HEX >= 0x030d0000
    return Py_IsFinalizing();
#else
    return _Py_IsFinalizing();
#endif
}

#if PY_VERSION_HEX < 0x030c0000
/*
 * The creation of a thread state takes a lock of the interpreter without the GIL.  In the child of
 * a fork CPython 3.11 takes that lock before it makes it anew, so no thread may fork in between.
 * Since 3.12 the child makes it anew first. 3.13 forks with the lock held, so there our lock would
 * cause a deadlock.
 */
static struct mutex state_mutex = MUTEX_INITIALIZER;
static void fork_prepare(void) { mutex_lock(&state_mutex); }
static void fork_done(void) { mutex_unlock(&state_mutex); }
static void fork_child(void) { mutex_init(&state_mutex); }

void py_new_tstate_init(void)
{
    if (pthread_atfork(fork_prepare, fork_done, fork_child))
        Py_FatalError("memcg: no memory for a fork handler");
}

PyThreadState *py_new_tstate(void)
{
    PyThreadState *tstate;

    mutex_lock(&state_mutex);
    tstate = PyThreadState_New(PyInterpreterState_Main());
    mutex_unlock(&state_mutex);
    return tstate;
}
#else
void py_new_tstate_init(void) {}
PyThreadState *py_new_tstate(void) { return PyThreadState_New(PyInterpreterState_Main()); }
#endif

void py_show_error_of_thread(PyObject *fn, PyObject *error)
{
    PyErr_SetObject((PyObject *)Py_TYPE(error), error);
#if PY_VERSION_HEX >= 0x030d0000
    PyErr_FormatUnraisable("Exception ignored in thread started by %R", fn);
#else
    _PyErr_WriteUnraisableMsg("in thread started by", fn);
#endif
}

/* ---- calls at a thread's next check ------------------------------------------- */

#if PY_CALLS_ANY_THREAD
extern int _PyEval_AddPendingCall(PyInterpreterState *, int (*)(void *), void *, int main_only);

bool py_call_any_thread(int (*fn)(void *))
{
    return _PyEval_AddPendingCall(PyInterpreterState_Main(), fn, NULL, 0) == 0;
}

bool py_call_at_next_line(void (*fn)(void))
{
    (void)fn;
    return false;
}
#else
bool py_call_any_thread(int (*fn)(void *))
{
    (void)fn;
    return false;
}

static void (*line_fn)(void); /* written with the GIL held; every caller passes the same */

static int at_event(PyObject *object, PyFrameObject *frame, int what, PyObject *arg)
{
    PyThreadState *tstate = PyThreadState_Get();

    (void)object, (void)frame, (void)what, (void)arg;
    tstate->c_tracefunc = NULL; /* CPython looks for it again when we return */
    line_fn();
    return 0;
}

bool py_call_at_next_line(void (*fn)(void))
{
    PyThreadState *tstate = py_tstate();

    if (tstate->c_tracefunc || tstate->tracing)
        return false;
    line_fn = fn;
    tstate->c_tracefunc = at_event;
    tstate->cframe->use_tracing = 255;
    return true;
}
#endif

/* ---- contexts ------------------------------------------------------------------ */

#define SAME_PLACE(ours, theirs)                                      \
    _Static_assert(offsetof(struct py_context_var, ours) -            \
                           offsetof(struct py_context_var, object) == \
                       offsetof(PyContextVar, theirs),                \
                   "the ContextVar of another CPython")
SAME_PLACE(loaded_ver, var_cached);
SAME_PLACE(cached_tsid, var_cached_tsid);
SAME_PLACE(cached_tsver, var_cached_tsver);
SAME_PLACE(hash, var_hash);

int py_copy_context_var(struct py_context_var *copy, PyObject *var)
{
    if (Py_TYPE(var)->tp_basicsize != sizeof(PyContextVar)) {
        PyErr_SetString(PyExc_ImportError, "memcg: built for another CPython; install it again");
        return -1;
    }
    Py_INCREF(var); /* the copy owns the references from now on */
    memcpy(&copy->object, var, sizeof(PyContextVar));
    return 0;
}

size_t py_map_offset;

/* Where CPython 3.11 to 3.15 keeps the map: behind the head and the pointer to the context that
 * runs it. */
static size_t find_map(void)
{
    size_t offset = sizeof(PyObject) + sizeof(void *);
    PyObject *runner = PyContext_New(), *context = PyContext_New(), *map;
    PyObject **before;

    if (runner && context && PyContext_Enter(runner) == 0) {
        if (PyContext_Enter(context) == 0) {
            before = (PyObject **)((char *)context + sizeof(PyObject));
            map = *(PyObject **)((char *)context + offset);
            if (Py_TYPE(context)->tp_basicsize < (Py_ssize_t)(offset + sizeof(map)) ||
                *before != runner || !map || strcmp(Py_TYPE(map)->tp_name, "hamt") != 0)
                offset = 0;
            PyContext_Exit(context);
        }
        PyContext_Exit(runner);
    }
    if (PyErr_Occurred()) {
        PyErr_Clear();
        offset = 0;
    }
    Py_XDECREF(runner);
    Py_XDECREF(context);
    return offset;
}

PyObject *py_context_runner(PyObject *context)
{
    return py_map_offset ? *(PyObject **)((char *)context + sizeof(PyObject)) : NULL;
}

void py_init(void)
{
    find_tstate();
    py_map_offset = find_map();
}

/* ---- frames -------------------------------------------------------------------- */

#if PY_VERSION_HEX >= 0x030e0000
#define FRAME_OF_C FRAME_OWNED_BY_INTERPRETER
#elif PY_VERSION_HEX >= 0x030c0000
#define FRAME_OF_C FRAME_OWNED_BY_CSTACK
#endif

/* The innermost frame that has begun to run, from `frame` outward.  It skips the frames that
 * CPython puts below each run of its interpreter. */
static py_frame *complete(py_frame *frame)
{
    for (; frame; frame = frame->previous) {
#if PY_VERSION_HEX >= 0x030c0000
        if (frame->owner == FRAME_OF_C)
            continue;
#endif
        if (!_PyFrame_IsIncomplete(frame))
            break;
    }
    return frame;
}

py_frame *py_running_frame(PyThreadState *tstate)
{
#if PY_VERSION_HEX >= 0x030d0000
    return complete(tstate->current_frame);
#else
    return complete(tstate->cframe->current_frame);
#endif
}

py_frame *py_frame_before(py_frame *frame) { return complete(frame->previous); }

PyCodeObject *py_frame_code(py_frame *frame)
{
#if PY_VERSION_HEX >= 0x030d0000
    return _PyFrame_GetCode(frame);
#else
    return frame->f_code;
#endif
}

PyObject *py_frame_globals(py_frame *frame) { return frame->f_globals; }

int py_frame_lasti(py_frame *frame)
{
    return _PyInterpreterFrame_LASTI(frame) * (int)sizeof(_Py_CODEUNIT);
}

int py_frame_nr_locals(py_frame *frame) { return py_frame_code(frame)->co_nlocalsplus; }

PyObject *py_frame_local(py_frame *frame, int i)
{
#if PY_VERSION_HEX >= 0x030e0000 /* the lowest bit tells whether the frame owns the reference */
    return PyStackRef_AsPyObjectBorrow(frame->localsplus[i]);
#else
    return frame->localsplus[i];
#endif
}

size_t py_frame_object_bytes(py_frame *frame)
{
    PyCodeObject *code = py_frame_code(frame);
    Py_ssize_t slots = code->co_nlocalsplus + code->co_stacksize;

    return 2 * sizeof(void *) /* the collector's head */ +
           (size_t)_PyObject_VAR_SIZE(&PyFrame_Type, slots);
}

py_frame *py_frame_of(PyObject *op)
{
    PyGenObject *generator = (PyGenObject *)op;

    if (PyFrame_Check(op))
        return ((PyFrameObject *)op)->f_frame;
    return generator->gi_frame_state < FRAME_CLEARED ? (py_frame *)&generator->gi_iframe : NULL;
}

#define NR_NEAR 64 /* frames */

uintptr_t py_c_stack(PyThreadState *tstate)
{
#if PY_VERSION_HEX >= 0x030d0000
    py_frame *frame = tstate->current_frame;

    for (int i = 0; frame && i < NR_LOOKED_AT; i++, frame = frame->previous) {
#if PY_VERSION_HEX >= 0x030f0000
        if (frame == tstate->base_frame) /* not on the stack: no Python code runs */
            break;
#endif
        if (frame->owner == FRAME_OF_C)
            return (uintptr_t)frame;
    }
    return UINTPTR_MAX;
#else
    return (uintptr_t)tstate->cframe;
#endif
}

uintptr_t py_c_stack_near(PyThreadState *tstate)
{
    uintptr_t found = 0;
    int left = NR_NEAR;
#if PY_VERSION_HEX >= 0x030d0000
    py_frame *frame = tstate->current_frame;

    for (; frame && left--; frame = frame->previous) {
#if PY_VERSION_HEX >= 0x030f0000
        if (frame == tstate->base_frame)
            break;
#endif
        if (frame->owner == FRAME_OF_C)
            found = (uintptr_t)frame;
    }
#else
    _PyCFrame *frame = tstate->cframe;

    for (; frame && frame != &tstate->root_cframe && left--; frame = frame->previous)
        found = (uintptr_t)frame;
#endif
    return found;
}

/* ---- bytecode ------------------------------------------------------------------ */

static const unsigned char kind_of[256] = {
    [RESUME] = PY_RESUME,
    [CALL] = PY_CALL,
    [CALL_FUNCTION_EX] = PY_CALL,
    [JUMP_BACKWARD] = PY_JUMP_BACKWARD,
    [COMPARE_OP] = PY_COMPARE,
    [GET_AWAITABLE] = PY_GET_AWAITABLE,
    [EXTENDED_ARG] = PY_EXTENDED_ARG,
#if PY_VERSION_HEX < 0x030c0000
    [PRECALL] = PY_CALL,
    [POP_JUMP_BACKWARD_IF_TRUE] = PY_JUMP_IF,
    [POP_JUMP_BACKWARD_IF_FALSE] = PY_JUMP_IF,
    [POP_JUMP_BACKWARD_IF_NONE] = PY_JUMP_IF,
    [POP_JUMP_BACKWARD_IF_NOT_NONE] = PY_JUMP_IF,
#endif
#if PY_VERSION_HEX >= 0x030d0000
    [CALL_KW] = PY_CALL,
#endif
#if PY_VERSION_HEX >= 0x030e0000
    [LOAD_SPECIAL] = PY_LOAD_SPECIAL,
#endif
};

enum py_instruction py_instruction(unsigned char opcode) { return kind_of[opcode]; }

/* Six bits in each byte, the highest first; 0x40 says that more follow. */
static const unsigned char *read_varint(const unsigned char *p, const unsigned char *end,
                                        int *value)
{
    int n = 0;

    for (; p < end; p++) {
        n = n << 6 | (*p & 63);
        if (!(*p & 64)) {
            *value = n;
            return p + 1;
        }
    }
    return end;
}

/* The format: CPython's Objects/exception_handling_notes.txt. */
int py_handler_of(PyCodeObject *code, int unit)
{
    const unsigned char *p = (const unsigned char *)PyBytes_AS_STRING(code->co_exceptiontable);
    const unsigned char *end = p + PyBytes_GET_SIZE(code->co_exceptiontable);

    while (p < end) {
        int start = 0, length = 0, target = 0, depth = 0;

        p = read_varint(p, end, &start);
        p = read_varint(p, end, &length);
        p = read_varint(p, end, &target);
        p = read_varint(p, end, &depth);
        if (unit < start)
            break;
        if (unit < start + length)
            return target;
    }
    return -1;
}

/* ---- attributes without a dict --------------------------------------------------- */

PyObject *py_attribute_name(PyObject *owner, PyObject *value)
{
    PyTypeObject *type = Py_TYPE(owner);
    PyDictKeysObject *keys;
    PyDictValues *values = NULL;

    if (!PyType_HasFeature(type, Py_TPFLAGS_MANAGED_DICT))
        return NULL;
#if PY_VERSION_HEX >= 0x030d0000
    if (PyType_HasFeature(type, Py_TPFLAGS_INLINE_VALUES) && _PyObject_InlineValues(owner)->valid)
        values = _PyObject_InlineValues(owner);
#elif PY_VERSION_HEX >= 0x030c0000
    if (_PyDictOrValues_IsValues(*_PyObject_DictOrValuesPointer(owner)))
        values = _PyDictOrValues_GetValues(*_PyObject_DictOrValuesPointer(owner));
#else
    values = *_PyObject_ValuesPointer(owner);
#endif
    keys = ((PyHeapTypeObject *)type)->ht_cached_keys;
    if (!values || !keys || !DK_IS_UNICODE(keys))
        return NULL;
    for (Py_ssize_t i = 0; i < keys->dk_nentries; i++)
        if (values->values[i] == value)
            return DK_UNICODE_ENTRIES(keys)[i].me_key;
    return NULL;
}

PyObject *py_managed_dict(PyObject *owner)
{
    if (!PyType_HasFeature(Py_TYPE(owner), Py_TPFLAGS_MANAGED_DICT))
        return NULL;
    return ((PyObject **)owner)[-3]; /* 3.11 to 3.15 keep it at the same place */
}

bool py_words_before(PyObject *op, const uintptr_t **from, const uintptr_t **to)
{
#if PY_VERSION_HEX < 0x030d0000 /* pointer to the attributes' values, before the collector's two
                                 * words */
    if (PyType_HasFeature(Py_TYPE(op), Py_TPFLAGS_MANAGED_DICT)) {
        *from = (const uintptr_t *)op - 4;
        *to = (const uintptr_t *)op - 2;
        return true;
    }
#endif
    return false;
}

/* ---- allocators -------------------------------------------------------------------- */

/* The debug hooks of a domain have a letter and the allocator below them; three such structures lie
 * in a row (Objects/obmalloc.c, debug_alloc_api_t, 3.6 to 3.15). */
struct debug_api {
    char letter;
    PyMemAllocatorEx below;
};
static struct debug_api *debug_apis; /* for RAW, MEM, OBJ; or NULL */

void py_find_debug_hooks(void)
{
    struct debug_api *api[3];

    for (int i = 0; i < 3; i++) {
        PyMemAllocatorEx now;

        PyMem_GetAllocator((PyMemAllocatorDomain)i, &now);
        api[i] = now.ctx;
    }
    if (api[0] && api[1] == api[0] + 1 && api[2] == api[1] + 1 && api[0]->letter == 'r' &&
        api[1]->letter == 'm' && api[2]->letter == 'o')
        debug_apis = api[0];
}

bool py_has_debug_hooks(void) { return debug_apis; }

void py_get_allocator(PyMemAllocatorDomain domain, PyMemAllocatorEx *allocator)
{
    if (debug_apis)
        *allocator = debug_apis[domain].below;
    else
        PyMem_GetAllocator(domain, allocator);
}

void py_set_allocator(PyMemAllocatorDomain domain, PyMemAllocatorEx *allocator)
{
    if (debug_apis)
        debug_apis[domain].below = *allocator;
    else
        PyMem_SetAllocator(domain, allocator);
}

#if PY_VERSION_HEX >= 0x030d0000
#define TSTATE_BYTES sizeof(_PyThreadStateImpl)
#else
#define TSTATE_BYTES sizeof(PyThreadState)
#endif
#if PY_VERSION_HEX >= 0x030e0000
#define FILE_BUFFER_BYTES (128 << 10) /* io.DEFAULT_BUFFER_SIZE; 8 KiB before */
#else
#define FILE_BUFFER_BYTES 0
#endif
#ifdef Py_DEBUG
#define DEBUG_BYTES (4 * sizeof(size_t)) /* PYMEM_DEBUG_EXTRA_BYTES */
#else
#define DEBUG_BYTES (3 * sizeof(size_t))
#endif

/* The data plane rounds a request up to 16 bytes before it asks. */
static bool is_request(size_t bytes, size_t made)
{
    made += debug_apis ? DEBUG_BYTES : 0;
    return bytes == (made + 15) / 16 * 16;
}

bool py_makes_tstate(size_t bytes) { return is_request(bytes, TSTATE_BYTES); }

bool py_makes_file_buffer(size_t bytes)
{
    return FILE_BUFFER_BYTES && is_request(bytes, FILE_BUFFER_BYTES);
}

int py_debug_header(void) { return debug_apis ? 2 * (int)sizeof(size_t) : 0; }
