/* SPDX-License-Identifier: Apache-2.0 */
/*
 * holders.h - what the memory of a group is.  GIL held throughout.
 */
#ifndef MEMCG_HOLDERS_H
#define MEMCG_HOLDERS_H

#include "compat.h"

/* Reports what the blocks of memcg are. types: a list of every type; tracked: a list of what the
 * collector tracks now; frozen: gc.freeze() hides some of it.  Returns (number of blocks, [(kind,
 * objects, bytes)], [(object, kind, bytes, guessed, path)]).  The last list has the biggest,
 * biggest first. kind: a type, a user's Cache, or None. guessed: object is one that points to it.
 * object, and its path (see referrers()), are None if there is none. */
PyObject *holders_scan(struct mem_cgroup *memcg, PyObject *types, PyObject *tracked, int frozen);

#endif
