/* SPDX-License-Identifier: Apache-2.0 */
/*
 * numpy.c - NumPy before 2.5: a handler allocates arrays, and our functions replace its functions.
 *
 * As in hooks.c, a block that is not in our arena is freed and resized by the allocator that made
 * it, and nothing is ever uninstalled.  Arrays are charged to the thread's last group, because
 * NumPy may call without the GIL.
 *
 * NEP 49 (PyDataMem_Handler).  Locks: none.
 */
#include "numpy.h"

#include "hooks.h"

/* A public, versioned structure: numpy/ndarraytypes.h. */
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
 * A handler that is set by PyDataMem_SetHandler lives in a context variable, and new threads start
 * with the default.  So we change the default handler itself, in place.  Free and realloc are
 * published first, as in hooks.c.
 */
int numpy_hook(PyObject *array_api)
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
