"""New threads, and jobs of thread pools, are in the group of who started or submitted them."""

from __future__ import annotations

import functools

from .. import core

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType
    from typing import Any

# Pools by module: what their threads run, the class, and where its methods take a job. Of what a
# multiprocessing pool maps, a whole chunk is a job.
_POOLS = {
    "concurrent.futures.thread": ("_worker", "ThreadPoolExecutor", {"submit": 0}),
    "multiprocessing.pool": (
        "worker", "ThreadPool", {"apply_async": 0, "_guarded_task_generation": 1},
    ),
}  # fmt: skip


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
    def start_thread(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        entry = core.current_entry()
        thread = getattr(function, "__self__", None)
        target = getattr(thread, "_target", None)
        # A pool's threads serve whoever submits: each job brings its group.
        if entry is not None and thread and not _serves_a_pool(target):
            thread.run = _Run(entry, thread)
        return start(function, *args, **kwargs)

    return start_thread


def _serves_a_pool(target: Any) -> bool:
    worker, *_ = _POOLS.get(getattr(target, "__module__", ""), (None,))
    return worker is not None and getattr(target, "__name__", "") == worker


def _hook_pool(module: ModuleType) -> None:
    _, name, methods = _POOLS[module.__name__]
    pool = getattr(module, name)
    for method, at in methods.items():
        setattr(pool, method, _job_taker(getattr(pool, method), at))


def _job_taker(method: Callable[..., Any], at: int) -> Callable[..., Any]:
    @functools.wraps(method)
    def take_bound(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        entry = core.current_entry()
        if entry is not None and len(args) > at:
            args = (*args[:at], core.Bound(entry, args[at]), *args[at + 1 :])
        elif entry is not None and "func" in kwargs:
            kwargs["func"] = core.Bound(entry, kwargs["func"])
        return method(self, *args, **kwargs)

    return take_bound


def hook(module: ModuleType) -> None:
    """Have threads started, or jobs submitted, from now on inherit the group."""
    if module.__name__ in _POOLS:
        _hook_pool(module)
        return
    # 3.13 renamed it; both take the function first.
    for name in ("_start_joinable_thread", "_start_new_thread"):
        if hasattr(module, name):
            setattr(module, name, _starter(getattr(module, name)))
            break
