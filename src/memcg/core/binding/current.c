/* SPDX-License-Identifier: Apache-2.0 */
/*
 * current.c - the group of the running context, as the data plane sees it.
 *
 * A ContextVar holds the entry; the data plane reads a thread-local pointer.  MEM and OBJ calls,
 * which hold the GIL, compare two words and reload the pointer if the context may have changed.
 * RAW calls use what was loaded last, because a thread without the GIL must not read its thread
 * state.
 *
 * Any code may set the variable: copy_context() lists it, and asgiref puts a thread's changes back
 * by ContextVar.set().  That changes no version of the context.  But set() writes the variable's
 * cache, as get() does, and reset() empties it.  So we keep in the cache the version at which the
 * pointer was loaded.  The version is no object, but CPython never uses it as one, because we file
 * it under a thread state that does not exist.  The compiler has to know the variable's address, so
 * the variable is a static object of ours.
 *
 * A context is an object with an immutable map (PEP 567).  To enter a group by setting the variable
 * makes a new map each time.  So the maps with and without an entry are kept.  Entering the same
 * group from the same map again, and leaving it, exchanges the two.  The version of the context is
 * incremented, as for any other change of context.
 */
#include "current.h"

#include "css.h"

static PyThreadState nobody;
__thread struct current_key current_key MEMCG_TLS_MODEL = { .tstate = &nobody };
struct py_context_var entry_var __attribute__((aligned(64)));
static PyTypeObject *entry_type;
static PyInterpreterState *interpreter;
static void ignore(PyObject *context) { (void)context; }
static void (*resumed)(PyObject *context) = ignore; /* GIL */

/* GIL held.  The references keep addresses from being used again.  The first half is for groups
 * that were entered, the second for jobs that ran in an entry of another context. */
#define NR_SLOTS 64
static struct slot {
    struct entry *entry;
    PyObject *without, *with;
} slots[2 * NR_SLOTS];
static int last_left; /* the slot of the group that was left last; GIL */

#define VAR ((PyObject *)&entry_var.object)

void current_set_resumed(void (*fn)(PyObject *context)) { resumed = fn; }

PyObject *current_init(PyObject *var, PyTypeObject *type)
{
    if (py_copy_context_var(&entry_var, var) < 0)
        return NULL;
    Py_INCREF(type);
    entry_type = type;
    py_init();
    interpreter = py_interpreter(PyThreadState_Get());
    return Py_NewRef(VAR);
}

/*
 * A version starts at 1 in each thread state and counts the changes of its context.  When we first
 * see it, we set its upper half to a number that no other has.  So it also tells thread states
 * apart, if one is made where another was freed.  The top bit, which no address has, tells it from
 * what CPython keeps in the variable's cache.
 */
static void make_unique(uint64_t *context_ver)
{
    static atomic_u32_t nr_numbers; /* interpreters may have a GIL each */

    if (unlikely(*context_ver >> 63 == 0 || (uint32_t)*context_ver > INT32_MAX))
        *context_ver = (uint64_t)add_relaxed(&nr_numbers, 1) << 32 | (uint64_t)1 << 63;
}

/* The variable belongs to the main interpreter, and its cache is written with that interpreter's
 * GIL held. */
static void set_key(PyThreadState *tstate, struct entry *entry)
{
    uint64_t *context_ver = py_context_ver(tstate);

    make_unique(context_ver);
    current_key = (struct current_key){ tstate, *context_ver, py_context(tstate), entry, false };
    memcg_set_current(entry ? entry->c : NULL);
    if (py_interpreter(tstate) == interpreter) {
        entry_var.cached_tsid = UINT64_MAX;
        entry_var.loaded_ver = *context_ver;
    }
}

/*
 * Returns the context, or the nearest of the contexts that run it, that knows its group:
 * contextvars.Context() knows none.  NULL: none does.  A context that has left its last group knows
 * that, as None.
 */
static PyObject *knowing_context(PyObject *context)
{
    while (context && PySequence_Contains(context, VAR) != 1)
        context = py_context_runner(context);
    return context;
}

static struct entry *entry_of(PyObject *value)
{
    return value && Py_TYPE(value) == entry_type ? (struct entry *)value : NULL;
}

/* Borrowed from the context, or NULL.  PyContextVar_Get finds keys by identity, but a lookup at the
 * edge of the C stack can raise. */
static PyObject *get_value(PyThreadState *tstate)
{
    PyObject *value = NULL, *type, *error, *traceback, *context;

    PyErr_Fetch(&type, &error, &traceback);
    if (PyContextVar_Get(VAR, VAR, &value) < 0)
        PyErr_Clear();
    if (value == VAR) { /* the default */
        Py_DECREF(value);
        context = knowing_context(py_context(tstate));
        value = context ? PyObject_GetItem(context, VAR) : NULL;
    }
    PyErr_Restore(type, error, traceback);
    Py_XDECREF(value);
    return value;
}

/*
 * set() and reset() empty the cache first, then allocate, then change the context. set() finally
 * writes the cache, and reset() to no value does not.  So what is loaded while the cache is empty
 * is valid for one request.  After more requests than such a reset makes (a node for each of 8
 * levels, and the map) it is valid until the next change.  This is racy on purpose: if a collection
 * begins within the reset, and finalizers or another thread make more requests, what follows is
 * charged as before until the context changes.
 */
#define RESET_ALLOCS 32
static unsigned int nr_unset; /* loads in a row with an empty cache; the main interpreter's GIL */

void current_reload(PyThreadState *tstate)
{
    struct current_key before = current_key;
    bool is_unset = !entry_var.loaded_ver;
    PyObject *value;

    if (!interpreter || !tstate || (py_tstate_is_hidden() && current_is_fresh_for(tstate)))
        return;
    value = py_interpreter(tstate) == interpreter ? get_value(tstate) : NULL;
    set_key(tstate, entry_of(value));
    current_key.is_foreign = value && value != Py_None && !current_key.entry;
    if (py_interpreter(tstate) == interpreter) {
        nr_unset = is_unset ? nr_unset + 1 : 0;
        if (is_unset && nr_unset <= RESET_ALLOCS)
            entry_var.loaded_ver = 0;
    }
    /* if they are equal, another thread had the GIL, or the variable was read */
    if (before.context_ver != current_key.context_ver || before.entry != current_key.entry)
        resumed(py_context(tstate));
}

PyObject *current_foreign_value(void)
{
    return current_key.is_foreign ? get_value(py_tstate()) : NULL;
}

struct entry *current_entry_now(void)
{
    current_refresh();
    return current_key.entry;
}

PyObject *current_entry_in(PyObject *context)
{
    PyObject *value = NULL;

    if (PySequence_Contains(context, VAR) == 1)
        value = PyObject_GetItem(context, VAR);
    if (!value && PyErr_Occurred())
        return NULL;
    if (entry_of(value))
        return value;
    Py_XDECREF(value);
    Py_RETURN_NONE;
}

/* Gives the context the map `to`.  The variables' caches in this thread become void. */
static void exchange(PyThreadState *tstate, PyObject **map, PyObject *to, struct entry *entry)
{
    PyObject *from = *map;

    Py_INCREF(to);
    *map = to;
    ++*py_context_ver(tstate);
    Py_DECREF(from);
    set_key(tstate, entry);
}

static int slot_of(const void *what, PyObject *map)
{
    return (int)(((uintptr_t)what >> 4 ^ (uintptr_t)map >> 5) % NR_SLOTS);
}

int current_enter_again(PyObject *memcg)
{
    PyThreadState *tstate = py_tstate();
    PyObject **map = py_context_map(py_context(tstate)), *now = (PyObject *)current_entry_now();
    struct slot *slot;

    if (!map)
        return 0;
    slot = &slots[slot_of(memcg, *map)];
    if (slot->without != *map || slot->entry->memcg != memcg)
        return 0;
    if (slot->entry->previous != (now ? now : Py_None)) /* the map knows no group, and now is its
                                                         * runner's */
        return 0;
    exchange(tstate, map, slot->with, slot->entry);
    return 1;
}

static void keep(int index, struct entry *entry, PyObject *without, PyObject *with)
{
    struct slot *slot = &slots[index], old = *slot;

    Py_INCREF(entry);
    Py_INCREF(with);
    *slot = (struct slot){ entry, without, with };
    Py_XDECREF(old.entry);
    Py_XDECREF(old.without);
    Py_XDECREF(old.with);
}

int current_set_entry(struct entry *entry, enum entering enter)
{
    PyThreadState *tstate = py_tstate();
    PyObject **map = py_context_map(py_context(tstate)), *without = map ? *map : NULL, *token;
    int index;

    Py_XINCREF(without);
    token = PyContextVar_Set(VAR, entry ? (PyObject *)entry : Py_None);
    if (!token) {
        Py_XDECREF(without);
        return -1;
    }
    Py_DECREF(token);
    set_key(tstate, entry);
    if (enter == ENTER_NOT || !without) {
        Py_XDECREF(without);
        return 0;
    }
    if (enter == ENTER_GROUP)
        index = entry->slot = slot_of(entry->memcg, without);
    else
        index = NR_SLOTS + slot_of(entry, without);
    keep(index, entry, without, *py_context_map(py_context(tstate)));
    return index;
}

int current_enter_bound(struct entry *entry)
{
    PyThreadState *tstate = py_tstate();
    PyObject **map = py_context_map(py_context(tstate));
    int index = map ? NR_SLOTS + slot_of(entry, *map) : 0;

    if (!map || !entry || slots[index].without != *map || slots[index].entry != entry)
        return current_set_entry(entry, entry ? ENTER_BOUND : ENTER_NOT);
    exchange(tstate, map, slots[index].with, entry);
    return index;
}

int current_leave_bound(struct entry *entry, int index, struct entry *before)
{
    PyThreadState *tstate = py_tstate();
    PyObject **map = py_context_map(py_context(tstate));

    if (!map || index < NR_SLOTS || slots[index].entry != entry || slots[index].with != *map)
        return current_set_entry(before, ENTER_NOT);
    exchange(tstate, map, slots[index].without, before);
    return 0;
}

int current_leave(void)
{
    struct entry *entry = current_key.entry, *previous;
    PyThreadState *tstate = py_tstate();
    PyObject **map = py_context_map(py_context(tstate));
    struct slot *slot = &slots[entry->slot];

    previous = entry->previous == Py_None ? NULL : (struct entry *)entry->previous;
    if (!map || slot->entry != entry || slot->with != *map)
        return current_set_entry(previous, ENTER_NOT);
    last_left = entry->slot;
    exchange(tstate, map, slot->without, previous);
    return 0;
}

static void forget_slot(int index)
{
    struct slot old = slots[index];

    slots[index] = (struct slot){ 0 };
    Py_DECREF(old.entry);
    Py_DECREF(old.without);
    Py_DECREF(old.with);
}

void current_forget_last(PyObject *memcg)
{
    if (slots[last_left].entry && slots[last_left].entry->memcg == memcg)
        forget_slot(last_left);
}

/* Whether a group is entered in an entry, or in one before it: then the entry's maps name it too. */
static bool is_inside(const struct entry *entry, PyObject *memcg)
{
    while (entry->memcg != memcg && entry->previous != Py_None)
        entry = (const struct entry *)entry->previous;
    return entry->memcg == memcg;
}

void current_forget(PyObject *memcg)
{
    for (int i = 0; i < 2 * NR_SLOTS; i++) {
        if (slots[i].entry && (!memcg || is_inside(slots[i].entry, memcg)))
            forget_slot(i);
    }
}

bool current_is_below(PyObject *context, struct mem_cgroup *memcg)
{
    struct entry *entry = NULL;
    PyObject *value;

    context = knowing_context(context);
    if (context && (value = PyObject_GetItem(context, VAR))) {
        entry = entry_of(value);
        Py_DECREF(value); /* the context still holds it */
    }
    return mem_cgroup_is_descendant(entry ? entry->c : mem_cgroup_root(), memcg);
}

/* Runs no Python code, because the variable is found by identity. */
enum entry_state current_state_of(PyObject *context, struct mem_cgroup *memcg)
{
    enum entry_state inside = memcg == mem_cgroup_root() ? ENTRY_INSIDE : ENTRY_LEFT;
    PyObject *value;

    context = knowing_context(context);
    value = context ? PyObject_GetItem(context, VAR) : NULL;
    if (!value)
        return inside;
    Py_DECREF(value); /* the context still holds it */
    for (struct entry *entry = entry_of(value); entry; entry = entry_of(entry->previous)) {
        if (entry->shield == SHIELD_UP)
            return ENTRY_SHIELDED;
        if (entry->c == memcg)
            inside = ENTRY_INSIDE;
    }
    return inside;
}
