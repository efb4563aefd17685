# SPDX-License-Identifier: Apache-2.0
"""Limits that hold over all workers of Dask: the protocol of `shares` in Dask's messages.

The scheduler's extension has a ledger for each path, and each worker's a holder. An ask and a grant
travel in the streams that connect a worker and the scheduler, in which Dask sends its own messages.
Reports and the account ride on the worker's heartbeats, so at rest nothing is sent.

A task waits for a share before it begins, if its worker's share has no room. A worker asks for more
when it has used half of its share. A task that meets the share's limit all the same, while the
cluster's limit has room, is run again with a larger share: as everywhere in Dask, a task may be run
more than once.

The share includes the group's reserve and overdraft, which a request may use past ``memory.max``.
So what a worker uses stays within its share, but for 1 MiB and libraries that are charged by force
(docs/alarm.md).
"""

from __future__ import annotations

import contextlib
from time import monotonic as _now
from time import sleep
from typing import TYPE_CHECKING, Any

from ..core import mem_cgroup_set_limit
from ..groups import group as make_group
from ..sizes import PAGE_COUNTER_MAX
from . import shares

if TYPE_CHECKING:
    from distributed import Scheduler, Worker
    from distributed.scheduler import WorkerState

    from ..groups import Group
    from .dask import Tasks

TERM_S = 60.0
SLACK = 8 << 20  # bytes that an ask wants beyond what it needs
FIRST = 1 << 20  # bytes of room with which a task begins
WAIT_S = 30.0  # the longest wait for an answer
ATTEMPTS = 4  # to get a larger share
PAUSE_S = 0.5
TRIES = 16  # how often a task is run again; the share doubles each time


class _Place:
    """A group that is kept within a share: ``max``, ``reserve`` and ``overdraft`` add up to it."""

    def __init__(self, group: Group) -> None:
        self.group = group

    def used(self) -> int:
        return self.group.current

    def limit(self, share: int) -> None:
        past = min(share // 8, 16 << 20)
        for which, n in (
            ("reserve", past), ("overdraft", past), ("max", share - 2 * past), ("high", share // 2),
        ):  # fmt: skip
            mem_cgroup_set_limit(self.group, which, n)

    def unlimit(self) -> None:
        for which in ("max", "high"):
            mem_cgroup_set_limit(self.group, which, PAGE_COUNTER_MAX)
        for which in ("reserve", "overdraft"):
            mem_cgroup_set_limit(self.group, which, -1)


class Shared:
    """A worker's group that has a share of a limit over all workers."""

    def __init__(self, extension: WorkerExtension, path: str, term: float) -> None:
        self.path = path
        self.group = make_group(f"{extension.tasks.group.path}/{path}")
        self.place = _Place(self.group)
        extension.lives += 1
        self.holder = shares.Holder(
            f"{extension.worker.id}/{extension.lives}", self.place,
            lambda report: extension.send(path, report), slack=SLACK, term=term,
        )  # fmt: skip
        self.needs = 0  # bytes that a run is about to be repeated with
        self.group.shrinker(self._ask_ahead)

    def _ask_ahead(self, nbytes: int) -> None:
        if self.group.current > self.holder.share // 2:
            self.holder.ask(self.holder.share, wait=0, keep=False)

    def ensure(self) -> int:
        """Wait until there is room for a run to begin, or until that is refused.

        It returns for how many bytes it has asked, since the run before.
        """
        nbytes, self.needs = max(self.needs, FIRST), 0
        self.holder.ask(nbytes, WAIT_S)
        return nbytes

    def grows(self, since: float, tries: int) -> bool:
        """Tell whether a run met the share's limit, and the share has been made larger since.

        `since` is when the run began, in seconds since the epoch.
        """
        oom = self.group.last_oom
        share = self.holder.share
        if tries == TRIES or oom is None or oom.owner != self.group.path or oom.time < since:
            return False
        needed = (oom.current + oom.bytes) * 3 // 2
        for attempt in range(ATTEMPTS):
            target = max(share * 5 // 4 if attempt else 2 * share, needed)
            nbytes = target - self.group.current
            if self.holder.ask(nbytes, WAIT_S):
                self.needs = max(self.needs, nbytes)
                return True
            sleep(PAUSE_S)  # what others were granted a moment ago may be free by then
        return False


class WorkerExtension:
    """What a worker knows: its tasks' groups, and its shares."""

    def __init__(self, worker: Worker, tasks: Tasks) -> None:
        self.worker = worker
        self.tasks = tasks
        self.lives = 0
        self._shared: dict[str, Shared] = {}
        self._beat = _now(), worker.scheduler_delay

    async def begin(self) -> None:
        """Take part in the limits that there are. Context: the worker's loop."""
        self.worker.stream_handlers["memcg-grant"] = self.hear
        limits = await self.worker.scheduler.memcg_limits()
        for path, term in limits.items():
            life, used = await self.limit(path, term)
            await self.worker.scheduler.memcg_join(
                worker=self.worker.address, path=path, life=life, used=used
            )
        self._clock = _periodic(self._tick, min([1.0, *(t / 8 for t in limits.values())]))

    def end(self) -> None:
        """Stop: what tasks still hold stays charged, but nothing more is."""
        self._clock.stop()  # the handler stays: grants may be on their way
        for shared in self._shared.values():
            shared.holder.fence()

    async def limit(self, path: str, term: float | None) -> tuple[str, int]:
        """Begin to keep a group within a share, and return the life and the usage. None ends it."""
        if term is None:
            shared = self._shared.pop(path, None)
            if shared is not None:
                shared.holder.fence()
                shared.place.unlimit()
            return "", 0
        shared = self._shared.get(path)
        if shared is None:
            shared = self._shared[path] = Shared(self, path, term)
            return shared.holder.life, shared.holder.begin(_now())
        return shared.holder.life, shared.holder.share

    def shared(self, path: str) -> Shared | None:
        """Return the group with a share that a task's group is in or below."""
        while self._shared and path:
            if path in self._shared:
                return self._shared[path]
            path = path.rpartition("/")[0]
        return None

    def send(self, path: str, report: shares.Report) -> None:
        """Send a report. Context: any thread."""
        self.worker.loop.add_callback(self._send, path, tuple(report))

    def _send(self, path: str, report: tuple[Any, ...]) -> None:
        with contextlib.suppress(OSError):  # the worker is about to close
            self.worker.batched_stream.send({"op": "memcg-report", "path": path, "report": report})

    def hear(self, path: str, grant: tuple[Any, ...]) -> None:
        shared = self._shared.get(path)
        if shared is not None:
            shared.holder.hear(shares.Grant(*grant))

    def heartbeat(self) -> dict[str, Any]:
        """Return what goes with a heartbeat. Dask calls it."""
        sent, delay = self._beat
        if self.worker.scheduler_delay is not delay:  # a heartbeat was answered since the last call
            for shared in self._shared.values():
                shared.holder.ack(sent)
        self._beat = _now(), self.worker.scheduler_delay
        reports = {path: tuple(shared.holder.tidy()) for path, shared in self._shared.items()}
        return {"account": self.tasks.account(), "reports": reports}

    async def _tick(self) -> None:
        for shared in self._shared.values():
            shared.holder.tick(_now())
            if shared.holder.fenced:
                await self.worker.close(reason="memcg: no heartbeat was answered for too long")


class SchedulerExtension:
    """What the scheduler knows: a ledger for each limit, and the account of each worker."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self.settings: dict[str, Any] = {}
        self.ledgers: dict[str, shares.Ledger] = {}
        self.accounts: dict[str, dict[str, Any]] = {}
        self.messages = 0
        scheduler.stream_handlers["memcg-report"] = self._hear
        scheduler.handlers["memcg_limits"] = self._limits
        scheduler.handlers["memcg_join"] = self._join
        self._clock = _periodic(self._tick, 1.0)
        from . import dask_panel

        dask_panel.add(scheduler)

    async def limit(self, path: str, nbytes: int) -> None:
        """Set a limit over all workers, and wait until each keeps to its share."""
        if nbytes >= PAGE_COUNTER_MAX:
            self.ledgers.pop(path, None)
            await self._broadcast(path, None)
            return
        ledger = self.ledgers.get(path)
        if ledger is not None:
            self._send(path, ledger.set_limit(nbytes))
            return
        ledger = self.ledgers[path] = shares.Ledger(nbytes, term=_term())
        answers = await self._broadcast(path, ledger.term)
        for address, answer in answers.items():
            if isinstance(answer, (list, tuple)):
                life, used = answer
                self._send(path, ledger.join(address, life, used, _now()))

    async def _broadcast(self, path: str, term: float | None) -> dict[str, Any]:
        message = {"op": "memcg_limit", "path": path, "term": term}
        # A worker without the plugin asks for the limits as soon as it gets it.
        answers: dict[str, Any] = await self.scheduler.broadcast(msg=message, on_error="return")
        return answers

    def lose(self, worker: str) -> None:
        """Note that a worker has left."""
        self.accounts.pop(worker, None)
        for path, ledger in self.ledgers.items():
            self._send(path, ledger.lose(worker, _now()))

    def heartbeat(self, ws: WorkerState, data: dict[str, Any]) -> None:
        """Take in what came with a heartbeat. Dask calls it."""
        self.accounts[ws.address] = data["account"]
        for path, report in data["reports"].items():
            self._take(path, ws.address, report)

    async def _limits(self) -> dict[str, float]:
        return {path: ledger.term for path, ledger in self.ledgers.items()}

    async def _join(self, worker: str, path: str, life: str, used: int) -> None:
        if path in self.ledgers:
            self._send(path, self.ledgers[path].join(worker, life, used, _now()))

    def _hear(self, path: str, report: tuple[Any, ...], worker: str, **_: Any) -> None:
        self.messages += 1
        self._take(path, worker, report)

    def _take(self, path: str, worker: str, report: tuple[Any, ...]) -> None:
        if path in self.ledgers:
            self._send(path, self.ledgers[path].hear(worker, shares.Report(*report)))

    def _send(self, path: str, sends: list[tuple[str, shares.Grant]]) -> None:
        for worker, grant in sends:
            if worker in self.scheduler.stream_comms:
                self.messages += 1
                message = {"op": "memcg-grant", "path": path, "grant": tuple(grant)}
                self.scheduler.worker_send(worker, message)

    async def _tick(self) -> None:
        for path, ledger in self.ledgers.items():
            self._send(path, ledger.tick(_now()))


def _term() -> float:
    import dask
    from dask.utils import parse_timedelta

    return float(parse_timedelta(dask.config.get("distributed.worker.memcg.term", TERM_S)))


def _periodic(fn: Any, seconds: float) -> Any:
    from tornado.ioloop import PeriodicCallback

    callback = PeriodicCallback(fn, seconds * 1000)
    callback.start()
    return callback
