# SPDX-License-Identifier: Apache-2.0
"""A task of the explored program, and the operation it waits to do."""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from .trace import Line
from .workers import Worker

if TYPE_CHECKING:
    from .runtime import Run


class Operation(NamedTuple):
    """An announced operation, and the alternatives that the explorer has when its task goes on."""

    kind: str
    key: str
    use: int
    picks: tuple[int, ...]


class Task:
    """A thread of the explored program."""

    __slots__ = (
        "_ready", "blocked", "clock", "context", "daemon", "done", "fn", "held", "id", "interrupts",
        "key", "late", "local", "made", "name", "now_s", "operation", "ran_out", "run", "spawned",
        "started", "thread", "vanished", "waiting", "worker",
    )  # fmt: skip

    def __init__(
        self, id: int, key: str, name: str, fn: Callable[[], Any], run: Run | None = None
    ) -> None:
        self.run = run
        self.id = id
        self.key = key  # made from the path of spawns, so it is the same in every schedule
        self.name = name
        self.fn = fn
        self.operation = Operation("start", "", 0, (0,))
        self.blocked: Operation | None = None  # replaces `operation` while that is not ready
        self._ready: Callable[[], bool] | None = None
        self.late: Callable[[], bool] | None = None  # replaces `_ready` when all tasks wait
        self.waiting: Line | None = None
        self.clock: list[int] = []
        self.held: list[Any] = []
        self.interrupts: list[int] = []
        self.made = self.spawned = 0
        self.started = self.done = self.vanished = False
        self.worker: Worker | None = None
        # What `std` keeps of a task: its Thread, its clock, its waits that ran out, its locals.
        self.thread: Any = None
        self.daemon = False  # the program ends without it
        self.now_s = 0.0
        self.ran_out: dict[str, int] = {}
        self.local: dict[int, tuple[object, dict[str, Any]]] = {}
        self.context = contextvars.Context()

    def __repr__(self) -> str:
        return f"<task {self.id} {self.name}>"

    def announce(
        self, operation: Operation, ready: Callable[[], bool] | None,
        late: Callable[[], bool] | None = None,
    ) -> None:  # fmt: skip
        self.operation = operation
        self._ready = ready
        self.late = late
        interrupts = tuple(p for p in operation.picks if p < 0)
        self.blocked = operation._replace(picks=interrupts) if interrupts else None

    def offer(self) -> Operation | None:
        """Return what the task can do now; None if it has to wait."""
        if self._ready is None or self._ready():
            return self.operation
        return self.blocked

    def join(self) -> None:
        """Wait until the task has ended."""
        if self.run is not None:
            self.run.wait_for([self])
