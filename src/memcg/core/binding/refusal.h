/* SPDX-License-Identifier: Apache-2.0 */
/*
 * refusal.h - requests that must not be refused, and refusals that became no MemoryError.
 */
#ifndef MEMCG_REFUSAL_H
#define MEMCG_REFUSAL_H

#include "frame.h"
#include "memcg.h"

void refusal_init(void); /* may be called again; GIL held */
/* True if a frame with these globals runs code of a guarded module. GIL held; runs no Python code
 * and allocates nothing. */
bool refusal_is_guarded(PyObject *globals);
bool refusal_is_unheard(void); /* in a hook: code of a guarded module makes the request */
/* True if the thread is in a collection, in sys.unraisablehook, or in what an object's end calls.
 * CPython prints an error there and goes on. GIL held; allocates nothing. */
bool refusal_is_printed(PyThreadState *tstate);
/* True for the code of a finalizer or of sys.unraisablehook. */
bool refusal_is_printed_in(PyCodeObject *code);
/* The code of sys.unraisablehook; for comparison only; NULL: not written in Python. */
void refusal_set_unraisable(PyCodeObject *code);
/* Notes, in a hook, that a request was refused. True: a request was refused before in this context,
 * and no MemoryError was freed since; *before is its line. */
bool refusal_note(const struct memcg_failure *failure, struct code_line *before);
/* What became of a refusal. HEARD: a MemoryError that Python code saw. HIDDEN: perhaps one that C
 * code dropped. SILENT: none. */
enum refusal_doubt { REFUSAL_HEARD, REFUSAL_HIDDEN, REFUSAL_SILENT };
/* Takes the running context's last refusal in memcg. GIL held. */
enum refusal_doubt refusal_take(struct mem_cgroup *memcg, struct memcg_failure *failure,
                                struct code_line *line);

#endif
