/* SPDX-License-Identifier: Apache-2.0 */
/*
 * handler.h - what unwinding and handling a MemoryError may use.
 */
#ifndef MEMCG_HANDLER_H
#define MEMCG_HANDLER_H

#include "compat.h"

/* True if the thread is in an `except`, `finally` or __exit__ for a MemoryError, or for an error
 * that one caused.  GIL held. */
bool handler_runs(PyThreadState *tstate);
/* In a hook, GIL held.  True if a request of so many bytes may be for a frame object of an
 * unwinding, which must not be refused; up to a bound. */
bool handler_needs_frame(size_t bytes);

#endif
