/* SPDX-License-Identifier: Apache-2.0 */
/*
 * frame.h - where a thread stands: which line of Python it runs, and whether an exception may come there.
 */
#ifndef MEMCG_FRAME_H
#define MEMCG_FRAME_H

#include "compat.h"

/* "file:line in function" of the innermost frame; a memcg_caller_fn. */
void frame_caller(char *text, size_t n);
void *frame_innermost(PyThreadState *tstate);   /* for comparison only */
PyObject *frame_globals(PyThreadState *tstate); /* of the innermost; borrowed; NULL: no frame */
/* In a hook, GIL held: whether a frame object of the innermost frame, or of the one before it, takes so
 * many bytes. */
bool frame_takes(size_t bytes);

struct code_line {
    PyObject *code; /* borrowed, for comparison only; NULL: no frame */
    int lasti;      /* as a traceback's tb_lasti */
};
struct code_line frame_line(PyThreadState *tstate); /* of the innermost */

/* PLACE_JUMP: no exception may come here, but in the loop's body one may. at_check: CPython is checking
 * at this moment. */
enum place { PLACE_NO, PLACE_JUMP, PLACE_OK };
enum place frame_place(PyFrameObject *frame, bool at_check);

/* Call visit for what each running frame of each thread holds; before, if it is not NULL, enter. */
void frame_visit_all(visitproc visit, void *arg, void (*enter)(py_frame *frame, void *arg));

#endif
