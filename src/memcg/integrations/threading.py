# SPDX-License-Identifier: Apache-2.0
"""New threads, and jobs of thread pools, are in the group that started or submitted them.

A thread that serves every caller is in the root, no matter which group needed it first. These are
threads of the standard library (docs/coverage.md has a table of all that it starts), and threads
that `memcg.service` was called for.
"""

from __future__ import annotations

from _weakref import ref  # the class of `weakref`, without reading that module's file

from .. import core
from ..groups import root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import ModuleType
    from typing import Any, TypeVar

    T = TypeVar("T")

# By module: targets, and classes, of threads and processes that serve every caller.
_SERVICES = {
    "asyncio.base_events": {"BaseEventLoop._do_shutdown"},
    "asyncio.unix_events": {
        "ThreadedChildWatcher._do_waitpid", "_ThreadedChildWatcher._do_waitpid",  # since 3.14
    },
    "concurrent.futures.process": {"_ExecutorManagerThread", "_process_worker"},
    "concurrent.futures.thread": {"_worker"},
    "logging.config": {"listen.<locals>.Server"},
    "logging.handlers": {"QueueListener._monitor"},
    "memcg.control.workqueue": {"_worker", "uninterrupted.<locals>.run"},
    "memcg.server": {"_Server.run"},
    "multiprocessing.managers": {"BaseManager._run_server"},
    "multiprocessing.pool": {
        "Pool._handle_results", "Pool._handle_tasks", "Pool._handle_workers", "worker",
    },
    "multiprocessing.queues": {"Queue._feed"},
    "multiprocessing.resource_sharer": {"_ResourceSharer._serve"},
    "pdb": {"_PdbServer._start_signal_listener.<locals>.listener"},
    "pydoc": {"_start_server.<locals>.ServerThread"},
}  # fmt: skip
# By module: the class of the pool, and the position at which its methods take the function to call.
# In a multiprocessing pool a whole chunk of a map is one job.
_POOLS = {
    "concurrent.futures.thread": ("ThreadPoolExecutor", {"submit": 0}),
    "multiprocessing.pool": ("ThreadPool", {"apply_async": 0, "_guarded_task_generation": 1}),
}
_services: dict[int, ref[Any]] = {}  # id -> what `service` was called with, while it lives
_starters: list[Callable[..., Any]] = []  # our functions, which replace CPython's


def service(fn: T, /) -> T:
    """Make threads and processes that run `fn` belong to the root, whichever group starts them.

    It is for a thread that serves every caller and is started by the first that needs it, such as a
    thread that sends metrics or reports errors. Without it such a thread is charged to, and limited
    by, the group that started it.

    Parameters
    ----------
    fn : callable or class
        A function or method that is a thread's or process's target, or a subclass of ``Thread`` or
        ``Process``. A method stands for that of all instances.

    Returns
    -------
    callable or class
        `fn`, so that this can be a decorator. `fn` is not wrapped: if the program calls it itself,
        it runs in the caller's group. ``memcg.root.wrap(fn)`` always runs in the root.

    Raises
    ------
    TypeError
        `fn` cannot be called.

    Notes
    -----
    Threads and forked pools of the standard library that serve every caller belong to the root
    without this. For a library, call ``memcg.service(library.Sender._loop)`` before it starts the
    thread.
    """
    if not callable(fn):
        raise TypeError(
            f"memcg.service() takes a function or a class of threads or processes, not {fn!r}; "
            "give it what the thread runs"
        )
    function = getattr(fn, "__func__", fn)
    key = id(function)
    _services[key] = ref(function, lambda _: _services.pop(key, None))
    return fn


def serves_all(thread: object, target: object) -> bool:
    """Tell whether a thread or process serves every caller.

    `thread` is None for a thread that ``_thread`` starts without a ``Thread`` object.
    """
    if type(target).__name__ == "partial":
        target = getattr(target, "func", target)
    function = getattr(target, "__func__", target)
    kind = type(thread)
    run = getattr(kind, "run", None)
    if _services and any(id(thing) in _services for thing in (function, run, *kind.__mro__)):
        return True
    names = [(c.__module__, c.__qualname__) for c in kind.__mro__]
    names.append((getattr(function, "__module__", ""), getattr(function, "__qualname__", "")))
    if function is not target:  # a method, which a subclass may have inherited
        owner = getattr(target, "__self__", None)
        mro = (owner if isinstance(owner, type) else type(owner)).__mro__
        name = getattr(function, "__name__", "")
        names += [(c.__module__, f"{c.__qualname__}.{name}") for c in mro]
    return any(name in _SERVICES.get(module, ()) for module, name in names)


class _Run:
    """It stands in for a thread's ``run`` once, and calls it in the group that started the thread.

    The thread's own beginning stays outside the group, because the thread that starts it waits for
    that, and an alarm there would leave it waiting.
    """

    def __init__(self, entry: object, thread: Any) -> None:
        self.entry = entry
        self.thread = thread
        own = vars(thread)
        self.before = {"run": own["run"]} if "run" in own else {}
        own["run"] = self

    def put_back(self) -> None:
        own = vars(self.thread)
        if own.get("run") is self:
            del own["run"]
            own.update(self.before)

    def __call__(self) -> None:
        self.put_back()
        thread, entry = self.thread, self.entry
        del self.thread, self.before
        run = thread.run
        names = getattr(run, "__module__", ""), getattr(run, "__qualname__", "")
        if names == ("threading", "Thread.run") and thread._target is not None:
            # `Thread.run` allocates too. If it ran in the group, an alarm could be raised before
            # the target's `try`.
            thread._target = core.Bound(entry, thread._target)
            run()
        else:
            core.Bound(entry, run)()


def _starter(start: Callable[..., Any]) -> Callable[..., Any]:
    def start_thread(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        entry = None if core.current() is root else core.current_entry()
        thread = None
        if getattr(function, "__name__", "") == "_bootstrap":
            thread = getattr(function, "__self__", None)
        if entry is not None and serves_all(thread, getattr(thread, "_target", function)):
            entry = None
        if thread is None:
            if entry is not None and callable(function):
                function = core.Started(entry, function)
            return start(function, *args, **kwargs)
        if hasattr(getattr(type(thread), "run", None), "__set__"):  # an instance's `run` is ignored
            return start(core.Started(entry, function), *args, **kwargs)
        function = core.Started(None, function)
        if entry is None:
            context = getattr(thread, "_context", None)
            if context is not None and not len(context):  # since 3.14 `run` has one of its own
                context.run(core.Started(None, int))
            return start(function, *args, **kwargs)
        run = _Run(entry, thread)
        try:
            return start(function, *args, **kwargs)
        except Exception:
            run.put_back()
            raise

    for attribute in ("__module__", "__name__", "__qualname__", "__doc__", "__text_signature__"):
        setattr(start_thread, attribute, getattr(start, attribute, None))
    _starters.append(start_thread)
    return start_thread


def _hook_pool(module: ModuleType) -> None:
    name, methods = _POOLS[module.__name__]
    pool = getattr(module, name)
    for method, at in methods.items():
        setattr(pool, method, _job_taker(getattr(pool, method), at))


def _is_elsewhere(pool: object) -> bool:
    """Tell whether a pool's jobs run in other interpreters, whose memory is the root's."""
    names = [(c.__module__, c.__qualname__) for c in type(pool).__mro__]
    return ("concurrent.futures.interpreter", "InterpreterPoolExecutor") in names


def _job_taker(method: Callable[..., Any], at: int) -> Callable[..., Any]:
    import functools

    @functools.wraps(method)
    def take_bound(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        entry = core.current_entry()
        if entry is not None and _is_elsewhere(self):
            entry = None
        if entry is not None and len(args) > at:
            args = (*args[:at], core.Bound(entry, args[at]), *args[at + 1 :])
        elif entry is not None and "func" in kwargs:
            kwargs["func"] = core.Bound(entry, kwargs["func"])
        return method(self, *args, **kwargs)

    return take_bound


def _steps(entry: object, iterable: Iterable[Any]) -> Iterator[Any]:
    """Iterate in `entry`. A pool's handler thread iterates so for a caller of ``imap``."""
    step = core.Bound(entry, core.Bound(entry, iter)(iterable).__next__)
    while True:
        try:
            item = step()
        except StopIteration:
            return
        yield item


def _hook_tasks(pool: Any) -> None:
    """Make a multiprocessing pool's handler iterate in the group of the caller."""
    generate = pool._guarded_task_generation

    def guarded_task_generation(self: Any, job: object, func: object, iterable: Any) -> Any:
        entry = core.current_entry()
        if entry is not None:
            iterable = _steps(entry, iterable)
        return generate(self, job, func, iterable)

    pool._guarded_task_generation = guarded_task_generation


def hook(module: ModuleType) -> None:
    """Make threads that are started, and jobs that are submitted, from now on inherit the group."""
    if module.__name__ == "multiprocessing.pool":
        _hook_tasks(module.Pool)
    if module.__name__ in _POOLS:
        _hook_pool(module)
        return
    # CPython 3.13 renamed the functions that `threading` calls. All take the function first.
    for name in (
        "start_new_thread", "start_new", "start_joinable_thread",
        "_start_new_thread", "_start_joinable_thread",
    ):  # fmt: skip
        start = getattr(module, name, None)
        if start is not None and start not in _starters:
            setattr(module, name, _starter(start))
