/*
 * current.c - the group of the running context, as the data plane sees it.
 *
 * A ContextVar holds the entry; the data plane reads a thread-local pointer.  MEM and OBJ
 * calls, which hold the GIL, compare three words and reload the pointer when the
 * context may have changed.  RAW calls use what was last loaded: without the GIL the
 * thread state is not ours to read.
 */
#include "binding.h"

__thread struct current_key current_key;
static PyObject *entry_var;
static PyInterpreterState *interpreter;
static struct mem_cgroup *(*memcg_of_entry)(PyObject *);

void current_init(PyObject *var, struct mem_cgroup *(*entry_memcg)(PyObject *entry))
{
    Py_INCREF(var);
    memcg_of_entry = entry_memcg;
    interpreter = PyThreadState_Get()->interp;
    entry_var = var;
}

/* PyContextVar_Get finds keys by identity, but a lookup at the edge of the C stack can raise. */
static PyObject *get_entry(void)
{
    PyObject *entry = NULL, *type, *value, *traceback;

    PyErr_Fetch(&type, &value, &traceback);
    if (PyContextVar_Get(entry_var, NULL, &entry) < 0)
        PyErr_Clear();
    PyErr_Restore(type, value, traceback);
    return entry;
}

void current_reload(PyThreadState *tstate)
{
    PyObject *entry;

    if (!entry_var || !tstate)
        return;
    current_key = (struct current_key){ tstate, tstate->id, tstate->context_ver, tstate->context };
    if (tstate->interp != interpreter) { /* the variable is the main interpreter's */
        memcg_set_current(NULL);
        return;
    }
    entry = get_entry();
    memcg_set_current(entry && entry != Py_None ? memcg_of_entry(entry) : NULL);
    Py_XDECREF(entry);
}

void current_set(struct mem_cgroup *memcg)
{
    PyThreadState *tstate = tstate_get();

    current_key = (struct current_key){ tstate, tstate->id, tstate->context_ver, tstate->context };
    memcg_set_current(memcg);
}

PyObject *current_entry_of(PyObject *context)
{
    PyObject *entry;

    if (!context || PySequence_Contains(context, entry_var) <= 0)
        return NULL;
    entry = PyObject_GetItem(context, entry_var);
    if (!entry) {
        PyErr_Clear();
        return NULL;
    }
    Py_DECREF(entry); /* the context keeps it */
    return entry == Py_None ? NULL : entry;
}
