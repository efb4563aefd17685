/* SPDX-License-Identifier: Apache-2.0 */
/*
 * frame.c - where a thread stands: its line, for MEMCG_DEBUG=U, alarms and refusals; and whether an
 * exception may be raised there.
 *
 * It reads running frames as tracemalloc does (Modules/_tracemalloc.c), because a PyFrameObject
 * would have to be allocated.
 *
 * CPython checks for exceptions when a function is entered, after a call, and at a backward jump.
 * At some of these places an exception would break what the source says:
 *
 *   - between the call of a coroutine function and its await the coroutine would be dropped
 *     (`async with lock:` would not run its __aexit__);
 *   - since 3.14, after the call of a C function __enter__ its `with` would not be left;
 *   - where a coroutine has just been resumed, the one that it awaits is in the middle of its
 *     own work (asyncio.Lock.acquire, say) and would be closed;
 *   - at a backward jump CPython looks the handler up for a place that may lie outside the
 *     `try` or `with` that the jump belongs to.  A loop may have no other check.
 *
 * CPython: Objects/exception_handling_notes.txt, Lib/opcode.py.  Locks: none.
 */
#include "frame.h"

/* ---- which line ------------------------------------------------------------------ */

void *frame_innermost(PyThreadState *tstate) { return py_running_frame(tstate); }

PyObject *frame_globals(PyThreadState *tstate)
{
    py_frame *frame = py_running_frame(tstate);

    return frame ? py_frame_globals(frame) : NULL;
}

bool frame_takes(size_t bytes)
{
    py_frame *frame = py_running_frame(py_tstate());

    for (int i = 0; frame && i < 2; i++, frame = py_frame_before(frame))
        if (py_frame_object_bytes(frame) == bytes)
            return true;
    return false;
}

struct code_line frame_line(PyThreadState *tstate)
{
    py_frame *frame = py_running_frame(tstate);

    return frame ? (struct code_line){ (PyObject *)py_frame_code(frame), py_frame_lasti(frame) }
                 : (struct code_line){ 0 };
}

/* Writes ASCII only; PyUnicode_AsUTF8 would allocate. */
static size_t put(char *text, size_t n, size_t at, PyObject *string)
{
    for (Py_ssize_t i = 0; i < PyUnicode_GET_LENGTH(string) && at + 1 < n; i++) {
        Py_UCS4 c = PyUnicode_READ_CHAR(string, i);

        text[at++] = c < 128 ? (char)c : '?';
    }
    text[at] = 0;
    return at;
}

void frame_caller(char *text, size_t n)
{
    py_frame *frame;
    PyCodeObject *code;
    size_t at;

    if (!py_holds_gil() || !(frame = py_running_frame(py_tstate())))
        return;
    code = py_frame_code(frame);
    at = put(text, n - 1, 0, code->co_filename);
    at += (size_t)snprintf(text + at, n - at, ":%d in ",
                           PyCode_Addr2Line(code, py_frame_lasti(frame)));
    if (at < n)
        put(text, n, at, code->co_name);
}

/* Visits locals only: CPython itself does not know what is on a running frame's stack. */
void frame_visit_all(visitproc visit, void *arg, void (*enter)(py_frame *frame, void *arg))
{
    PyThreadState *tstate = PyInterpreterState_ThreadHead(PyInterpreterState_Main());

    for (; tstate; tstate = PyThreadState_Next(tstate))
        for (py_frame *frame = py_running_frame(tstate); frame; frame = py_frame_before(frame)) {
            int n = py_frame_nr_locals(frame);

            if (enter)
                enter(frame, arg);
            for (int i = 0; i < n; i++) {
                PyObject *local = py_frame_local(frame, i);

                if (local)
                    visit(local, arg);
            }
        }
}

/* ---- whether an exception may be raised ------------------------------------------- */

static int after_caches(const unsigned char *units, int nr_units, int unit)
{
    while (unit < nr_units && units[2 * unit] == 0)
        unit++;
    return unit;
}

static bool jump_keeps_its_handler(PyCodeObject *code, const unsigned char *units, int nr_units,
                                   int unit)
{
    int next = after_caches(units, nr_units, unit + 1), back = units[2 * unit + 1], target, handler;

    for (int i = unit - 1, shift = 8; i >= 0 && py_instruction(units[2 * i]) == PY_EXTENDED_ARG;
         i--, shift += 8)
        back |= units[2 * i + 1] << shift;
    target = next - back;
    handler = py_handler_of(code, unit);
    return target >= 1 && py_handler_of(code, target) == handler &&
           py_handler_of(code, target - 1) == handler;
}

static enum place place_of(PyCodeObject *code, const unsigned char *units, int nr_units, int unit)
{
    int next;

    if (unit && py_instruction(units[2 * unit - 2]) == PY_LOAD_SPECIAL &&
        units[2 * unit - 1] == PY_ENTER)
        return PLACE_NO;
    switch (py_instruction(units[2 * unit])) {
    case PY_RESUME: /* 2 and 3: after `yield from`, `await` */
        return (units[2 * unit + 1] & 3) < 2 ? PLACE_OK : PLACE_NO;
    case PY_JUMP_BACKWARD:
    case PY_JUMP_IF:
        return jump_keeps_its_handler(code, units, nr_units, unit) ? PLACE_OK : PLACE_JUMP;
    case PY_CALL:
        next = after_caches(units, nr_units, unit + 1);
        if (next < nr_units && py_instruction(units[2 * next]) == PY_CALL) /* PRECALL, CALL */
            next = after_caches(units, nr_units, next + 1);
        return next < nr_units && py_instruction(units[2 * next]) == PY_GET_AWAITABLE ? PLACE_NO
                                                                                      : PLACE_OK;
    default:
        return PLACE_OK;
    }
}

bool frame_begins(PyFrameObject *frame)
{
    PyCodeObject *code = PyFrame_GetCode(frame);
    PyObject *bytes = PyCode_GetCode(code);
    int unit = PyFrame_GetLasti(frame) / 2;
    bool begins = false;

    if (bytes && unit >= 0 && unit < PyBytes_GET_SIZE(bytes) / 2) {
        const unsigned char *units = (const unsigned char *)PyBytes_AS_STRING(bytes);

        begins = py_instruction(units[2 * unit]) == PY_RESUME && (units[2 * unit + 1] & 3) == 0;
    }
    Py_XDECREF(bytes);
    Py_DECREF(code);
    return begins;
}

enum place frame_place(PyFrameObject *frame, bool at_check)
{
    PyCodeObject *code = PyFrame_GetCode(frame);
    PyObject *bytes = PyCode_GetCode(code);
    int unit = PyFrame_GetLasti(frame) / 2;
    enum place place = PLACE_NO;

    if (bytes && unit >= 0 && unit < PyBytes_GET_SIZE(bytes) / 2) {
        const unsigned char *units = (const unsigned char *)PyBytes_AS_STRING(bytes);
        int nr_units = (int)(PyBytes_GET_SIZE(bytes) / 2), kind = py_instruction(units[2 * unit]);
        int next = after_caches(units, nr_units, unit + 1);

        if (at_check || (kind != PY_OTHER && kind <= PY_JUMP_BACKWARD))
            place = place_of(code, units, nr_units, unit);
        else if (kind == PY_JUMP_IF || (kind == PY_COMPARE && next < nr_units &&
                                        py_instruction(units[2 * next]) == PY_JUMP_IF))
            place = PLACE_JUMP;
    }
    Py_XDECREF(bytes);
    Py_DECREF(code);
    return place;
}
