/* SPDX-License-Identifier: Apache-2.0 */
/*
 * new.c - C++'s operator new and delete, over malloc.
 *
 * They are replaced so that the code that asks is seen: libstdc++'s would be the caller of malloc
 * for all C++ code.  The names are those of the Itanium C++ ABI on 64-bit machines.
 *
 * operator new throws std::bad_alloc, by libstdc++'s own function, through a frame of this file.
 * A library that has C++'s runtime in it, and shows its names, has its own operator new.  That is
 * called then, and throws.  If there is neither, the request is charged by force.
 *
 * Locks: none.
 */
#define _GNU_SOURCE
#include "malloc.h"

#include <dlfcn.h>
#include <unistd.h>

#define PUBLIC __attribute__((visibility("default")))
#define CALLER __builtin_return_address(0)

struct nothrow; /* std::nothrow_t */

typedef void (*handler_fn)(void);
typedef handler_fn (*get_handler_fn)(void);

/* libstdc++ is most often loaded by an extension module, and so is in no global scope. */
static void *libstdcxx(const char *name)
{
    void *library = dlopen("libstdc++.so.6", RTLD_LAZY | RTLD_NOLOAD);
    void *found = library ? dlsym(library, name) : NULL;

    if (library)
        dlclose(library);
    return found;
}

/* The operator new that the caller's object would have without us, if it brings one along. */
static void *callers_own(size_t align, const void *caller)
{
    Dl_info here, there;
    void *object, *found;

    if (!dladdr(caller, &here) || !(object = dlopen(here.dli_fname, RTLD_LAZY | RTLD_NOLOAD)))
        return NULL;
    found = dlsym(object, align ? "_ZnwmSt11align_val_t" : "_Znwm");
    dlclose(object);
    return found && dladdr(found, &there) && there.dli_fbase == here.dli_fbase ? found : NULL;
}

static void *try_new(size_t align, size_t size, const void *caller)
{
    return align ? memalign_for(align, size, caller) : malloc_for(size, caller);
}

/* What operator new does after a failure: the handler may have freed memory. */
static __attribute__((noinline)) void *new_failed(size_t align, size_t size, const void *caller)
{
    get_handler_fn get_handler;
    handler_fn handler, throw;
    void *(*own)(size_t size, size_t align); /* the second is passed in vain if there is none */
    void *p;

    *(void **)&own = callers_own(align, caller);
    if (own)
        return own(size, align);
    *(void **)&get_handler = libstdcxx("_ZSt15get_new_handlerv");
    *(void **)&throw = libstdcxx("_ZSt17__throw_bad_allocv");
    while (get_handler && (handler = get_handler())) {
        handler();
        p = try_new(align, size, caller);
        if (p)
            return p;
    }
    if (throw)
        throw();
    p = try_new(align, size, NULL); /* an unknown caller is not refused */
    if (!p) {
        static const char text[] =
            "memcg: no memory for operator new, and no libstdc++ to say so\n";

        if (write(2, text, sizeof(text) - 1)) {}
        abort();
    }
    return p;
}

static inline void *new_or_throw(size_t align, size_t size, const void *caller)
{
    void *p = try_new(align, size, caller);

    return likely(p != NULL) ? p : new_failed(align, size, caller);
}

#define NEW(name)                                                                  \
    PUBLIC void *name(size_t size);                                                \
    PUBLIC void *name(size_t size) { return new_or_throw(0, size, CALLER); }       \
    PUBLIC void *name##RKSt9nothrow_t(size_t size, const struct nothrow *);        \
    PUBLIC void *name##RKSt9nothrow_t(size_t size, const struct nothrow *unused)   \
    {                                                                              \
        (void)unused;                                                              \
        return try_new(0, size, CALLER);                                           \
    }                                                                              \
    PUBLIC void *name##St11align_val_t(size_t size, size_t align);                 \
    PUBLIC void *name##St11align_val_t(size_t size, size_t align)                  \
    {                                                                              \
        return new_or_throw(align, size, CALLER);                                  \
    }                                                                              \
    PUBLIC void *name##St11align_val_tRKSt9nothrow_t(size_t size, size_t align,    \
                                                     const struct nothrow *);      \
    PUBLIC void *name##St11align_val_tRKSt9nothrow_t(size_t size, size_t align,    \
                                                     const struct nothrow *unused) \
    {                                                                              \
        (void)unused;                                                              \
        return try_new(align, size, CALLER);                                       \
    }

NEW(_Znwm)
NEW(_Znam)

/* The further parameters, size, alignment and std::nothrow, are not looked at. */
#define DELETE(name)           \
    PUBLIC void name(void *p); \
    PUBLIC void name(void *p) { free_block(p); }

DELETE(_ZdlPv)
DELETE(_ZdaPv)
DELETE(_ZdlPvm)
DELETE(_ZdaPvm)
DELETE(_ZdlPvRKSt9nothrow_t)
DELETE(_ZdaPvRKSt9nothrow_t)
DELETE(_ZdlPvSt11align_val_t)
DELETE(_ZdaPvSt11align_val_t)
DELETE(_ZdlPvmSt11align_val_t)
DELETE(_ZdaPvmSt11align_val_t)
DELETE(_ZdlPvSt11align_val_tRKSt9nothrow_t)
DELETE(_ZdaPvSt11align_val_tRKSt9nothrow_t)
