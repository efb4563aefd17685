/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sealed.c - classes whose objects only memcg makes: one that a program made would have no C half.
 *
 * Locks: none; the GIL.
 */
#include "sealed.h"

static PyObject *refuse_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    (void)args, (void)kwargs;
    return PyErr_Format(PyExc_TypeError,
                        "%s: objects of this class are made by memcg alone; they "
                        "cannot be made by a call, a copy or __new__()",
                        type->tp_name);
}

void sealed_type(PyTypeObject *type)
{
    type->tp_new = refuse_new;
    type->tp_vectorcall = NULL;
}
