/* SPDX-License-Identifier: Apache-2.0 */
/*
 * referrers.h - the objects that refer to an object.  GIL held throughout.
 */
#ifndef MEMCG_REFERRERS_H
#define MEMCG_REFERRERS_H

#include "map.h"

/*
 * Finds the objects that refer to each of nr targets, among the containers of two lists and the
 * running frames. paths: for each target a new list of (referrer, how, name), from the target to
 * something that people know by its name:
 *   (module's name, "global", name)
 *   (code, "local", name)         a frame's or a generator's
 *   (object, "attribute", name)
 *   (object, "dict", None)        the target is its __dict__
 *   (object, "key", key)          of a dict
 *   (object, "item", index)       of a list or tuple
 *   (object, "in", None)
 * 0, or -1 with an exception.
 */
int referrers(PyObject **targets, int nr, const struct objects *tracked,
              const struct objects *found, PyTypeObject *ndarray, PyObject **paths);

#endif
