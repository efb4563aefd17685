/* SPDX-License-Identifier: Apache-2.0 */
/*
 * verdict.c - whether an alarm may be raised now, and whether it must be.
 *
 * It may be raised if
 *
 *   - the thread is in the context that was charged, and that context is still in the group;
 *   - the group is not shielded, no exception is pending, and no trace or profile function runs,
 *     because CPython would remove it;
 *   - no collection is under way, and the thread does not run what an object's end calls (dying.c),
 *     because CPython would print the exception and drop it;
 *   - its innermost frame is not in a library that holds locks of its own, and no frame near it
 *     is a finalizer or a context manager's entry or exit;
 *   - it stands at an instruction after which CPython checks for exceptions before anything else
 *     can happen, above all before a task is suspended, and at which an exception leaves nothing
 *     half done (frame.c).
 *
 * Before that, garbage is collected once per alarm, unless memory.high had it collected meanwhile,
 * or it was in vain recently (collection.c).  What unwinding and handling an alarm takes raises no
 * new one.
 *
 * Locks: none; the GIL throughout.
 */
#include "verdict.h"

#include "collection.h"
#include "current.h"
#include "dying.h"
#include "handler.h"
#include "refusal.h"

/* Tries: a greenlet may run again before it allocates, and that may be its only check. */
#define SWITCHES 16
#define NEAR_FRAMES 16

static PyObject *find_error;

/* ---- may it be raised? Allocates, but never collects ----------------------------- */

/* True for functions that must not be cut short. */
static bool is_guarded_name(PyObject *name)
{
    static const char *const guarded[] = { "__aexit__", "__enter__", "__aenter__", "__exit__" };

    for (size_t i = 0; i < sizeof(guarded) / sizeof(*guarded); i++)
        if (PyUnicode_CompareWithASCIIString(name, guarded[i]) == 0)
            return true;
    return false;
}

static bool is_guarded(PyFrameObject *frame, bool innermost)
{
    PyCodeObject *code = PyFrame_GetCode(frame);
    bool guarded = is_guarded_name(code->co_name) || refusal_is_printed_in(code);

    if (innermost && !guarded) {
        PyObject *globals = PyFrame_GetGlobals(frame);

        guarded = refusal_is_guarded(globals);
        Py_DECREF(globals);
    }
    Py_DECREF(code);
    return guarded;
}

static bool has_frame(PyThreadState *tstate)
{
    PyFrameObject *frame = PyThreadState_GetFrame(tstate);

    Py_XDECREF(frame);
    return frame != NULL;
}

/*
 * The entry of what a thread or a pool runs, before its first `try`: an exception there would be shown
 * as the thread's end, and the target would not have run at all.
 */
static bool is_entry_of_target(PyFrameObject *frame)
{
    PyFrameObject *back = frame_begins(frame) ? PyFrame_GetBack(frame) : NULL;
    bool entry = false;

    if (back) {
        PyCodeObject *code = PyFrame_GetCode(back);

        entry = (PyUnicode_CompareWithASCIIString(code->co_name, "run") == 0 ||
                 PyUnicode_CompareWithASCIIString(code->co_name, "__call__") == 0) &&
                is_guarded(back, true);
        Py_DECREF(code);
        Py_DECREF(back);
    }
    return entry;
}

static enum place place_now(PyThreadState *tstate, bool self)
{
    PyFrameObject *frame = PyThreadState_GetFrame(tstate);
    enum place place = frame ? frame_place(frame, self) : PLACE_NO;

    if (place && is_entry_of_target(frame))
        place = PLACE_NO;

    for (int i = 0; frame && i < NEAR_FRAMES; i++) {
        PyFrameObject *back;

        if (is_guarded(frame, i == 0))
            place = PLACE_NO;
        back = place ? PyFrame_GetBack(frame) : NULL;
        Py_DECREF(frame);
        frame = back;
    }
    Py_XDECREF(frame);
    return place;
}

static enum verdict judge(const struct alarm *alarm, PyThreadState *tstate, bool self)
{
    enum entry_state state;
    enum place place;

    if (alarm->context && alarm->context != py_context(tstate))
        return alarm->attempts < SWITCHES ? VERDICT_RETRY
                                          : VERDICT_PARK; /* the task is suspended */
    state = current_state_of(py_context(tstate), alarm->failure.memcg);
    if (state == ENTRY_LEFT)
        return alarm->context ? VERDICT_DROP : VERDICT_PARK;
    if (state == ENTRY_SHIELDED)
        return VERDICT_SHIELDED;
    if (py_async_exc(tstate) || py_is_tracing(tstate) || py_is_collecting(tstate))
        return VERDICT_RETRY;
    if ((alarm->again && alarm->unseen) || (alarm->delivered && handler_runs(tstate)))
        return VERDICT_HANDLED;
    if (!has_frame(tstate))
        return VERDICT_PARK; /* the interpreter or the thread is ending, and is not cut short */
    place = place_now(tstate, self);
    if (place && self && dying_is_here(tstate)) /* another thread's C stack is not looked at */
        return VERDICT_RETRY;
    return place == PLACE_OK ? VERDICT_DELIVER : place ? VERDICT_REFUSE : VERDICT_RETRY;
}

/* GIL held.  No collection can start, so no Python code runs and no switch occurs between judging
 * and raising. */
enum verdict verdict_of(const struct alarm *alarm, PyThreadState *tstate, bool self)
{
    PyObject *type, *value, *traceback;
    int collecting = PyGC_Disable();
    enum verdict verdict;

    PyErr_Fetch(&type, &value, &traceback);
    memcg_stop_kmem_account();
    verdict = judge(alarm, tstate, self);
    memcg_resume_kmem_account();
    PyErr_Restore(type, value, traceback);
    if (collecting)
        PyGC_Enable();
    return verdict;
}

/* ---- has it to be raised? ---------------------------------------------------------- */

/* True if a refusal became a MemoryError that still exists.  Runs Python code, as collection_run()
 * does. */
static bool was_heard(const struct code_line *line)
{
    PyObject *type, *value, *traceback, *found;
    bool heard;

    PyErr_Fetch(&type, &value, &traceback);
    memcg_stop_kmem_account();
    found = PyObject_CallFunction(find_error, "Ni", PyLong_FromVoidPtr(line->code), line->lasti);
    heard = found != Py_False;
    if (!found)
        PyErr_WriteUnraisable(find_error);
    Py_XDECREF(found);
    memcg_resume_kmem_account();
    PyErr_Restore(type, value, traceback);
    return heard;
}

/* Reclaim may make the alarm needless.  For a group without memory.high nothing is collected. */
enum verdict verdict_of_reclaim(const struct alarm *alarm)
{
    struct mem_cgroup *limited = alarm->failure.limited;

    if (alarm->doubt.code) /* a refused request was not charged, so usage says nothing */
        return was_heard(&alarm->doubt) ? VERDICT_DROP : VERDICT_DELIVER;
    if (mem_cgroup_get_limit(limited, MEMCG_HIGH) == PAGE_COUNTER_MAX)
        return VERDICT_DELIVER;
    if ((mem_cgroup_high_pending(limited) ||
         mem_cgroup_alarmed(alarm->failure.memcg) != MEMCG_COLLECTED_IN_VAIN) &&
        collection_is_due(limited) && !collection_run(&alarm->failure))
        return VERDICT_RETRY;
    return mem_cgroup_usage(limited) <= mem_cgroup_get_limit(limited, MEMCG_MAX) ? VERDICT_DROP
                                                                                 : VERDICT_DELIVER;
}

void verdict_init(PyObject *find)
{
    Py_INCREF(find);
    find_error = find;
}
