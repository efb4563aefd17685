/* SPDX-License-Identifier: Apache-2.0 */
/*
 * opened.c - the contexts in which a group was entered and not left.
 *
 * The ContextVar of a context says which group is entered, but any code may set it.  If a group is
 * left and the variable does not name it any more, there are two cases: it was entered in this
 * context and other code set the variable, or it was entered elsewhere and the program is wrong.
 * The table tells them apart.
 *
 * It is racy on purpose.  An entry is not noted if there is no memory.  A context that ended inside
 * the group stays noted until no context is inside, so another at its address may be taken for it.
 * Both change only whether a wrong program gets an exception.
 */
#include "opened.h"

#include "plain.h"

#define MIN_SIZE 8

/* The place of context, or the unused place where it would be put.  The table is never full. */
static struct opened *find(struct opened *places, unsigned int size, const PyObject *context)
{
    unsigned int i = (unsigned int)((uintptr_t)context >> 4 ^ (uintptr_t)context >> 12);

    while (places[i & (size - 1)].context && places[i & (size - 1)].context != context)
        i++;
    return &places[i & (size - 1)];
}

/* Makes a larger table, without the places that are not in use. */
static bool grow(struct opened_table *table)
{
    unsigned int size = MIN_SIZE, nr_used = 0;
    struct opened *more;

    for (unsigned int i = 0; i < table->size; i++)
        nr_used += table->more[i].n != 0;
    while (size < 4 * nr_used)
        size *= 2;
    more = plain_calloc(size, sizeof(*more));
    if (!more)
        return false;
    for (unsigned int i = 0; i < table->size; i++)
        if (table->more[i].n)
            *find(more, size, table->more[i].context) = table->more[i];
    plain_free(table->more);
    table->more = more;
    table->nr_used = nr_used;
    table->size = size;
    return true;
}

void opened_add(struct opened_table *table, PyObject *context)
{
    struct opened *place = &table->first;

    if (place->n && place->context != context) {
        if (table->nr_used >= table->size / 2 && !grow(table))
            return;
        place = find(table->more, table->size, context);
        table->nr_used += !place->context;
    }
    place->context = context;
    place->n++;
}

static struct opened *find_open(const struct opened_table *table, const PyObject *context)
{
    struct opened *place = (struct opened *)&table->first;

    if ((!place->n || place->context != context) && table->size)
        place = find(table->more, table->size, context);
    return place->n && place->context == context ? place : NULL;
}

void opened_remove(struct opened_table *table, PyObject *context)
{
    struct opened *place = find_open(table, context);

    if (place)
        place->n--;
}

long opened_drop(struct opened_table *table, const PyObject *context)
{
    struct opened *place;
    long n = 0;

    while ((place = find_open(table, context))) { /* it may be in both parts of the table */
        n += place->n;
        place->n = 0;
    }
    return n;
}

long opened_total(const struct opened_table *table)
{
    long n = table->first.n;

    for (unsigned int i = 0; i < table->size; i++)
        n += table->more[i].n;
    return n;
}

bool opened_has(const struct opened_table *table, PyObject *context)
{
    return find_open(table, context) != NULL;
}

void opened_clear(struct opened_table *table)
{
    table->first.n = 0;
    if (!table->size)
        return;
    plain_free(table->more);
    table->more = NULL;
    table->nr_used = table->size = 0;
}
