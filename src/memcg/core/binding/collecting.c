/* SPDX-License-Identifier: Apache-2.0 */
/*
 * collecting.c - tells whether the collection that is under way is this thread's.
 *
 * CPython has one flag for all threads.  What a collection calls may release the GIL, and what other
 * threads do meanwhile is no part of the collection.  The thread that collects has CPython's
 * collector on its C stack.  The collector's functions are static, so their addresses are learned:
 * an object is made that is garbage from the beginning, and the collector calls its tp_clear.  A
 * collection that a program asks for and one that CPython starts have different outer functions, so
 * another object is made until one of the second kind was seen.
 *
 * Locks: none; the GIL throughout.
 */
#include "collecting.h"

#include <unwind.h>

#include "memcg.h"

#define NR_INNER 2   /* functions that are remembered of one collection, the innermost first */
#define NR_LESSONS 8 /* collections that are learned from */
#define NR_C_FRAMES 256

static struct {
    uintptr_t functions[NR_INNER * NR_LESSONS + 2]; /* where they start */
    int nr, nr_lessons;
    uintptr_t collect;     /* gc.collect() */
    bool seen_by_itself;   /* a collection that CPython has started */
    PyTypeObject *garbage; /* the type of the objects */
} collector;

struct garbage {
    PyObject ob_base;
    PyObject *self;
};

struct walk {
    int left;   /* C frames that may still be looked at */
    bool found; /* learning: the frame of tp_clear; otherwise one of the collector */
};

static int garbage_clear(PyObject *object);

static bool is_known(uintptr_t function)
{
    for (int i = 0; i < collector.nr; i++)
        if (collector.functions[i] == function)
            return true;
    return false;
}

static void remember(uintptr_t function)
{
    if (!is_known(function))
        collector.functions[collector.nr++] = function;
}

static _Unwind_Reason_Code learn(struct _Unwind_Context *frame, void *arg)
{
    struct walk *walk = arg;
    uintptr_t function = _Unwind_GetRegionStart(frame);

    if (!walk->found) {
        walk->found = function == (uintptr_t)garbage_clear;
        return _URC_NO_REASON;
    }
    if (py_calls_anything(function) || !walk->left--)
        return _URC_END_OF_STACK;
    remember(function);
    if (function != collector.collect && function != (uintptr_t)PyGC_Collect)
        return _URC_NO_REASON;
    collector.seen_by_itself = false;
    return _URC_END_OF_STACK;
}

static int make_garbage(void)
{
    PyObject *object = PyType_GenericAlloc(collector.garbage, 0);

    if (!object)
        return -1;
    ((struct garbage *)object)->self = object; /* its own reference is the only one */
    return 0;
}

/* Called by the collector alone. */
static int garbage_clear(PyObject *object)
{
    struct walk walk = { .left = NR_INNER };

    if (!collector.seen_by_itself && collector.nr_lessons < NR_LESSONS) {
        collector.nr_lessons++;
        collector.seen_by_itself = true;
        _Unwind_Backtrace(learn, &walk);
        memcg_stop_kmem_account();
        if (!collector.seen_by_itself && make_garbage() < 0)
            PyErr_Clear(); /* what was learned so far has to do */
        memcg_resume_kmem_account();
    }
    Py_CLEAR(((struct garbage *)object)->self);
    return 0;
}

static int garbage_traverse(PyObject *object, visitproc visit, void *arg)
{
    Py_VISIT(((struct garbage *)object)->self);
    Py_VISIT(Py_TYPE(object));
    return 0;
}

static void garbage_dealloc(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);

    PyObject_GC_UnTrack(object);
    type->tp_free(object);
    Py_DECREF(type);
}

static _Unwind_Reason_Code find(struct _Unwind_Context *frame, void *arg)
{
    struct walk *walk = arg;

    walk->found = is_known(_Unwind_GetRegionStart(frame));
    return walk->found || !walk->left-- ? _URC_END_OF_STACK : _URC_NO_REASON;
}

bool collecting_is_here(const PyThreadState *tstate)
{
    struct walk walk = { .left = NR_C_FRAMES };

    if (!py_is_collecting(tstate))
        return false;
    if (!collector.nr_lessons)
        return true;
    _Unwind_Backtrace(find, &walk);
    return walk.found;
}

int collecting_init(PyObject *collect)
{
    static PyType_Slot slots[] = {
        { Py_tp_traverse, garbage_traverse },
        { Py_tp_clear, garbage_clear },
        { Py_tp_dealloc, garbage_dealloc },
        { 0, NULL },
    };
    static PyType_Spec spec = {
        .name = "memcg.core.garbage",
        .basicsize = sizeof(struct garbage),
        .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
        .slots = slots,
    };

    if (collector.garbage)
        return 0;
    if (PyCFunction_Check(collect)) /* else a program has put its own in gc's place */
        remember(collector.collect = (uintptr_t)PyCFunction_GET_FUNCTION(collect));
    remember((uintptr_t)PyGC_Collect);
    collector.garbage = (PyTypeObject *)PyType_FromSpec(&spec);
    return collector.garbage ? make_garbage() : -1;
}
