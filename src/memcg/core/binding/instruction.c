/*
 * instruction.c - whether an exception may come where a frame stands.
 *
 * CPython checks for exceptions when a function is entered, after a call, and at a backward
 * jump.  Not at each of these does what the source says hold:
 *
 *   - between the call of a coroutine function and its await the coroutine would be dropped
 *     (`async with lock:` would not run its __aexit__);
 *   - where a coroutine has just been resumed, the one that it awaits is in the middle of its
 *     own work (asyncio.Lock.acquire, say) and would be closed;
 *   - at a backward jump CPython looks the handler up for a place that may lie outside the
 *     `try` or `with` the jump belongs to. A loop may have no other check.
 *
 * CPython: Objects/exception_handling_notes.txt, Lib/opcode.py.
 */
#include "binding.h"
#include <opcode.h>

enum instruction_kind { /* up to JUMP_BACKWARD: CPython checks after it */
    INSTRUCTION_OTHER,
    INSTRUCTION_RESUME,
    INSTRUCTION_CALL,
    INSTRUCTION_JUMP_BACKWARD,
    INSTRUCTION_JUMP_IF, /* of 3.11; it jumps, and CPython checks, or neither */
    INSTRUCTION_COMPARE, /* may be one with a JUMP_IF that follows */
    INSTRUCTION_GET_AWAITABLE,
    INSTRUCTION_EXTENDED,
};

static const unsigned char kind_of[256] = {
    [RESUME] = INSTRUCTION_RESUME,
    [CALL] = INSTRUCTION_CALL,
    [CALL_FUNCTION_EX] = INSTRUCTION_CALL,
    [JUMP_BACKWARD] = INSTRUCTION_JUMP_BACKWARD,
    [COMPARE_OP] = INSTRUCTION_COMPARE,
    [GET_AWAITABLE] = INSTRUCTION_GET_AWAITABLE,
    [EXTENDED_ARG] = INSTRUCTION_EXTENDED,
#if PY_VERSION_HEX < 0x030c0000
    [PRECALL] = INSTRUCTION_CALL,
    [POP_JUMP_BACKWARD_IF_TRUE] = INSTRUCTION_JUMP_IF,
    [POP_JUMP_BACKWARD_IF_FALSE] = INSTRUCTION_JUMP_IF,
    [POP_JUMP_BACKWARD_IF_NONE] = INSTRUCTION_JUMP_IF,
    [POP_JUMP_BACKWARD_IF_NOT_NONE] = INSTRUCTION_JUMP_IF,
#endif
#if PY_VERSION_HEX >= 0x030d0000
    [CALL_KW] = INSTRUCTION_CALL,
#endif
};

/* Six bits a byte, the highest first; 0x40: more follow. */
static const unsigned char *read_varint(const unsigned char *p, const unsigned char *end, int *value)
{
    int n = 0;

    for (; p < end; p++) {
        n = n << 6 | (*p & 63);
        if (!(*p & 64)) {
            *value = n;
            return p + 1;
        }
    }
    return end;
}

/* The handler for a code unit, or -1. */
static int handler_of(PyCodeObject *code, int unit)
{
    const unsigned char *p = (const unsigned char *)PyBytes_AS_STRING(code->co_exceptiontable);
    const unsigned char *end = p + PyBytes_GET_SIZE(code->co_exceptiontable);

    while (p < end) {
        int start = 0, length = 0, target = 0, depth = 0;

        p = read_varint(p, end, &start);
        p = read_varint(p, end, &length);
        p = read_varint(p, end, &target);
        p = read_varint(p, end, &depth);
        if (unit < start)
            break;
        if (unit < start + length)
            return target;
    }
    return -1;
}

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

    for (int i = unit - 1, shift = 8; i >= 0 && kind_of[units[2 * i]] == INSTRUCTION_EXTENDED;
         i--, shift += 8)
        back |= units[2 * i + 1] << shift;
    target = next - back;
    handler = handler_of(code, unit);
    return target >= 1 && handler_of(code, target) == handler &&
           handler_of(code, target - 1) == handler;
}

static enum place place_of(PyCodeObject *code, const unsigned char *units, int nr_units, int unit)
{
    int next;

    switch (kind_of[units[2 * unit]]) {
    case INSTRUCTION_RESUME: /* 2, 3: after `yield from`, `await` */
        return (units[2 * unit + 1] & 3) < 2 ? PLACE_OK : PLACE_NO;
    case INSTRUCTION_JUMP_BACKWARD:
    case INSTRUCTION_JUMP_IF:
        return jump_keeps_its_handler(code, units, nr_units, unit) ? PLACE_OK : PLACE_JUMP;
    case INSTRUCTION_CALL:
        next = after_caches(units, nr_units, unit + 1);
        if (next < nr_units && kind_of[units[2 * next]] == INSTRUCTION_CALL) /* PRECALL, CALL */
            next = after_caches(units, nr_units, next + 1);
        return next < nr_units && kind_of[units[2 * next]] == INSTRUCTION_GET_AWAITABLE ? PLACE_NO
                                                                                        : PLACE_OK;
    }
    return PLACE_OK;
}

enum place instruction_place(PyFrameObject *frame, bool at_check)
{
    PyCodeObject *code = PyFrame_GetCode(frame);
    PyObject *bytes = PyCode_GetCode(code);
    int unit = PyFrame_GetLasti(frame) / 2;
    enum place place = PLACE_NO;

    if (bytes && unit >= 0 && unit < PyBytes_GET_SIZE(bytes) / 2) {
        const unsigned char *units = (const unsigned char *)PyBytes_AS_STRING(bytes);
        int nr_units = (int)(PyBytes_GET_SIZE(bytes) / 2), kind = kind_of[units[2 * unit]];
        int next = after_caches(units, nr_units, unit + 1);

        if (at_check || (kind != INSTRUCTION_OTHER && kind <= INSTRUCTION_JUMP_BACKWARD))
            place = place_of(code, units, nr_units, unit);
        else if (kind == INSTRUCTION_JUMP_IF ||
                 (kind == INSTRUCTION_COMPARE && next < nr_units &&
                  kind_of[units[2 * next]] == INSTRUCTION_JUMP_IF))
            place = PLACE_JUMP;
    }
    Py_XDECREF(bytes);
    Py_DECREF(code);
    return place;
}
