/* SPDX-License-Identifier: Apache-2.0 */
/*
 * survivor.c - libraries whose large requests to malloc may be refused.
 *
 * Few callers of malloc survive a NULL: Rust aborts, and C code is often untested there.  So a
 * request is refused only if its code lies in a library of the list below, each of which has a test
 * (tests/hosts/test_malloc.py).  The library is looked up at the limit only.
 *
 * A C++ exception must not leave a thread's own function, so a thread that C code has started is
 * refused only in a library that catches errors there.
 *
 * Locks: none.  Runs in malloc, with and without the GIL; glibc's _dl_find_object() takes no lock.
 */
#include "survivor.h"

#include <dlfcn.h>
#include <link.h>

#define MIB ((size_t)1 << 20)

/* How the ends of their paths begin. */
static const struct survivor_name {
    const char *name;
    size_t from;     /* bytes; smaller requests are not refused */
    bool in_threads; /* its own threads survive too */
} survivor_names[] = {
    { "/_backend_agg.", MIB, false },           /* matplotlib's: MemoryError */
    { "/_duckdb.", MEMCG_C_REFUSE_SIZE, true }, /* it asks for 256 KiB: OutOfMemoryException */
    { "/cv2.", MIB, false },                    /* cv2.error */
    { "/duckdb.", MEMCG_C_REFUSE_SIZE, true },  /* the same, until 1.3 */
    { "/libarrow.so", MIB, true },              /* ArrowMemoryError */
    { "/libc10.so", MIB, false },               /* torch's: RuntimeError */
    { "/libcrypto", MIB, false },               /* ssl, hashlib: ValueError or MemoryError */
    { "/libxgboost.so", MIB, false },           /* XGBoostError */
    { "/sklearn/", MIB, false },                /* MemoryError */
};

static bool has_name(const char *path, const char *name)
{
    for (const char *at = path; (at = strstr(at, name)); at++)
        if (name[strlen(name) - 1] == '/' || !strchr(at + strlen(name), '/'))
            return true;
    return false;
}

struct search {
    uintptr_t address;
    const char *path;
};

static int look_at_object(struct dl_phdr_info *object, size_t size, void *arg)
{
    struct search *search = arg;

    (void)size;
    for (int i = 0; i < object->dlpi_phnum; i++) {
        const ElfW(Phdr) *segment = &object->dlpi_phdr[i];

        if (segment->p_type == PT_LOAD &&
            search->address - (object->dlpi_addr + segment->p_vaddr) < segment->p_memsz) {
            search->path = object->dlpi_name;
            return 1;
        }
    }
    return 0;
}

static const char *path_of(const void *address)
{
    struct search search = { (uintptr_t)address, NULL };
#ifdef DLFO_STRUCT_HAS_EH_DBASE /* glibc 2.35 */
    struct dl_find_object found;

    if (!_dl_find_object((void *)address, &found))
        return found.dlfo_link_map->l_name;
#endif
    dl_iterate_phdr(look_at_object, &search);
    return search.path;
}

static bool survives(const void *caller, size_t bytes)
{
    const char *path = caller ? path_of(caller) : NULL;

    for (size_t i = 0; path && i < sizeof(survivor_names) / sizeof(*survivor_names); i++)
        if (has_name(path, survivor_names[i].name))
            return bytes >= survivor_names[i].from &&
                   (survivor_names[i].in_threads || PyGILState_GetThisThreadState());
    return false;
}

void survivor_init(void) { memcg_set_survivor(survives); }
