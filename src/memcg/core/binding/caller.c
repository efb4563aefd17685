/*
 * caller.c - which line of Python asks for memory: for MEMCG_DEBUG=U, alarms and refusals.
 *
 * Reads the running frame as tracemalloc does (Modules/_tracemalloc.c), for frames of
 * PyFrameObject would have to be allocated.
 */
#define Py_BUILD_CORE 1
#include "binding.h"

#include <internal/pycore_frame.h>
#include <internal/pycore_object.h>

#define NR_LOOKED_AT 4096 /* frames of Python functions that call each other without C between */

static _PyInterpreterFrame *running_frame(PyThreadState *tstate)
{
#if PY_VERSION_HEX >= 0x030d0000
    _PyInterpreterFrame *frame = tstate->current_frame;
#else
    _PyInterpreterFrame *frame = tstate->cframe->current_frame;
#endif

    while (frame && _PyFrame_IsIncomplete(frame))
        frame = frame->previous;
    return frame;
}

void *caller_frame(PyThreadState *tstate) { return running_frame(tstate); }

PyObject *caller_globals(PyThreadState *tstate)
{
    _PyInterpreterFrame *frame = running_frame(tstate);

    return frame ? frame->f_globals : NULL;
}

uintptr_t caller_stack(PyThreadState *tstate)
{
#if PY_VERSION_HEX >= 0x030d0000
    _PyInterpreterFrame *frame = tstate->current_frame;

    for (int i = 0; frame && i < NR_LOOKED_AT; i++, frame = frame->previous)
        if (frame->owner == FRAME_OWNED_BY_CSTACK)
            return (uintptr_t)frame;
    return UINTPTR_MAX;
#else
    return (uintptr_t)tstate->cframe;
#endif
}

static PyCodeObject *code_of(_PyInterpreterFrame *frame)
{
#if PY_VERSION_HEX >= 0x030d0000
    return _PyFrame_GetCode(frame);
#else
    return frame->f_code;
#endif
}

static size_t frame_object_bytes(_PyInterpreterFrame *frame)
{
    PyCodeObject *code = code_of(frame);
    Py_ssize_t slots = code->co_nlocalsplus + code->co_stacksize;

    return 2 * sizeof(void *) /* the collector's head */ +
           (size_t)_PyObject_VAR_SIZE(&PyFrame_Type, slots);
}

bool caller_frame_takes(size_t bytes)
{
    _PyInterpreterFrame *frame = running_frame(tstate_get());

    for (int i = 0; frame && i < 2; i++) {
        if (frame_object_bytes(frame) == bytes)
            return true;
        frame = frame->previous;
        while (frame && _PyFrame_IsIncomplete(frame))
            frame = frame->previous;
    }
    return false;
}

/* In ASCII; PyUnicode_AsUTF8 would allocate. */
static size_t put(char *text, size_t n, size_t at, PyObject *string)
{
    for (Py_ssize_t i = 0; i < PyUnicode_GET_LENGTH(string) && at + 1 < n; i++) {
        Py_UCS4 c = PyUnicode_READ_CHAR(string, i);

        text[at++] = c < 128 ? (char)c : '?';
    }
    text[at] = 0;
    return at;
}

static int lasti_of(_PyInterpreterFrame *frame)
{
    return _PyInterpreterFrame_LASTI(frame) * (int)sizeof(_Py_CODEUNIT);
}

struct caller_line caller_line(PyThreadState *tstate)
{
    _PyInterpreterFrame *frame = running_frame(tstate);

    return frame ? (struct caller_line){ (PyObject *)code_of(frame), lasti_of(frame) }
                 : (struct caller_line){ 0 };
}

void caller(char *text, size_t n)
{
    _PyInterpreterFrame *frame;
    PyCodeObject *code;
    size_t at;

    if (!PyGILState_Check() || !(frame = running_frame(tstate_get())))
        return;
    code = code_of(frame);
    at = put(text, n - 1, 0, code->co_filename);
    at += (size_t)snprintf(text + at, n - at, ":%d in ",
                           PyCode_Addr2Line(code, lasti_of(frame)));
    if (at < n)
        put(text, n, at, code->co_name);
}
