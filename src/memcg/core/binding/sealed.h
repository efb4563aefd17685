/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sealed.h - classes whose objects only memcg makes.
 */
#ifndef MEMCG_SEALED_H
#define MEMCG_SEALED_H

#include "compat.h"

/* From now on a call of the class, its __new__() and a copy raise TypeError.  The binding makes the
 * objects with a C function, not through the type. */
void sealed_type(PyTypeObject *type);

#endif
