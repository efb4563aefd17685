/* SPDX-License-Identifier: Apache-2.0 */
/*
 * frame.h - where a thread stands: which line of Python it runs, and whether an exception may be
 * raised there.
 */
#ifndef MEMCG_FRAME_H
#define MEMCG_FRAME_H

#include "compat.h"

/* Writes "file:line in function" of the innermost frame; a memcg_caller_fn. */
void frame_caller(char *text, size_t n);
void *frame_innermost(PyThreadState *tstate); /* for comparison only */
/* The innermost frame's; borrowed; NULL: no frame. */
PyObject *frame_globals(PyThreadState *tstate);
/* In a hook, GIL held. True if a frame object of the innermost frame, or of its caller, takes so
 * many bytes. */
bool frame_takes(size_t bytes);

struct code_line {
    PyObject *code; /* borrowed, for comparison only; NULL: no frame */
    int lasti;      /* as a traceback's tb_lasti */
};
struct code_line frame_line(PyThreadState *tstate); /* of the innermost frame */

/* PLACE_JUMP: an exception must not be raised here, but may be in the loop's body. at_check:
 * CPython is checking at this moment. */
enum place { PLACE_NO, PLACE_JUMP, PLACE_OK };
bool frame_begins(PyFrameObject *frame); /* its function has just been entered */
enum place frame_place(PyFrameObject *frame, bool at_check);

/* Calls visit for each object that a running frame of any thread holds. Before each frame it calls
 * enter, if that is not NULL. */
void frame_visit_all(visitproc visit, void *arg, void (*enter)(py_frame *frame, void *arg));

#endif
