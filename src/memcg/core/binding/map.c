/* SPDX-License-Identifier: Apache-2.0 */
/*
 * map.c - a map of addresses to numbers, by open addressing; see map.h.
 *
 * Locks: none; a map has one user.
 */
#include "map.h"

#include "plain.h"

static size_t slot_of(const struct map *map, uintptr_t key)
{
    size_t i = (key >> 4) * 0x9e3779b97f4a7c15u >> 20;

    while (map->slots[i &= map->size - 1].key && map->slots[i].key != key)
        i++;
    return i;
}

static bool map_grow(struct map *map)
{
    struct map old = *map;

    map->size = old.size ? 2 * old.size : 256;
    map->slots = plain_calloc(map->size, sizeof(*map->slots));
    if (!map->slots) {
        *map = old;
        return false;
    }
    for (size_t i = 0; i < old.size; i++)
        if (old.slots[i].key)
            map->slots[slot_of(map, old.slots[i].key)] = old.slots[i];
    plain_free(old.slots);
    return true;
}

uint64_t *map_find(const struct map *map, uintptr_t key)
{
    struct map_slot *slot = map->nr ? &map->slots[slot_of(map, key)] : NULL;

    return slot && slot->key ? &slot->value : NULL;
}

uint64_t *map_add(struct map *map, uintptr_t key, bool *is_new)
{
    struct map_slot *slot;

    if (map->nr * 2 >= map->size && !map_grow(map))
        return NULL;
    slot = &map->slots[slot_of(map, key)];
    *is_new = !slot->key;
    map->nr += *is_new;
    slot->key = key;
    return &slot->value;
}

bool objects_add(struct objects *objects, PyObject *op)
{
    if (objects->nr == objects->room) {
        size_t room = objects->room ? 2 * objects->room : 256;
        PyObject **grown = plain_realloc(objects->all, room * sizeof(*grown));

        if (!grown)
            return false;
        objects->all = grown;
        objects->room = room;
    }
    objects->all[objects->nr++] = op;
    return true;
}
