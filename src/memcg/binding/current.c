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
static const struct entry_ops *entry_ops;

void current_init(PyObject *var, const struct entry_ops *ops)
{
    Py_INCREF(var);
    entry_ops = ops;
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
    memcg_set_current(entry && entry != Py_None ? entry_ops->memcg(entry) : NULL);
    Py_XDECREF(entry);
    alarm_resume(tstate->context);
}

void current_set(struct mem_cgroup *memcg)
{
    PyThreadState *tstate = tstate_get();

    current_key = (struct current_key){ tstate, tstate->id, tstate->context_ver, tstate->context };
    memcg_set_current(memcg);
}

/* Runs no Python code: the variable is found by identity. */
enum entry_state entry_state_of(PyObject *context, struct mem_cgroup *memcg)
{
    enum entry_state inside = memcg == mem_cgroup_root() ? ENTRY_INSIDE : ENTRY_LEFT;
    PyObject *entry;

    if (!context || PySequence_Contains(context, entry_var) != 1)
        return inside;
    entry = PyObject_GetItem(context, entry_var);
    if (!entry)
        return inside;
    Py_DECREF(entry); /* the context keeps it */
    if (entry != Py_None && entry_ops->shielded(entry))
        return ENTRY_SHIELDED;
    for (; entry != Py_None && inside == ENTRY_LEFT; entry = entry_ops->previous(entry))
        if (entry_ops->memcg(entry) == memcg)
            inside = ENTRY_INSIDE;
    return inside;
}
