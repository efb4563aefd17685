/* SPDX-License-Identifier: Apache-2.0 */
/*
 * refusal.h - requests that must not be refused, and refusals that became no MemoryError.
 */
#ifndef MEMCG_REFUSAL_H
#define MEMCG_REFUSAL_H

#include "frame.h"
#include "memcg.h"

void refusal_init(void); /* once, or again; GIL held */
/* Whether code of a guarded module runs whose frame has these globals. GIL held; runs no Python code
 * and allocates nothing. */
bool refusal_is_guarded(PyObject *globals);
bool refusal_is_unheard(void); /* in a hook: a guarded module's code asks */
/* In a hook: a request was refused. true: so was one before, here in this context, and no
 * MemoryError has gone since; *before: where. */
bool refusal_note(const struct memcg_failure *failure, struct code_line *before);
/* Whether a refusal became a MemoryError: it did, for Python code; perhaps, and C code dropped it; it
 * did not. */
enum refusal_doubt { REFUSAL_HEARD, REFUSAL_HIDDEN, REFUSAL_SILENT };
/* Take the running context's last refusal in memcg. GIL held. */
enum refusal_doubt refusal_take(struct mem_cgroup *memcg, struct memcg_failure *failure,
                                struct code_line *line);

#endif
