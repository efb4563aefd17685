/*
 * hooks.c - CPython's RAW, MEM, OBJ and arena allocators, and NumPy's before 2.5.
 *
 * A block that is not in our arena was born before the hooks or in an exit window:
 * it is freed and resized where it was born; when it grows past 1 KiB it moves to us, so
 * that the growth is charged.  Nothing is ever uninstalled.
 *
 * PEP 445 (PyMem_SetAllocator), NEP 49 (PyDataMem_Handler).
 */
#include "binding.h"

#include <link.h>

#define FOREIGN_KEEP 1024 /* bytes up to which a foreign block grows where it is */

static PyMemAllocatorEx previous_raw, previous_mem, previous_obj;
static PyObjectArenaAllocator previous_arena;
static int installed, exiting; /* exiting: atomic */
static void *(*visible_raw_malloc)(void *, size_t); /* ours, or what stands above it */

/* Keeps a foreign block valid on failure: NULL is returned and p is as it was. */
static void *foreign_realloc(const PyMemAllocatorEx *previous, void *p, size_t size)
{
    void *q, *ours;

    q = previous->realloc(previous->ctx, p, size);
    if (!q || size <= FOREIGN_KEEP || __atomic_load_n(&exiting, __ATOMIC_RELAXED))
        return q;
    ours = memcg_malloc(size);
    if (!ours)
        return q; /* it has grown already; charging it is not worth failing */
    memcpy(ours, q, size);
    previous->free(previous->ctx, q);
    return ours;
}

static inline void *zero_malloc(size_t nelem, size_t elsize)
{
    size_t size;
    void *p;

    if (unlikely(__builtin_mul_overflow(nelem, elsize, &size)))
        return NULL;
    if (size > KMALLOC_MAX_CACHE_SIZE)
        return memcg_calloc(size);
    p = memcg_malloc_fast(size);
    if (likely(p != NULL))
        memset(p, 0, size);
    return p;
}

/* ---- MEM and OBJ: the GIL is held; ctx is the previous allocator ---------- */

static __attribute__((noinline)) void *malloc_afresh(size_t size)
{
    current_reload(tstate_get());
    return memcg_malloc_fast(size);
}

/* Two and three lines of the instruction cache, for all callers the same. */
#define HOT __attribute__((noinline, aligned(64)))

/* The other way is a call in place of the rest, so that nothing is saved for it. */
static HOT void *hook_malloc(void *ctx, size_t size)
{
    (void)ctx;
    return likely(current_is_fresh()) ? memcg_malloc_fast(size) : malloc_afresh(size);
}

static void *hook_calloc(void *ctx, size_t nelem, size_t elsize)
{
    (void)ctx;
    current_refresh();
    return zero_malloc(nelem, elsize);
}

static HOT void hook_free(void *ctx, void *p)
{
    const PyMemAllocatorEx *previous = ctx;

    if (likely(arena_contains(p)))
        memcg_free_inside(p);
    else if (p)
        previous->free(previous->ctx, p);
}

static __attribute__((noinline)) void *realloc_slow(void *ctx, void *p, size_t size)
{
    current_refresh();
    return arena_contains(p) ? memcg_realloc(p, size) : foreign_realloc(ctx, p, size);
}

/* A block of a size class stays, or moves by the two above; all else is memcg_realloc()'s. */
static void *hook_realloc(void *ctx, void *p, size_t size)
{
    struct slab *slab;
    void *q;

    if (unlikely(!arena_contains(p)))
        return p ? realloc_slow(ctx, p, size) : hook_malloc(ctx, size);
    slab = page_to_slab(arena_page(p));
    if (unlikely(slab_debug || size - 1 >= KMALLOC_MAX_CACHE_SIZE || !slab ||
                 !slab_is_object(slab, p)))
        return realloc_slow(ctx, p, size);
    if (size <= slab->size && size > slab->size / 2)
        return p;
    q = hook_malloc(ctx, size);
    if (unlikely(!q))
        return size <= slab->size ? p : NULL;
    memcpy(q, p, size < slab->size ? size : slab->size);
    hook_free(ctx, p);
    return q;
}

/* ---- RAW: any thread, with or without the GIL; ctx is the previous one's -- */

static void *raw_malloc(void *ctx, size_t size)
{
    if (unlikely(__atomic_load_n(&exiting, __ATOMIC_RELAXED)))
        return previous_raw.malloc(ctx, size);
    return memcg_malloc_fast(size);
}

static void *raw_calloc(void *ctx, size_t nelem, size_t elsize)
{
    if (unlikely(__atomic_load_n(&exiting, __ATOMIC_RELAXED)))
        return previous_raw.calloc(ctx, nelem, elsize);
    return zero_malloc(nelem, elsize);
}

static void *raw_realloc(void *ctx, void *p, size_t size)
{
    if (!p)
        return raw_malloc(ctx, size);
    if (likely(arena_contains(p)))
        return memcg_realloc(p, size);
    return foreign_realloc(&previous_raw, p, size);
}

static void raw_free(void *ctx, void *p)
{
    if (likely(arena_contains(p)))
        memcg_free_inside(p);
    else if (p)
        previous_raw.free(ctx, p);
}

/* ---- arenas: frames of Python functions come in chunks from here ---------- */

/*
 * Unwinding makes a traceback and a frame object for each frame, and who formats the traceback makes a
 * FrameSummary for each: 310 and 400 bytes for a frame of 120, when the group is at its limit already.
 * So a chunk is charged with that.  What it is larger by is never touched.  None is refused: CPython 3.11
 * releases the function that it could not call once too often (CALL_PY_EXACT_ARGS).
 */
#define WITH_UNWINDING 6

/* A thread's first chunk is never refused: who starts a thread waits until it has run a little. */
static void *arena_hook_alloc(void *ctx, size_t size)
{
    PyThreadState *tstate = tstate_get();
    void *p;

    (void)ctx;
    if (tstate && tstate->datastack_chunk) {
        current_refresh();
        return memcg_malloc_stack(WITH_UNWINDING * size);
    }
    memcg_stop_kmem_account();
    p = memcg_malloc(size);
    memcg_resume_kmem_account();
    return p;
}

static void arena_hook_free(void *ctx, void *p, size_t size)
{
    if (arena_contains(p))
        memcg_free(p);
    else
        previous_arena.free(ctx, p, size);
}

/*
 * With PYTHONMALLOC=debug and -X dev CPython's debug hooks stay above ours, where they see every
 * block.  A domain's are a letter and the allocator below, three in a row (Objects/obmalloc.c,
 * debug_alloc_api_t, 3.6 to 3.13).
 */
struct debug_api {
    char letter;
    PyMemAllocatorEx below;
};
static struct debug_api *debug_apis; /* RAW, MEM, OBJ; or NULL */

static void find_debug_apis(void)
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

static void get_allocator(PyMemAllocatorDomain domain, PyMemAllocatorEx *allocator)
{
    if (debug_apis)
        *allocator = debug_apis[domain].below;
    else
        PyMem_GetAllocator(domain, allocator);
}

static void set_allocator(PyMemAllocatorDomain domain, PyMemAllocatorEx *allocator)
{
    if (debug_apis)
        debug_apis[domain].below = *allocator;
    else
        PyMem_SetAllocator(domain, allocator);
}

/* Free and realloc are published first: what new malloc returns meets new free. */
static void set_raw(void)
{
    PyMemAllocatorEx hooked;

    get_allocator(PYMEM_DOMAIN_RAW, &previous_raw);
    hooked = previous_raw;
    hooked.realloc = raw_realloc;
    hooked.free = raw_free;
    set_allocator(PYMEM_DOMAIN_RAW, &hooked);
    hooked.malloc = raw_malloc;
    hooked.calloc = raw_calloc;
    set_allocator(PYMEM_DOMAIN_RAW, &hooked);
    PyMem_GetAllocator(PYMEM_DOMAIN_RAW, &hooked);
    visible_raw_malloc = hooked.malloc;
}

static void set_domain(PyMemAllocatorDomain domain, PyMemAllocatorEx *previous)
{
    PyMemAllocatorEx hooked = { previous, hook_malloc, hook_calloc, hook_realloc, hook_free };

    get_allocator(domain, previous);
    set_allocator(domain, &hooked);
}

int hooks_installed(void) { return installed; }
bool hooks_is_raw(void *(*function)(void *, size_t)) { return function == visible_raw_malloc; }
int hooks_header(void) { return debug_apis ? 2 * (int)sizeof(size_t) : 0; }

/* The file that a function is from.  dladdr would also search the file's symbols for its name. */
struct file_of {
    uintptr_t function;
    const char *file; /* "" is the program */
};

static int find_file(struct dl_phdr_info *object, size_t size, void *arg)
{
    struct file_of *found = arg;

    (void)size;
    for (int i = 0; i < object->dlpi_phnum; i++) {
        const ElfW(Phdr) *segment = &object->dlpi_phdr[i];

        if (segment->p_type == PT_LOAD &&
            found->function - (object->dlpi_addr + segment->p_vaddr) < segment->p_memsz) {
            found->file = object->dlpi_name;
            return 1;
        }
    }
    return 0;
}

/* Hooks above ours may come and go.  Those that were there before us put back, when they go, the
 * allocators that they found: ours are out then, and blocks of ours meet a free that is not. */
const char *hooks_stranger(void)
{
    PyMemAllocatorEx now;
    struct file_of python = { (uintptr_t)PyMem_GetAllocator, NULL }, found;

    if (installed || !dl_iterate_phdr(find_file, &python))
        return NULL;
    find_debug_apis();
    for (int domain = 0; domain < 3; domain++) {
        get_allocator((PyMemAllocatorDomain)domain, &now);
        found = (struct file_of){ (uintptr_t)now.malloc, NULL };
        if (dl_iterate_phdr(find_file, &found) && strcmp(found.file, python.file))
            return found.file;
    }
    return NULL;
}

int hooks_install(void)
{
    PyObjectArenaAllocator arena_hooks;

    if (installed)
        return 0;
    installed = 1;
    find_debug_apis();
    set_raw();
    set_domain(PYMEM_DOMAIN_MEM, &previous_mem);
    set_domain(PYMEM_DOMAIN_OBJ, &previous_obj);
    PyObject_GetArenaAllocator(&previous_arena);
    arena_hooks = (PyObjectArenaAllocator){ previous_arena.ctx, arena_hook_alloc, arena_hook_free };
    PyObject_SetArenaAllocator(&arena_hooks);
    return 0;
}

void hooks_exiting(void) { __atomic_store_n(&exiting, 1, __ATOMIC_RELAXED); }

/* ---- NumPy before 2.5: arrays come from a handler ------------------------- */

/* Public and versioned: numpy/ndarraytypes.h. */
struct numpy_handler {
    char name[127];
    uint8_t version;
    struct {
        void *ctx;
        void *(*malloc)(void *ctx, size_t size);
        void *(*calloc)(void *ctx, size_t nelem, size_t elsize);
        void *(*realloc)(void *ctx, void *p, size_t new_size);
        void (*free)(void *ctx, void *p, size_t size);
    } allocator;
};
static struct numpy_handler previous_numpy;

static void *numpy_malloc(void *ctx, size_t size)
{
    (void)ctx;
    return memcg_malloc_fast(size);
}

static void *numpy_calloc(void *ctx, size_t nelem, size_t elsize)
{
    (void)ctx;
    return zero_malloc(nelem, elsize);
}

static void *numpy_realloc(void *ctx, void *p, size_t size)
{
    if (!p || arena_contains(p))
        return memcg_realloc(p, size);
    return previous_numpy.allocator.realloc(ctx, p, size);
}

static void numpy_free(void *ctx, void *p, size_t size)
{
    if (likely(arena_contains(p)))
        memcg_free_inside(p);
    else if (p)
        previous_numpy.allocator.free(ctx, p, size);
}

/*
 * A handler set by PyDataMem_SetHandler lives in a context variable, and new threads start
 * with the default; so the default handler itself is what we change, in place. Free and
 * realloc first, as above.
 */
int hooks_numpy(PyObject *array_api)
{
    enum { PYDATAMEM_DEFAULTHANDLER = 306 }; /* numpy/__multiarray_api.h, since 1.22 */
    void **table = PyCapsule_GetPointer(array_api, NULL);
    struct numpy_handler *handler;

    if (!table)
        return -1;
    handler = PyCapsule_GetPointer(*(PyObject **)table[PYDATAMEM_DEFAULTHANDLER], "mem_handler");
    if (!handler)
        return -1;
    if (handler->allocator.malloc == numpy_malloc)
        return 0;
    if (handler->version != 1) {
        PyErr_Format(PyExc_NotImplementedError, "NumPy memory handler version %d is not known",
                     handler->version);
        return -1;
    }
    previous_numpy = *handler;
    handler->allocator.free = numpy_free;
    handler->allocator.realloc = numpy_realloc;
    handler->allocator.calloc = numpy_calloc;
    handler->allocator.malloc = numpy_malloc;
    return 0;
}
