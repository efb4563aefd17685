/* SPDX-License-Identifier: Apache-2.0 */
/*
 * numpy.h - what the binding knows of NumPy; it is built without NumPy's headers.
 */
#ifndef MEMCG_NUMPY_H
#define MEMCG_NUMPY_H

#include "compat.h"

/* Puts hooks into the default handler of NumPy before 2.5. array_api: NumPy's _ARRAY_API capsule.
 * 0, or -1 with an exception. */
int numpy_hook(PyObject *array_api);

/* The layout of ndarray in NumPy's ABI since 1.0. Its type does not support the collector. */
struct array {
    PyObject_HEAD char *data;
    int nd;
    Py_ssize_t *dimensions, *strides;
    PyObject *base; /* the object whose data it shows; NULL: the data are its own */
};
/* ndarray NULL: there is no NumPy. */
static inline bool is_array(PyObject *op, PyTypeObject *ndarray)
{
    return ndarray && Py_TYPE(op)->tp_basicsize >= (Py_ssize_t)sizeof(struct array) &&
           PyObject_TypeCheck(op, ndarray);
}
static inline PyObject *array_base(PyObject *op) { return ((struct array *)op)->base; }

#endif
