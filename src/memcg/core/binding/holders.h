/* SPDX-License-Identifier: Apache-2.0 */
/*
 * holders.h - what the memory of a group is.  GIL held throughout.
 */
#ifndef MEMCG_HOLDERS_H
#define MEMCG_HOLDERS_H

#include "compat.h"

/* types: a list of every type; tracked: of what the collector tracks now; frozen: gc.freeze() hides
 * some of it. (number of blocks, [(kind, objects, bytes)], [(object, kind, bytes, guessed, path)]),
 * the last of the biggest, biggest first. kind: a type, a user's Cache, or None. guessed: object is one
 * that points to it. object and path (of object, see referrers()): None if there is none. */
PyObject *holders_scan(struct mem_cgroup *memcg, PyObject *types, PyObject *tracked, int frozen);

#endif
