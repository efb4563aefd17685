/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hooks.c - CPython's RAW, MEM, OBJ and arena allocators.
 *
 * A block that is not in our arena was allocated before the hooks or while the process exits.  It
 * is freed and resized by the allocator that made it.  If it grows past 1 KiB it moves to us, so
 * that the growth is charged.  Nothing is ever uninstalled.
 *
 * PEP 445 (PyMem_SetAllocator).  Locks: none.
 */
#include "hooks.h"

#include "current.h"

#include <link.h>

#define FOREIGN_KEEP 1024 /* bytes up to which a foreign block grows in place */

struct arena arena; /* of this shared object; memcg_copy_arena() */
static PyMemAllocatorEx previous_raw, previous_mem, previous_obj;
static PyObjectArenaAllocator previous_arena;
static int installed;
static atomic_int_t exiting;
static __thread bool in_previous; /* this thread is in the allocator that made a foreign block */
static void *(*visible_raw_malloc)(void *, size_t); /* ours, or the debug hooks' above it */

/* On failure a foreign block stays valid: NULL is returned and p is unchanged. */
static void *foreign_realloc(const PyMemAllocatorEx *previous, void *p, size_t size)
{
    void *q, *ours;

    in_previous = true;
    q = previous->realloc(previous->ctx, p, size);
    in_previous = false;
    if (!q || size <= FOREIGN_KEEP || load_relaxed(&exiting))
        return q;
    ours = memcg_malloc(size);
    if (!ours)
        return q; /* it has grown already; to charge it is not worth a failure */
    memcpy(ours, q, size);
    previous->free(previous->ctx, q);
    return ours;
}

/* ---- MEM and OBJ: the GIL is held; ctx is the previous allocator ---------- */

static __attribute__((noinline)) void *malloc_afresh(size_t size)
{
    current_reload(py_tstate());
    return memcg_malloc_fast(size);
}

/* Starts at a line of the instruction cache: two and three lines, the same for all callers. */
#define HOT __attribute__((noinline, aligned(64)))

/* The slow path is a tail call, so the fast path saves no registers. */
static HOT void *hook_malloc(void *ctx, size_t size)
{
    (void)ctx;
    return likely(current_is_fresh()) ? memcg_malloc_fast(size) : malloc_afresh(size);
}

static __attribute__((noinline)) void *calloc_afresh(size_t nelem, size_t elsize)
{
    current_refresh();
    return zero_malloc(nelem, elsize);
}

/* A list's table is small, and clearing it here is cheaper than a call of memset: an object of a
 * size class has room up to the next multiple of 16. */
#define SMALL_TABLE 64

static HOT void *hook_calloc(void *ctx, size_t nelem, size_t elsize)
{
    size_t size;
    char *p, *q, *end;

    (void)ctx;
    if (unlikely(!current_is_fresh()) || unlikely(__builtin_mul_overflow(nelem, elsize, &size)) ||
        size - 1 >= SMALL_TABLE)
        return calloc_afresh(nelem, elsize);
    p = memcg_malloc_quick(size);
    if (unlikely(!p))
        return calloc_afresh(nelem, elsize);
    q = p;
    end = p + size;
    do {
        __builtin_memset(q, 0, 16);
        q += 16;
        __asm__("" : "+r"(q)); /* or the loop is made a call of memset */
    } while (q < end);
    return p;
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

/* A block that moves is moved with the two functions above. */
static void *hook_realloc(void *ctx, void *p, size_t size)
{
    enum resize resize;
    size_t old = 0;
    void *q;

    if (unlikely(!arena_contains(p)))
        return p ? realloc_slow(ctx, p, size) : hook_malloc(ctx, size);
    resize = memcg_resize(p, size, &old);
    if (unlikely(resize == RESIZE_ELSE))
        return realloc_slow(ctx, p, size);
    if (resize == RESIZE_STAYS)
        return p;
    q = hook_malloc(ctx, size);
    if (unlikely(!q))
        return size <= old ? p : NULL;
    memcpy(q, p, size < old ? size : old);
    hook_free(ctx, p);
    return q;
}

/*
 * If CPython's debug hooks are on, a block that pymalloc has got from RAW is one of ours behind the
 * head that the debug hook of RAW has put before it: a block from before the hooks that has grown,
 * or a large one if malloc is ours too.  It is freed and resized by the allocator that made it.
 */
static bool is_behind_debug_head(const void *p)
{
    const struct slab *slab = virt_to_slab(p);

    return slab && (slab->cache ? !slab_is_object(slab, p) : slab->base != p);
}

static void hook_free_below_debug(void *ctx, void *p)
{
    const PyMemAllocatorEx *previous = ctx;

    if (unlikely(is_behind_debug_head(p)))
        previous->free(previous->ctx, p);
    else
        hook_free(ctx, p);
}

static void *hook_realloc_below_debug(void *ctx, void *p, size_t size)
{
    return unlikely(is_behind_debug_head(p)) ? foreign_realloc(ctx, p, size)
                                             : hook_realloc(ctx, p, size);
}

/* ---- RAW: any thread, with or without the GIL; ctx is the previous one's -- */

static void *raw_malloc(void *ctx, size_t size)
{
    if (unlikely(load_relaxed(&exiting)))
        return previous_raw.malloc(ctx, size);
    return memcg_malloc_fast(size);
}

static void *raw_calloc(void *ctx, size_t nelem, size_t elsize)
{
    if (unlikely(load_relaxed(&exiting)))
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

/* ---- arenas: frames of Python functions lie in chunks of these ------------ */

/*
 * Unwinding makes a traceback and a frame object for each frame, and formatting the traceback makes
 * a FrameSummary for each.  They take 310 and 400 bytes for a frame of 120, when the group is at
 * its limit already.  So a chunk is allocated and charged with room for them, which is never
 * touched.  No chunk is refused, because CPython 3.11 releases the function that it could not call
 * once too often (CALL_PY_EXACT_ARGS).
 */
#define WITH_UNWINDING 6

/* A thread's first chunk is not charged to the group, and so is never refused: the thread that
 * starts it waits until it has run a little.  pymalloc serves foreign blocks that grow, and all blocks
 * once tracemalloc is stopped that was started before us.  It gets its arenas from the system: their
 * blocks would lie in our range and be none of ours. */
static void *arena_hook_alloc(void *ctx, size_t size)
{
    PyThreadState *tstate = py_tstate();
    void *p;

    if (in_previous || size == PYMALLOC_ARENA_BYTES)
        return previous_arena.alloc(ctx, size);
    if (tstate && py_has_frame_memory(tstate)) {
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

/* Free and realloc are published first, so that what the new malloc returns is freed by the new
 * free. */
static void set_raw(void)
{
    PyMemAllocatorEx hooked;

    py_get_allocator(PYMEM_DOMAIN_RAW, &previous_raw);
    hooked = previous_raw;
    hooked.realloc = raw_realloc;
    hooked.free = raw_free;
    py_set_allocator(PYMEM_DOMAIN_RAW, &hooked);
    hooked.malloc = raw_malloc;
    hooked.calloc = raw_calloc;
    py_set_allocator(PYMEM_DOMAIN_RAW, &hooked);
    PyMem_GetAllocator(PYMEM_DOMAIN_RAW, &hooked);
    visible_raw_malloc = hooked.malloc;
}

static void set_domain(PyMemAllocatorDomain domain, PyMemAllocatorEx *previous)
{
    PyMemAllocatorEx hooked = { previous, hook_malloc, hook_calloc, hook_realloc, hook_free };

    if (py_has_debug_hooks()) {
        hooked.free = hook_free_below_debug;
        hooked.realloc = hook_realloc_below_debug;
    }
    py_get_allocator(domain, previous);
    py_set_allocator(domain, &hooked);
}

int hooks_installed(void) { return installed; }
bool hooks_is_raw(void *(*function)(void *, size_t)) { return function == visible_raw_malloc; }

/* The file that contains a function. dladdr would also search the file's symbols for the name. */
struct file_of {
    uintptr_t function;
    const char *file; /* "" is the program itself */
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

/* Hooks that are installed after ours may be removed again.  Hooks that were there before us would,
 * when they are removed, restore the allocators that they had found.  Ours would be out then, and
 * our blocks would be freed by a free that does not know them. */
const char *hooks_stranger(void)
{
    PyMemAllocatorEx now;
    struct file_of python = { (uintptr_t)PyMem_GetAllocator, NULL }, found;

    if (installed || !dl_iterate_phdr(find_file, &python))
        return NULL;
    py_find_debug_hooks();
    for (int domain = 0; domain < 3; domain++) {
        py_get_allocator((PyMemAllocatorDomain)domain, &now);
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
    py_find_debug_hooks();
    set_raw();
    set_domain(PYMEM_DOMAIN_MEM, &previous_mem);
    set_domain(PYMEM_DOMAIN_OBJ, &previous_obj);
    PyObject_GetArenaAllocator(&previous_arena);
    arena_hooks = (PyObjectArenaAllocator){ previous_arena.ctx, arena_hook_alloc, arena_hook_free };
    PyObject_SetArenaAllocator(&arena_hooks);
    return 0;
}

void hooks_exiting(void) { store_relaxed(&exiting, 1); }
