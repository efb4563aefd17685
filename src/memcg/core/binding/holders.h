/*
 * holders.h - what the memory of a group is, and who refers to it.  GIL held throughout.
 */
#ifndef MEMCG_HOLDERS_H
#define MEMCG_HOLDERS_H

#include "binding.h"

/* Addresses, never NULL, to numbers that begin as 0. */
struct map_slot {
    uintptr_t key;
    uint64_t value;
};
struct map {
    struct map_slot *slots;
    size_t size, nr;
};
uint64_t *map_find(const struct map *map, uintptr_t key); /* NULL: it is not there */
uint64_t *map_add(struct map *map, uintptr_t key, bool *is_new); /* NULL: no memory */

struct objects {
    PyObject **all; /* borrowed */
    size_t nr, room;
};

/* NumPy's ndarray, which shows the collector nothing: as its ABI is since 1.0. */
struct array {
    PyObject_HEAD
    char *data;
    int nd;
    Py_ssize_t *dimensions, *strides;
    PyObject *base; /* whose data it looks at; NULL: its own */
};
static inline bool is_array(PyObject *op, PyTypeObject *ndarray) /* NULL: there is no NumPy */
{
    return ndarray && Py_TYPE(op)->tp_basicsize >= (Py_ssize_t)sizeof(struct array) &&
           PyObject_TypeCheck(op, ndarray);
}
static inline PyObject *array_base(PyObject *op) { return ((struct array *)op)->base; }

/* ---- referrers.c ---------------------------------------------------------- */
struct _PyInterpreterFrame; /* CPython's own */
/* Call visit for what each running frame of each thread holds; before, if it is not NULL, enter. */
void visit_frames(visitproc visit, void *arg,
                  void (*enter)(struct _PyInterpreterFrame *frame, void *arg));
/*
 * Who refers to each of nr targets, among the containers of two lists and the running frames.
 * paths: for each a new list of (referrer, how, name), from the target to what people know by name:
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
