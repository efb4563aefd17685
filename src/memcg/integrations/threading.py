"""New threads, and jobs of thread pools, are in the group of who started or submitted them."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

from .. import core
from . import when_imported

_POOL = "concurrent.futures.thread"


class _Run:
    """In place of a thread's ``run``, once: calls it in the group of who started the thread.

    Not around the thread's own beginning: who started it waits for that.
    """

    def __init__(self, entry: object, thread: Any) -> None:
        self.entry = entry
        self.thread = thread

    def __call__(self) -> None:
        thread = self.thread
        del thread.run, self.thread
        core.Bound(self.entry, thread.run)()


def _starter(start: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(start)
    def start_thread(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        entry = core.current_entry()
        thread = getattr(function, "__self__", None)
        target = getattr(thread, "_target", None)
        # A pool's threads serve whoever submits: each job brings its group.
        if entry is not None and thread and getattr(target, "__module__", None) != _POOL:
            thread.run = _Run(entry, thread)
        return start(function, *args, **kwargs)

    return start_thread


def _hook_pool(module: ModuleType) -> None:
    submit = module.ThreadPoolExecutor.submit

    @functools.wraps(submit)
    def submit_bound(self: Any, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        entry = core.current_entry()
        if entry is not None:
            fn = core.Bound(entry, fn)
        return submit(self, fn, *args, **kwargs)

    module.ThreadPoolExecutor.submit = submit_bound


def install() -> None:
    """Have threads started and jobs submitted from now on inherit the group."""
    threading = sys.modules.get("threading")
    assert threading is not None  # locking.py imports it
    # 3.13 renamed it; both take the function first.
    for name in ("_start_joinable_thread", "_start_new_thread"):
        if hasattr(threading, name):
            setattr(threading, name, _starter(getattr(threading, name)))
            break
    when_imported(_POOL, _hook_pool)
