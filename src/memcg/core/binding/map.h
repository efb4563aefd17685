/* SPDX-License-Identifier: Apache-2.0 */
/*
 * map.h - a map of addresses, and a list of objects, in libc's memory, which no group is charged
 * for.
 */
#ifndef MEMCG_MAP_H
#define MEMCG_MAP_H

#include "compat.h"

/* Maps addresses, never NULL, to numbers that begin as 0. An empty map is all 0; free(slots) ends
 * it. */
struct map_slot {
    uintptr_t key;
    uint64_t value;
};
struct map {
    struct map_slot *slots;
    size_t size, nr;
};
uint64_t *map_find(const struct map *map, uintptr_t key);        /* NULL: not in the map */
uint64_t *map_add(struct map *map, uintptr_t key, bool *is_new); /* NULL: no memory */

/* An empty list is all 0; free(all) ends it. */
struct objects {
    PyObject **all; /* borrowed */
    size_t nr, room;
};
bool objects_add(struct objects *objects, PyObject *op); /* false: no memory */

#endif
