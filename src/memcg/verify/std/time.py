# SPDX-License-Identifier: Apache-2.0
"""What `time` has, for tasks of an exploration. All other names are those of `time`.

Each task has a clock of its own, which only a sleep and a wait that runs out move on. How long they
last says nothing about the order of the tasks.
"""

from __future__ import annotations

import time as real
from typing import Any

from .. import runtime
from ..objects import Sync

_BEGAN_S = 1_000_000_000.0


def __getattr__(name: str) -> Any:
    return getattr(real, name)


def monotonic() -> float:
    run = runtime.active
    return _BEGAN_S + (0 if run is None else run.current.now_s)


time = perf_counter = monotonic


def monotonic_ns() -> int:
    return int(monotonic() * 1e9)


time_ns = perf_counter_ns = monotonic_ns


class _Sleep(Sync):
    """What a task that sleeps waits for. It does not happen."""


def sleep(seconds: float) -> None:
    """Let the time pass. The other tasks may do nothing, something or all meanwhile."""
    if seconds < 0:
        raise ValueError("sleep length must be non-negative")
    run = runtime.active
    if run is None or run.quiet:
        return
    task = run.current
    if task.ran_out.get("sleep", 0) < run.options.timeouts or run.alone(task):
        run.note(f"sleep {seconds:g} s")
    else:  # else a loop that polls would never end
        run.cut = True
        run.step("sleep", _Sleep("sleep"), 0, lambda: False, late=lambda: True)
    task.ran_out["sleep"] = task.ran_out.get("sleep", 0) + 1
    task.now_s += seconds


__all__ = [
    "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "sleep", "time", "time_ns",
]  # fmt: skip
