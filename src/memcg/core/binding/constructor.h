/* SPDX-License-Identifier: Apache-2.0 */
/*
 * constructor.h - a cache's constructor is run once on each object of a slab.
 */
#ifndef MEMCG_CONSTRUCTOR_H
#define MEMCG_CONSTRUCTOR_H

#include "compat.h"

/* Whether an object was constructed is a byte of it.  It stands after the free pointer, in the pad that
 * a cache with a constructor has before the bytes of each object.  New slabs are zero. */
static inline char *constructor_flag(const void *object) { return (char *)object + sizeof(void *); }

static inline bool constructor_has_run(const void *object) { return *constructor_flag(object); }

/* Call construct(arg, bytes) for each object of the slab of live `object` that is not constructed; size
 * is that of an object with its pad.  construct may allocate from the same slab.  If it returns -1 with an
 * exception, the objects of this call are as before, and so -1 is returned.  GIL held. */
int constructor_run(void *object, size_t size, size_t pad, int (*construct)(void *arg, char *bytes),
                    void *arg);

#endif
