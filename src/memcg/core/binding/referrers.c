/* SPDX-License-Identifier: Apache-2.0 */
/*
 * referrers.c - what refers to an object: a module's global, a frame's local, an attribute.
 *
 * The search starts at the objects in question and finds their referrers, then the referrers of
 * those, and so on.  Each step is one pass over all containers, as gc.get_referrers makes it.  It
 * ends at a name that a person knows (a module's global, a local of a function), after NR_STEPS, or
 * when the time is up.  A few referrers of each object are followed, because a single one may lead
 * in a circle.
 *
 * Names are found by comparing addresses.  No attribute is read by name, so no code of the program
 * runs.
 *
 * Kernel: none; ours.  Locks: the GIL throughout; nothing is freed meanwhile.
 */
#include "referrers.h"

#include "frame.h"
#include "numpy.h"
#include "plain.h"

#include <structmember.h>
#include <time.h>

#define NR_STEPS 5
#define NR_NODES 512
#define NR_UPS 4
#define BUDGET_NS 300000000 /* ns of processor time, after which no further step is begun */

struct node {
    PyObject *op; /* for a running frame, the frame's address */
    bool is_frame;
    int ups[NR_UPS], nr_ups; /* indices of referrers in nodes */
    int from;                /* in a search for a path: the node before; -1: not reached */
};

struct search {
    struct node nodes[NR_NODES];
    int nr, first, end; /* this step finds the referrers of nodes first to end - 1 */
    struct map index;   /* address -> index in nodes */
    struct map modules; /* a module's dict -> its name */
    PyObject *current;  /* the object whose references are being visited */
    bool in_frame;      /* current is a running frame */
    PyTypeObject *ndarray;
};

/* ---- the graph ------------------------------------------------------------- */

static int node_of(struct search *s, PyObject *op, bool is_frame)
{
    bool is_new;
    uint64_t *number;

    if (s->nr == NR_NODES && !map_find(&s->index, (uintptr_t)op))
        return -1;
    number = map_add(&s->index, (uintptr_t)op, &is_new);
    if (!number)
        return -1;
    if (is_new) {
        s->nodes[s->nr] = (struct node){ .op = op, .is_frame = is_frame };
        *number = (uint64_t)s->nr++;
    }
    return (int)*number;
}

static bool has_frame(PyObject *op)
{
    return PyFrame_Check(op) || PyGen_Check(op) || PyCoro_CheckExact(op) ||
           PyAsyncGen_CheckExact(op);
}

/* True where a path ends, because people know it by its name. */
static bool is_known(const struct search *s, const struct node *node)
{
    return node->is_frame || map_find(&s->modules, (uintptr_t)node->op) || has_frame(node->op);
}

static void note_reference(struct search *s, PyObject *op)
{
    uint64_t *number = map_find(&s->index, (uintptr_t)op);
    struct node *node;
    int up;

    if (!number || (int)*number < s->first || (int)*number >= s->end || op == s->current)
        return;
    node = &s->nodes[*number];
    if (node->nr_ups == NR_UPS && !s->in_frame && !map_find(&s->modules, (uintptr_t)s->current))
        return;
    up = node_of(s, s->current, s->in_frame);
    if (up < 0 || up == (int)*number)
        return;
    node->ups[node->nr_ups == NR_UPS ? NR_UPS - 1 : node->nr_ups++] = up;
}

static int visit_reference(PyObject *op, void *arg)
{
    struct search *s = arg;
    PyObject *current = s->current;
    bool in_frame = s->in_frame;

    note_reference(s, op);
    if (!is_array(op, s->ndarray) || !array_base(op))
        return 0;
    s->current = op; /* the collector does not visit it */
    s->in_frame = false;
    note_reference(s, array_base(op));
    s->current = current;
    s->in_frame = in_frame;
    return 0;
}

static void enter_frame(py_frame *frame, void *arg)
{
    ((struct search *)arg)->current = (PyObject *)frame;
}

static void visit_all(struct search *s, const struct objects *objects)
{
    for (size_t i = 0; i < objects->nr; i++) {
        s->current = objects->all[i];
        Py_TYPE(s->current)->tp_traverse(s->current, visit_reference, s);
    }
}

/* Finds the shortest path from the target to something known.  If there is none, it follows
 * first referrers as far as they lead. path: indices in nodes, the target's first.  Returns
 * its length. */
static int path_of(struct search *s, int target, int path[NR_STEPS + 2])
{
    int queue[NR_NODES], end = 0, last = target, length = 0;

    for (int i = 0; i < s->nr; i++)
        s->nodes[i].from = -1;
    queue[end++] = target;
    s->nodes[target].from = target;
    for (int i = 0; i < end; i++) {
        struct node *node = &s->nodes[queue[i]];

        if (queue[i] != target && is_known(s, node)) {
            last = queue[i];
            break;
        }
        for (int k = 0; k < node->nr_ups; k++)
            if (s->nodes[node->ups[k]].from < 0) {
                s->nodes[node->ups[k]].from = queue[i];
                queue[end++] = node->ups[k];
            }
        if (last == target && node->nr_ups)
            last = node->ups[0]; /* if nothing known is found: the first referrer */
    }
    for (int i = last; i != target; i = s->nodes[i].from)
        length++;
    length = length > NR_STEPS ? NR_STEPS : length;
    for (int i = last, at = length; at >= 0; i = s->nodes[i].from)
        path[at--] = i;
    return length + 1;
}

static bool all_known(struct search *s, int nr)
{
    int path[NR_STEPS + 2];

    for (int i = 0; i < nr; i++) {
        int length = path_of(s, i, path);

        if (length == 1 || !is_known(s, &s->nodes[path[length - 1]]))
            return false;
    }
    return true;
}

static int64_t now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static void know_modules(struct search *s)
{
    PyObject *modules = PyImport_GetModuleDict(), *name, *module;
    Py_ssize_t at = 0;

    while (PyDict_Next(modules, &at, &name, &module)) {
        bool is_new;
        uint64_t *known;

        if (!PyModule_Check(module) || !PyUnicode_CheckExact(name))
            continue;
        known = map_add(&s->modules, (uintptr_t)PyModule_GetDict(module), &is_new);
        if (known && is_new) /* a module with two names keeps the first */
            *known = (uintptr_t)name;
    }
}

static void find_referrers(struct search *s, const struct objects *tracked,
                           const struct objects *found)
{
    int64_t end = now_ns() + BUDGET_NS;
    int nr = s->nr;

    for (int step = 0; step < NR_STEPS && s->end < s->nr && now_ns() < end; step++) {
        s->first = s->end;
        s->end = s->nr;
        s->in_frame = true;
        frame_visit_all(visit_reference, s, enter_frame);
        s->in_frame = false;
        visit_all(s, tracked);
        visit_all(s, found);
        if (all_known(s, nr))
            break;
    }
}

/* ---- names ----------------------------------------------------------------- */

static PyObject *local_name(py_frame *frame, PyObject *op)
{
    int n = py_frame_nr_locals(frame);

    for (int i = 0; i < n; i++)
        if (py_frame_local(frame, i) == op)
            return PyTuple_GET_ITEM(py_frame_code(frame)->co_localsplusnames, i);
    return Py_None;
}

static PyObject *key_of(PyObject *dict, PyObject *op)
{
    PyObject *key, *value;
    Py_ssize_t at = 0;

    while (PyDict_Next(dict, &at, &key, &value))
        if (value == op)
            return key;
    return Py_None; /* op itself is a key */
}

/* Finds names of __slots__ and of the members of C types. */
static const char *member_name(PyObject *owner, PyObject *op)
{
    for (PyTypeObject *type = Py_TYPE(owner); type; type = type->tp_base)
        for (PyMemberDef *m = type->tp_members; m && m->name; m++)
            if ((m->type == T_OBJECT_EX || m->type == T_OBJECT) && m->flags < 8 && m->offset > 0 &&
                m->offset + (Py_ssize_t)sizeof(op) <= type->tp_basicsize &&
                *(PyObject **)((char *)owner + m->offset) == op)
                return m->name;
    return NULL;
}

/* op is owner's __dict__. */
static bool is_dict_of(PyObject *owner, PyObject *op)
{
    PyTypeObject *type = Py_TYPE(owner);

    if (!PyDict_Check(op))
        return false;
    if (PyType_Check(owner))
        return ((PyTypeObject *)owner)->tp_dict == op;
    if (PyType_HasFeature(type, Py_TPFLAGS_MANAGED_DICT))
        return py_managed_dict(owner) == op;
    return type->tp_dictoffset > 0 && *(PyObject **)((char *)owner + type->tp_dictoffset) == op;
}

static PyObject *hop(const struct search *s, const struct node *node, PyObject *op)
{
    PyObject *owner = node->op, *name;
    uint64_t *module = map_find(&s->modules, (uintptr_t)owner);
    py_frame *frame = node->is_frame     ? (py_frame *)owner
                      : has_frame(owner) ? py_frame_of(owner)
                                         : NULL;
    const char *member;

    if (frame)
        return Py_BuildValue("OsO", py_frame_code(frame), "local", local_name(frame, op));
    if (module)
        return Py_BuildValue("OsO", (PyObject *)*module, "global", key_of(owner, op));
    if (PyDict_Check(owner))
        return Py_BuildValue("OsO", owner, "key", key_of(owner, op));
    for (Py_ssize_t i = 0; PyList_Check(owner) && i < PyList_GET_SIZE(owner); i++)
        if (PyList_GET_ITEM(owner, i) == op)
            return Py_BuildValue("Osn", owner, "item", i);
    for (Py_ssize_t i = 0; PyTuple_Check(owner) && i < PyTuple_GET_SIZE(owner); i++)
        if (PyTuple_GET_ITEM(owner, i) == op)
            return Py_BuildValue("Osn", owner, "item", i);
    if (is_dict_of(owner, op))
        return Py_BuildValue("OsO", owner, "dict", Py_None);
    if ((member = member_name(owner, op)))
        return Py_BuildValue("Oss", owner, "attribute", member);
    if ((name = py_attribute_name(owner, op)))
        return Py_BuildValue("OsO", owner, "attribute", name);
    return Py_BuildValue("OsO", owner, "in", Py_None);
}

static PyObject *hops(struct search *s, int target)
{
    int path[NR_STEPS + 2], length = path_of(s, target, path);
    PyObject *list = PyList_New(0);

    for (int i = 1; list && i < length; i++) {
        PyObject *item = hop(s, &s->nodes[path[i]], s->nodes[path[i - 1]].op);

        if (!item || PyList_Append(list, item))
            Py_CLEAR(list);
        Py_XDECREF(item);
    }
    return list;
}

int referrers(PyObject **targets, int nr, const struct objects *tracked,
              const struct objects *found, PyTypeObject *ndarray, PyObject **paths)
{
    struct search *s = plain_calloc(1, sizeof(*s));
    int error = 0;

    if (!s) {
        PyErr_NoMemory();
        return -1;
    }
    s->ndarray = ndarray;
    know_modules(s);
    for (int i = 0; i < nr && !error; i++)
        error = node_of(s, targets[i], false) < 0;
    if (error)
        PyErr_NoMemory();
    else
        find_referrers(s, tracked, found);
    /* two targets may be one object */
    for (int i = 0; i < nr && !error; i++)
        error = !(paths[i] = hops(s, node_of(s, targets[i], false)));
    plain_free(s->index.slots);
    plain_free(s->modules.slots);
    plain_free(s);
    return error ? -1 : 0;
}
