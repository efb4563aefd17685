# SPDX-License-Identifier: Apache-2.0
"""What is said of a task that does not come back, and how its thread is ended.

A task has the turn until its next operation on the seam. If it waits for a lock that is not on the
seam, or polls a plain attribute, that operation never comes.
"""

from __future__ import annotations

import ctypes
import sys
import time
import traceback

from .errors import Abandoned
from .places import EXPLORER
from .task import Task

_SPINS_S = 0.002  # a thread that has used less processor time in all the patience waits


def processor_s(task: Task) -> float:
    """Return the processor time that the thread of `task` has used."""
    if task.worker is None or not task.worker.ident:
        return 0.0
    return time.clock_gettime(time.pthread_getcpuclockid(task.worker.ident))


def describe(task: Task, patience_s: float, used_s: float) -> str:
    """Return what a task does instead of going on, with its stack, the innermost call last."""
    assert task.worker is not None
    frame = sys._current_frames().get(task.worker.ident)
    stack = [
        x for x in traceback.extract_stack(frame) if x.filename.rpartition("/")[0] not in EXPLORER
    ]
    at = f" at {stack[-1].filename.rpartition('/')[2]}:{stack[-1].lineno}" if stack else ""
    if used_s < _SPINS_S:
        what = "waits for something that is not on the seam, such as a threading.Lock"
        cure = "use seam.Mutex, seam.Event or seam.Queue"
    else:
        what = "runs without an operation of the seam, as a loop that polls a plain attribute does"
        cure = "put what it polls on the seam, and wait by an Event; or allow a larger patience"
    shown = "".join(traceback.format_list(stack)).rstrip()
    return f"{task.name} {what}{at}, for {patience_s:g} s; {cure}\n{shown}"


def end(task: Task) -> None:
    """Raise `Abandoned` in the task's thread. A thread that waits in C sees it afterwards."""
    assert task.worker is not None
    ident = ctypes.c_ulong(task.worker.ident)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ident, ctypes.py_object(Abandoned))
