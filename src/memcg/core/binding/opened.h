/* SPDX-License-Identifier: Apache-2.0 */
/*
 * opened.h - the contexts in which a group was entered and not left.
 */
#ifndef MEMCG_OPENED_H
#define MEMCG_OPENED_H

#include "compat.h"

struct opened {
    PyObject *context; /* borrowed, for comparison only */
    long n;            /* how often it was entered there and not left */
};
/* An empty table is all 0.  GIL held. */
struct opened_table {
    struct opened first;        /* most groups are entered in one context at a time */
    struct opened *more;        /* a hash table of `size` places, of which `nr_used` have had a
                                 * context */
    unsigned int nr_used, size; /* size is 0 or a power of two */
};
void opened_add(struct opened_table *table, PyObject *context);
void opened_remove(struct opened_table *table, PyObject *context); /* if it is there */
/* Forgets a context; returns how often the group was entered there. */
long opened_drop(struct opened_table *table, const PyObject *context);
long opened_total(const struct opened_table *table); /* how often it was entered, in all contexts */
bool opened_has(const struct opened_table *table, PyObject *context);
void opened_clear(struct opened_table *table);

#endif
