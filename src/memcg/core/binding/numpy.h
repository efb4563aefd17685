/* SPDX-License-Identifier: Apache-2.0 */
/*
 * numpy.h - what the binding knows of NumPy, whose headers it is built without.
 */
#ifndef MEMCG_NUMPY_H
#define MEMCG_NUMPY_H

#include "compat.h"

/* Put hooks into NumPy's default handler, before 2.5. array_api: its _ARRAY_API capsule.  0, or -1 with
 * an exception. */
int numpy_hook(PyObject *array_api);

/* The ndarray, which shows the collector nothing: as its ABI is since 1.0. */
struct array {
    PyObject_HEAD char *data;
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

#endif
