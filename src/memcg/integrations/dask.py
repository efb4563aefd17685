# SPDX-License-Identifier: Apache-2.0
"""Dask: each task runs in a group of its own, below the group of its key's prefix.

    client.register_plugin(memcg.dask.MemcgPlugin(max="2GiB", worker_max="12GiB"))

The groups of a worker are ``dask/<worker>``, below it one for each prefix (``dask/<worker>/inc``),
and below that one for each task that runs. The task's group is around the task's function alone:
Dask's messages, its spilling and its event loop stay outside. When a task has ended, what it leaves
behind, above all its result, is charged to the prefix's own group. That is what `account` calls
``stored``.

A task that meets its limit fails with `MemcgOOM` like with any other error: it is retried if the
graph says so, and the client gets a MemoryError. `dask_shares` has the limits that hold over all
workers.

Where we hook in: ``distributed.worker._run_task_simple`` and ``_run_task_async`` are private. Their
parameters are compared with those that we know, and another distributed is refused.
"""

from __future__ import annotations

import functools
import inspect
import time
from collections import OrderedDict
from itertools import count
from typing import TYPE_CHECKING, Any

import dask
from distributed import worker as _worker
from distributed.diagnostics.plugin import SchedulerPlugin, WorkerPlugin
from distributed.protocol.pickle import dumps
from distributed.utils import key_split

from ..errors import GroupBusy, MemcgError
from ..groups import group as make_group
from ..groups import scope, walk
from ..names import escape
from ..sizes import parse_size
from .edge import MOST, find_oom, let_go

if TYPE_CHECKING:
    from collections.abc import Callable

    from distributed import Client, Scheduler, Worker

    from ..groups import Group, Size

NAME = "memcg"
HOOKED = {"_run_task_simple": ["task", "data", "time_delay"],
          "_run_task_async": ["task", "data", "time_delay"]}  # fmt: skip
_ROOT = "dask"


class MemcgPlugin(SchedulerPlugin):  # type: ignore[misc]
    """Run each task of a cluster in a group. ``client.register_plugin(MemcgPlugin(max="2GiB"))``.

    Parameters
    ----------
    max : int, str or None
        The limit of each task. ``dask.annotate(memcg_max="4GiB")`` sets that of single tasks. None
        means that tasks are only accounted for. Default: ``distributed.worker.memcg.max`` of Dask's
        configuration (``DASK_DISTRIBUTED__WORKER__MEMCG__MAX``), then ``MEMCG_DASK_MAX``.
    worker_max : int, str or None
        The limit of all tasks and results on one worker. Default:
        ``distributed.worker.memcg.worker-max``, then ``MEMCG_DASK_WORKER_MAX``.

    Raises
    ------
    ValueError
        A size is not one.

    Notes
    -----
    The plugin is for the scheduler, and brings one to each worker that there is or will be.
    """

    name = NAME
    install: Callable[[], None]  # `memcg.install`; the module above puts it here

    def __init__(self, max: Size = None, *, worker_max: Size = None) -> None:
        self.max = _setting("max", max)
        self.worker_max = _setting("worker-max", worker_max)
        self.install_there = self.install  # the scheduler may not import the module above

    async def start(self, scheduler: Scheduler) -> None:
        """Begin at the scheduler, then at all workers. Context: the scheduler's loop."""
        from .dask_shares import SchedulerExtension

        extension = scheduler.extensions.get(NAME)
        if extension is None:
            extension = scheduler.extensions[NAME] = SchedulerExtension(scheduler)
        extension.settings = {"max": self.max, "worker_max": self.worker_max}
        plugin = MemcgWorkerPlugin(self.max, self.worker_max, self.install_there)
        answers = await scheduler.register_worker_plugin(
            None, dumps(plugin), name=NAME, idempotent=False
        )
        for answer in answers.values():
            if answer["status"] == "error":
                raise MemcgError(f"a worker cannot run tasks in groups: {answer['exception_text']}")

    def remove_worker(self, scheduler: Scheduler, worker: str, **_: Any) -> None:
        scheduler.extensions[NAME].lose(worker)


def _setting(name: str, value: Size) -> Size:
    import os

    if value is None:
        value = dask.config.get(f"distributed.worker.memcg.{name}", None)
    if value is None:
        value = os.environ.get("MEMCG_DASK_" + name.replace("-", "_").upper())
    parse_size(value)
    return value


class MemcgWorkerPlugin(WorkerPlugin):  # type: ignore[misc]
    """What `MemcgPlugin` brings to each worker."""

    name = NAME

    def __init__(self, max: Size, worker_max: Size, install: Callable[[], None]) -> None:
        self.max = max
        self.worker_max = worker_max
        self.install = install

    async def setup(self, worker: Worker) -> None:
        hook()
        self.install()
        from .dask_shares import WorkerExtension

        tasks = Tasks(f"{_ROOT}/{escape(str(worker.name))}", self.max, self.worker_max)
        extension = WorkerExtension(worker, tasks)
        _extensions[worker.id] = worker.extensions[NAME] = extension
        worker.handlers["memcg_limit"] = extension.limit
        await extension.begin()

    def teardown(self, worker: Worker) -> None:
        extension = worker.extensions.pop(NAME, None)
        _extensions.pop(worker.id, None)
        worker.handlers.pop("memcg_limit", None)
        if extension is not None:
            extension.end()


_extensions: dict[str, Any] = {}  # a worker's id -> its `WorkerExtension`


# -- one worker's tasks


class Tasks:
    """The groups of one worker's tasks: a group for each prefix, and a group for each task.

    Parameters
    ----------
    path : str
        The path of the worker's group.
    max, worker_max : int, str or None
        The limits of each task, and of the worker.
    """

    def __init__(self, path: str, max: Size, worker_max: Size) -> None:
        self.max = None if max is None else parse_size(max)  # once, and not for each task
        self.group = make_group(path, max=worker_max)
        self.prefixes: OrderedDict[str, Group] = OrderedDict()  # the least recently used is first
        self.peaks: dict[str, int] = {}  # prefix -> the highest peak of a task

    def prefix(self, path: str) -> Group:
        """Return the group of a prefix, and make it if there is none; at most 1,000 are kept."""
        group = self.prefixes.get(path)
        if group is None or not group.online:
            group = make_group(f"{self.group.path}/{path}")
            self.prefixes[path] = group
            while len(self.prefixes) > MOST and self._close_one(but=path):
                pass
        return group

    def _close_one(self, but: str) -> bool:
        for path, group in list(self.prefixes.items()):
            if path != but and not group.children and not group.nr_inside:
                try:
                    group.close()
                except GroupBusy:  # a task has begun in it just now
                    continue
                self.prefixes.pop(path, None)
                self.peaks.pop(path, None)
                return True
        return False

    def place(self, key: object, annotations: dict[str, Any]) -> str:
        """Return the path of a task's prefix below the worker's group."""
        return _place(annotations.get("memcg_group", ""), key_split(key))

    def task(self, path: str, max: Size) -> scope:
        """Return what makes the group of one task, is entered, and closes it.

        What is left in it is then charged to the prefix.
        """
        prefix = self.prefix(path)
        return scope(f"{prefix.path}/task", max=max)

    def note_peak(self, path: str, group: Group) -> None:
        peak = group.peak
        if peak > self.peaks.get(path, -1):
            self.peaks[path] = peak

    def account(self) -> dict[str, Any]:
        """Return the figures of the worker; sizes are in bytes."""
        prefixes = {}
        for group in walk(self.group.path)[1:]:
            path = group.path.removeprefix(f"{self.group.path}/")
            if path in self.prefixes:
                figures = _figures(group)
                running = [g.current for g in list(group.children.values())]
                figures["stored"] = max(group.current - sum(running), 0)
                figures["task_peak"] = self.peaks.get(path, 0)
                figures["task_limit"] = parse_size(self.max)
                prefixes[path] = figures
        return {
            **_figures(self.group),
            "stored": sum(p["stored"] for p in prefixes.values()),
            "prefixes": prefixes,
        }


@functools.lru_cache
def _place(tenant: str, prefix: str) -> str:
    return "/".join(map(escape, [*(tenant.split("/") if tenant else []), prefix]))


def _figures(group: Group) -> dict[str, Any]:
    events = {name: n for name, n in group.events.items() if n}
    return {"current": group.current, "peak": group.peak, "limit": group.max, "events": events}


# -- the hook


def hook() -> None:
    """Put groups around the tasks of this process's workers. A second call does nothing.

    Raises
    ------
    MemcgError
        This distributed runs its tasks in another way than we know.
    """
    if getattr(_worker._run_task_simple, "_memcg", False):
        return
    for name, expected in HOOKED.items():
        function = getattr(_worker, name, None)
        found = list(inspect.signature(function).parameters) if function is not None else None
        if found != expected:
            import distributed

            raise MemcgError(
                f"memcg.dask does not know distributed {distributed.__version__}: "
                f"distributed.worker.{name} takes {found}, not {expected}; install a newer memcg, "
                "or distributed 2026.8"
            )
    for name, limited in (("_run_task_simple", _Limited), ("_run_task_async", _LimitedAsync)):
        setattr(_worker, name, _hooked(getattr(_worker, name), limited))


def _hooked(run: Callable[..., Any], limited: type[_Limited]) -> Callable[..., Any]:
    @functools.wraps(run)  # the name stays, so that it can be pickled for a process pool
    def run_in_group(task: Any, data: Any, time_delay: float) -> Any:
        worker = _worker._worker_cvar.get(None)
        extension = None if worker is None else _extensions.get(worker.id)
        if extension is None:  # a process pool's child, or a worker without the plugin
            return run(task, data, time_delay)
        return run(limited(task, extension), data, time_delay)

    run_in_group._memcg = True  # type: ignore[attr-defined]
    return run_in_group


class _Limited:
    """It stands in for a task, and calls it in a group of its own."""

    def __init__(self, task: Any, extension: Any) -> None:
        self._task = task
        self._extension = extension

    def _begin(self) -> None:
        extension, key = self._extension, self._task.key
        state = extension.worker.state.tasks.get(key)
        annotations = (state.annotations if state is not None else None) or {}
        self.path = extension.tasks.place(key, annotations)
        self.max = annotations.get("memcg_max", extension.tasks.max)

    def __call__(self, data: Any) -> Any:
        self._begin()
        shared = self._extension.shared(self.path)
        if shared is None:
            with _Run(self):
                return self._task(data)
        for tries in count():
            asked = shared.ensure()
            since = time.time()
            try:
                with _Run(self):
                    return self._task(data)
            except MemoryError as error:
                if not shared.grows(since, tries):
                    raise
                let_go(error)
            finally:
                shared.holder.done(asked)
        raise AssertionError


class _LimitedAsync(_Limited):
    """It stands in for a coroutine task."""

    async def __call__(self, data: Any) -> Any:
        self._begin()
        shared = self._extension.shared(self.path)
        in_thread = self._extension.worker.loop.asyncio_loop.run_in_executor  # it waits
        if shared is None:
            with _Run(self):
                return await self._task(data)
        for tries in count():
            asked = await in_thread(None, shared.ensure)
            since = time.time()
            try:
                with _Run(self):
                    return await self._task(data)
            except MemoryError as error:
                if not await in_thread(None, shared.grows, since, tries):
                    raise
                let_go(error)
            finally:
                shared.holder.done(asked)
        raise AssertionError


class _Run:
    """The group of one run of a task. A MemoryError leaves it as `MemcgOOM`, and holds nothing."""

    def __init__(self, limited: _Limited) -> None:
        self._tasks: Tasks = limited._extension.tasks
        self._path = limited.path
        self._scope = self._tasks.task(limited.path, limited.max)

    def __enter__(self) -> Group:
        self.since = time.time()
        self.group: Group = self._scope.__enter__()
        return self.group  # type: ignore[no-any-return]

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        group = self.group
        self._tasks.note_peak(self._path, group)
        try:
            self._scope.__exit__(kind, error, traceback)
        except MemoryError as alarm:
            error = alarm
        if error is None:
            return
        oom = find_oom(error, group, self.since)
        if oom is None:
            if isinstance(error, MemoryError):
                raise error
            return
        let_go(error)
        raise oom.with_traceback(error.__traceback__) from None


# -- what a program calls


def account(client: Client) -> dict[str, Any]:
    """Return the figures of all workers: what their tasks use and what their results take.

    Returns
    -------
    dict
        For each worker, by its address: ``current``, ``peak`` and ``limit`` in bytes, ``events``
        that have happened, ``stored`` (results, in bytes) and ``prefixes``. There each prefix, or
        ``group/prefix`` for tasks with ``memcg_group``, has the same figures, with ``task_peak``,
        the highest peak of a single task, and ``task_limit``, the limit of each.

    Raises
    ------
    MemcgError
        The plugin is not registered.
    """
    return client.sync(_account, client)  # type: ignore[no-any-return]


async def _account(client: Client) -> dict[str, Any]:
    return await client._run(_account_here)  # type: ignore[no-any-return]


def _account_here(dask_worker: Worker) -> dict[str, Any]:
    extension = dask_worker.extensions.get(NAME)
    if extension is None:
        raise MemcgError(
            "memcg.dask: the worker has no plugin; call client.register_plugin(MemcgPlugin())"
        )
    return extension.tasks.account()  # type: ignore[no-any-return]


def limit(client: Client, path: str, size: Size) -> None:
    """Limit a group over all workers: what it uses on all of them together is at most `size`.

    Parameters
    ----------
    client : Client
    path : str
        The group's path below each worker's: ``"tenant/a"`` for the tasks that are annotated with
        ``memcg_group="tenant/a"``, or a prefix.
    size : int, str or None
        None or ``"max"`` takes the limit away.

    Raises
    ------
    ValueError
        `size` is not a size.
    MemcgError
        The plugin is not registered.
    """
    nbytes = parse_size(size)
    client.sync(_limit, client, "/".join(map(escape, path.split("/"))), nbytes)


async def _limit(client: Client, path: str, nbytes: int) -> None:
    answer = await client.run_on_scheduler(_limit_here, path=path, nbytes=nbytes)
    if answer is not None:
        raise MemcgError(answer)


async def _limit_here(dask_scheduler: Scheduler, path: str, nbytes: int) -> str | None:
    extension = dask_scheduler.extensions.get(NAME)
    if extension is None:
        return "memcg.dask: there is no plugin; call client.register_plugin(MemcgPlugin()) first"
    await extension.limit(path, nbytes)
    return None
