/* SPDX-License-Identifier: Apache-2.0 */
/*
 * refusal.c - requests that must not be refused, by the code that makes them.
 *
 * C code gets NULL for a refused request.  Most code then raises a MemoryError, which appears at
 * the line that called it.  Two kinds of code do not:
 *
 *   - Fragile libraries crash, end the process or lose data.  Their requests are charged by force,
 *     and an alarm is posted.
 *   - Modules that run other people's callbacks (the guarded modules) catch the error or log it, so
 *     the code that uses the memory never sees it.  CPython itself prints the error of its collector
 *     and of what an object's end calls (finalizers, weak references' callbacks), and goes on.  These
 *     requests use up the reserve first, and at the ceiling they are passed over for some bytes.
 *
 * A request is made by a fragile library if a function of it is on the C stack above the innermost
 * Python frame.  The stack is unwound only at the limit, and only if such a library is loaded.
 *
 * Other code raises another exception, or none (a parser: "bad JSON").  The program must learn of
 * such a refusal too.  So the last refusal of a context is kept with its line, until a MemoryError
 * that a Python frame has seen is freed, or the group is left.
 *
 * Locks: none.  Runs in hooks, with and without the GIL; takes no memory from Python or libc.
 */
#include "refusal.h"

#include "collecting.h"
#include "dying.h"
#include "section.h"

#include <link.h>
#include <unwind.h>

/* ---- fragile libraries -------------------------------------------------------- */

/* How the ends of their paths begin, and what they do with a NULL.  Each was found by refusing each
 * request of real wheels in turn (memcg.faults.inject); tests/programs/test_refused.py. */
static const struct fragile_name {
    const char *name;
    /* it survives a refusal of its own PyMem_Malloc(), but not one of an object */
    bool checks_own;
} fragile_names[] = {
    { "/_greenlet.", false },     /* saves stacks: "Failed low-level slp_switch()", abort */
    { "/bottleneck/", false },    /* uses the array that it did not get: SIGSEGV */
    { "/cv2.", false },           /* the same */
    { "/msgspec/_core.", false }, /* uses the bytes that it did not get: SIGSEGV */
    { "/orjson.", true },         /* the same, for objects only */
    { "/ormsgpack.", false },     /* the same: SIGILL, abort */
    { "/uvloop/loop.", false },   /* logs the error and loses the data that it read */
};

#define NR_FRAGILE 16 /* bottleneck has four */
#define NR_C_FRAMES 64
struct library {
    ATOMIC(uintptr_t) start; /* 0: unused.  Written once, after the others */
    uintptr_t end;
    bool checks_own;
};
static struct library fragile[NR_FRAGILE];
/* The code of this library, and of the data plane's. */
static struct {
    uintptr_t start, end;
} own[2];
static atomic_int_t nr_fragile; /* number of entries that are taken */
static atomic_u64_t nr_seen;    /* the value of dlpi_adds at the last look at all objects */

/* It crashes if the array is refused and its own malloc is not, so not where both are. */
static bool is_whole(const struct fragile_name *name)
{
    return memcg_serves_c() && !strcmp(name->name, "/cv2.");
}

static const struct fragile_name *find_name(const char *path)
{
    for (size_t i = 0; i < sizeof(fragile_names) / sizeof(*fragile_names); i++) {
        const struct fragile_name *name = &fragile_names[i];

        for (const char *at = path; (at = strstr(at, name->name)); at++)
            if (!strchr(at + strlen(name->name), '/') && !is_whole(name))
                return name;
    }
    return NULL;
}

static struct library *find_fragile(uintptr_t address)
{
    for (int i = 0; i < NR_FRAGILE; i++) {
        uintptr_t start = load_acquire(&fragile[i].start);

        if (start && address >= start && address < fragile[i].end)
            return &fragile[i];
    }
    return NULL;
}

/* The addresses from the start to the end of the object's code. */
static void find_code(const struct dl_phdr_info *object, uintptr_t *start, uintptr_t *end)
{
    *start = UINTPTR_MAX;
    *end = 0;
    for (int i = 0; i < object->dlpi_phnum; i++) {
        const ElfW(Phdr) *segment = &object->dlpi_phdr[i];
        uintptr_t at = object->dlpi_addr + segment->p_vaddr;

        if (segment->p_type != PT_LOAD || !(segment->p_flags & PF_X))
            continue;
        *start = at < *start ? at : *start;
        *end = at + segment->p_memsz > *end ? at + segment->p_memsz : *end;
    }
}

static void add_fragile(const struct fragile_name *name, uintptr_t start, uintptr_t end)
{
    int i;

    if (find_fragile(start))
        return;
    i = add_relaxed(&nr_fragile, 1) - 1;
    if (i >= NR_FRAGILE)
        return;
    fragile[i].end = end;
    fragile[i].checks_own = name->checks_own;
    store_release(&fragile[i].start, start);
}

static int look_at_object(struct dl_phdr_info *object, size_t size, void *arg)
{
    unsigned long long *nr_adds = arg;
    const struct fragile_name *name;
    const uintptr_t ours[] = { (uintptr_t)look_at_object, (uintptr_t)memcg_malloc };
    uintptr_t start, end;

    (void)size;
    if (object->dlpi_adds == load_acquire(&nr_seen))
        return 1; /* nothing was loaded since the last look */
    *nr_adds = object->dlpi_adds;
    find_code(object, &start, &end);
    name = find_name(object->dlpi_name);
    if (name && start < end)
        add_fragile(name, start, end);
    for (int i = 0; i < 2; i++)
        if (ours[i] >= start && ours[i] < end) {
            own[i].end = end;
            own[i].start = start;
        }
    return 0;
}

static bool is_own(uintptr_t address)
{
    return (address >= own[0].start && address < own[0].end) ||
           (address >= own[1].start && address < own[1].end);
}

static bool fragile_loaded(void)
{
    unsigned long long nr_adds = 0;

    if (!dl_iterate_phdr(look_at_object, &nr_adds))
        store_release(&nr_seen, nr_adds);
    return load_relaxed(&nr_fragile) > 0;
}

struct search {
    uintptr_t end; /* the stack is looked at up to here */
    int left;      /* C frames that may still be looked at */
    /* a function of another library stands between: one that makes an object, say */
    bool indirect;
    bool found;
};

static _Unwind_Reason_Code look_at_frame(struct _Unwind_Context *frame, void *arg)
{
    struct search *search = arg;
    uintptr_t address = _Unwind_GetIP(frame);
    const struct library *library = find_fragile(address);

    if (_Unwind_GetCFA(frame) > search->end || !search->left--)
        return _URC_END_OF_STACK;
    if (library && (search->indirect || !library->checks_own))
        search->found = true;
    search->indirect |= !is_own(address) &&
                        _Unwind_GetRegionStart(frame) != (uintptr_t)PyMem_Malloc &&
                        _Unwind_GetRegionStart(frame) != (uintptr_t)PyMem_Realloc;
    return library ? _URC_END_OF_STACK : _URC_NO_REASON;
}

static bool is_fragile(void)
{
    /* This thread's own state, whether it holds the GIL or not: no other thread changes the frame
     * that it runs. */
    PyThreadState *tstate = PyGILState_GetThisThreadState();
    struct search search = { .end = tstate ? py_c_stack(tstate) : UINTPTR_MAX,
                             .left = NR_C_FRAMES };

    _Unwind_Backtrace(look_at_frame, &search);
    return search.found;
}

/* ---- guarded modules ---------------------------------------------------------- */

#define NR_KEYS 16 /* entries of a module's dict that are tried: CPython puts __name__ first */

/* They hold locks of their own, drive other people's tasks, hold the state of their connections, or
 * must not be cut short.  The constructor of a named tuple has a module of its own. */
static const char *const guarded_modules[] = {
    "_frozen_importlib",
    "_frozen_importlib_external",
    "_weakrefset",
    "anyio",
    "asyncio",
    "atexit",
    "concurrent",
    "contextlib",
    "gevent",
    "h11",
    "importlib",
    "logging",
    "memcg",
    "multiprocessing",
    "namedtuple_SelectorKey",
    "queue",
    "sched",
    "selectors",
    "socket",
    "ssl",
    "subprocess",
    "tempfile",
    "threading",
    "trio",
    "uvicorn",
    "uvloop",
    "weakref",
};

/* True if name, of n characters, is the module top or lies in it. */
static bool begins_with(const char *name, Py_ssize_t n, const char *top)
{
    for (; n && *top && *name == *top; name++, top++)
        n--;
    return !*top && (!n || *name == '.');
}

static bool is_guarded_name(PyObject *name)
{
    if (!PyUnicode_Check(name) || !PyUnicode_IS_ASCII(name))
        return false;
    for (size_t i = 0; i < sizeof(guarded_modules) / sizeof(*guarded_modules); i++)
        if (begins_with((const char *)PyUnicode_1BYTE_DATA(name), PyUnicode_GET_LENGTH(name),
                        guarded_modules[i]))
            return true;
    return false;
}

/* It compares the keys itself, because a lookup could call a key's __eq__. */
bool refusal_is_guarded(PyObject *globals)
{
    static const char name[] = "__name__";
    PyObject *key, *value;
    Py_ssize_t at = 0;

    for (int i = 0; i < NR_KEYS && PyDict_Next(globals, &at, &key, &value); i++)
        if (PyUnicode_CheckExact(key) && PyUnicode_IS_ASCII(key) &&
            PyUnicode_GET_LENGTH(key) == sizeof(name) - 1 &&
            !memcmp(PyUnicode_1BYTE_DATA(key), name, sizeof(name) - 1))
            return is_guarded_name(value);
    return false;
}

bool refusal_is_unheard(void)
{
    PyObject *globals;

    /* a RAW request without the GIL: another thread may change its frame's module */
    if (!py_holds_gil())
        return false;
    globals = frame_globals(py_tstate());
    return globals && refusal_is_guarded(globals);
}

/* ---- errors that CPython prints ------------------------------------------------ */

#define NEAR_FRAMES 16

static PyCodeObject *unraisable_code;

void refusal_set_unraisable(PyCodeObject *code) { unraisable_code = code; }

bool refusal_is_printed_in(PyCodeObject *code)
{
    return code == unraisable_code ||
           PyUnicode_CompareWithASCIIString(code->co_name, "__del__") == 0;
}

bool refusal_is_printed(PyThreadState *tstate)
{
    py_frame *frame = py_running_frame(tstate);

    if (collecting_is_here(tstate))
        return true;
    for (int i = 0; frame && i < NEAR_FRAMES; i++, frame = py_frame_before(frame))
        if (refusal_is_printed_in(py_frame_code(frame)))
            return true;
    return dying_is_here(tstate);
}

/* ---- refusals that became no MemoryError --------------------------------------- */

static __thread struct {
    PyObject *context; /* for comparison only */
    uint64_t nr_died, nr_heard;
    struct code_line line; /* code NULL: there was no refusal */
    struct memcg_failure failure;
    /* requester() has allowed the next refusal; it is not called for objects of KmemCache */
    bool is_next;
} last MEMCG_TLS_MODEL;
static uint64_t nr_died, nr_heard; /* MemoryErrors that were freed, and those of them that a Python
                                    * frame has seen; GIL */
static destructor end_of_memory_error;

/* Every MemoryError is freed here, also one of a subclass. */
static void count_death(PyObject *error)
{
    nr_died++;
    nr_heard += ((PyBaseExceptionObject *)error)->traceback != NULL;
    end_of_memory_error(error);
}

static bool is_last_of(PyObject *context, struct mem_cgroup *memcg)
{
    return last.line.code && last.failure.memcg == memcg && last.context == context;
}

/* What became of the last refusal.  Past max an alarm is queued, or was raised, so that is not
 * silent. */
static enum refusal_doubt doubt(void)
{
    if (last.nr_heard != nr_heard)
        return REFUSAL_HEARD;
    return last.nr_died == nr_died && last.failure.current <= last.failure.max ? REFUSAL_SILENT
                                                                               : REFUSAL_HIDDEN;
}

bool refusal_note(const struct memcg_failure *failure, struct code_line *before)
{
    bool again, is_next = last.is_next, has_gil = py_holds_gil();
    PyThreadState *tstate;

    last.is_next = false;
    if (!is_next)
        return false;
    /* Without the GIL, in a call by ctypes say, no other thread changes this one's frame or context.
     * The two counts may be a moment old. */
    tstate = has_gil ? py_tstate() : PyGILState_GetThisThreadState();
    if (!tstate)
        return false;
    again = is_last_of(py_context(tstate), failure->memcg) && doubt() == REFUSAL_SILENT;
    *before = last.line;
    last.context = py_context(tstate);
    last.nr_died = nr_died;
    last.nr_heard = nr_heard;
    last.line = frame_line(tstate);
    if (!has_gil) /* ctypes returns a code, and an error is raised a few instructions later */
        last.line.lasti = -1;
    last.failure = *failure;
    return again;
}

enum refusal_doubt refusal_take(struct mem_cgroup *memcg, struct memcg_failure *failure,
                                struct code_line *line)
{
    if (likely(!last.line.code) || !is_last_of(py_context(py_tstate()), memcg))
        return REFUSAL_HEARD;
    *failure = last.failure;
    *line = last.line;
    last.line.code = NULL;
    return doubt();
}

static bool is_swallowed(void)
{
    return refusal_is_unheard() || (py_holds_gil() && refusal_is_printed(py_tstate()));
}

static enum memcg_requester requester(void)
{
    enum memcg_requester found = fragile_loaded() && is_fragile() ? MEMCG_REQUESTER_FRAGILE
                                 : is_swallowed()                 ? MEMCG_REQUESTER_UNHEARD
                                                                  : MEMCG_REQUESTER_ANY;

    last.is_next = found == MEMCG_REQUESTER_ANY;
    return found;
}

void refusal_init(void)
{
    PyTypeObject *memory_error = (PyTypeObject *)PyExc_MemoryError;

    if (memory_error->tp_dealloc != count_death)
        end_of_memory_error = memory_error->tp_dealloc;
    memory_error->tp_dealloc = count_death;
    memcg_set_requester(requester);
}
