/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stacks.h - the call stacks of sampled blocks, as numbers. See stacks.c.
 */
#ifndef MEMCG_STACKS_H
#define MEMCG_STACKS_H

#include "frame.h"

/* Makes the tables and has samples call us; later calls do nothing.  GIL held.  0; -ENOMEM. */
int stacks_init(uint64_t seed);

struct stack_frame {
    uint32_t outer;       /* the stack without this frame; 0: it is the outermost */
    const char *file;     /* UTF-8; "": none.  Of a C function that called malloc, its library */
    const char *name;     /* of the function */
    int line, first_line; /* of the call, and of the function; 0: not known */
};
/* False: there is no such stack. */
bool stacks_frame(uint32_t stack, struct stack_frame *frame);

#endif
