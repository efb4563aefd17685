/* SPDX-License-Identifier: Apache-2.0 */
/*
 * constructor.c - a cache's constructor is run once on each object of a slab.
 *
 * An object is marked before it is constructed.  A constructor that allocates from the same slab thus
 * finds the objects that are left, constructs them all and gets one.  The objects that a call has marked are
 * therefore not in one run, and a list says which they are, for the case that the constructor fails.
 *
 * Locks: none; the GIL.
 */
#include "constructor.h"

#include "memcg.h"
#include "plain.h"

int constructor_run(void *object, size_t size, size_t pad, int (*construct)(void *arg, char *bytes),
                    void *arg)
{
    size_t i, nr_objects = 0, nr_marked = 0;
    char *base = kmem_cache_slab_of(object, &nr_objects);
    char **marked = plain_malloc(nr_objects * sizeof(*marked));
    int error = 0;

    if (!marked) {
        PyErr_NoMemory();
        return -1;
    }
    for (i = 0; i < nr_objects && !error; i++) {
        char *p = base + i * size;

        if (constructor_has_run(p))
            continue;
        *constructor_flag(p) = 1;
        marked[nr_marked++] = constructor_flag(p);
        error = construct(arg, p + pad);
    }
    while (error && nr_marked)
        *marked[--nr_marked] = 0;
    plain_free(marked);
    return error;
}
