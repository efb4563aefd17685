# SPDX-License-Identifier: Apache-2.0
"""One execution: its tasks run on real threads that pass a turn around.

A task announces each operation that another task could notice, and waits for its turn to do
it. The task that has the turn asks the strategy which task is next, so going on costs no thread
switch.

An operation is no scheduling point if it commutes with everything that other tasks do until their
next operation. Releasing a mutex, starting a task and ending a read-side section are such
operations (Lipton 1975). In a program that forks, the first and the last are scheduling points,
because the child finds held what was held. An operation is no scheduling point either if, in all
executions so far, only one task used its object or all tasks only read it. When an execution shows
that this is wrong, the exploration starts again with the object in `shared` (dynamic escape
analysis).
"""

from __future__ import annotations

import _thread
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from . import watchdog
from .errors import (
    Abandoned,
    DataRace,
    Deadlock,
    Livelock,
    Stalled,
    UseAfterFree,
    VerifyError,
)
from .places import is_beneath, where
from .task import Operation, Task
from .trace import ACQUIRE, BLOCK, ENABLE, READ, WRITE, Line, Step, covers, join
from .workers import Pool

if TYPE_CHECKING:
    from .objects import Sync
    from .plain import Audit

STUCK = -1000  # the alternative that no interrupt is raised, and no task can go on
_LOOK_S = 0.05  # how often the controller looks, if it may have missed a wake-up
_GRACE_S = 1.0  # how long a task that stalled is waited for when it is ended
active: Run | None = None  # the execution that runs; the turn protects it


def running() -> Task | None:
    """Return the task that has the turn; None outside an execution and while a checker looks."""
    run = active
    return None if run is None or run.quiet or run.abandoned else run.current


class Strategy(Protocol):
    """It decides which task runs next."""

    def choose(self, run: Run, enabled: Mapping[int, Operation]) -> tuple[int, int] | None:
        """Pick a task and an alternative, or None to give the execution up as redundant."""

    def end(self, run: Run) -> bool:
        """Learn from a finished execution; tell whether another is wanted."""


class Options(NamedTuple):
    """The options of every execution of an exploration."""

    max_steps: int = 20_000
    interrupts: tuple[tuple[str, type[BaseException]], ...] = ()
    forks: bool = False
    patience_s: float = 10.0
    audit: bool = False
    timeouts: int = 2  # so often a task's waits for one object may run out early
    announce: bool = False  # a failure is a step of its own, before which other tasks may run


class Run:
    """One execution of a program.

    Parameters
    ----------
    shared : set of str or None
        The keys whose operations are scheduling points; None stands for all.
    known : set of str or None
        If it is not None, keep lines for a timeline in which these are the shared objects. An empty
        set stands for all.
    audit : Audit or None
        It looks for plain objects that tasks share.
    """

    def __init__(
        self, program: Callable[[], Any], strategy: Strategy, options: Options, pool: Pool,
        shared: set[str] | None = None, *, known: set[str] | None = None,
        audit: Audit | None = None,
    ) -> None:  # fmt: skip
        self.strategy = strategy
        self.options = options
        self.audit = audit
        if audit is not None:
            audit.begin(self)
        self.pool = pool
        self.shared = shared
        self.lines: list[Line] | None = None if known is None else []
        self.known = known
        self.steps: list[Step] = []
        self.could_go_on: list[bool] = []  # per step but the first: could its predecessor go on?
        self.tasks: list[Task] = []
        self.alive = 0
        self.nr_operations = 0
        self.uses: dict[str, list[int]] = {}  # key not in `shared` -> [bit per task, uses]
        self.labels: dict[str, dict[str, int]] = {}
        self.objects: dict[int, Any] = {}  # see fields.py
        self.tracked: dict[Any, Any] = {}  # see tracking.py
        self.hooks: dict[str, Callable[[], None]] = {}  # mutex name -> called after its release
        self.quiet = False  # a checker looks, so there is no scheduling and no guard
        self.abandoned = False
        self.redundant = False
        self.failed_quietly = False
        self.cut = False  # a wait could have run out once more
        self.failure: BaseException | None = None
        self.value: Any = None
        self.fork_written: list[int] | None = None
        self.pick = 0
        self.unfinished: list[Task] = []
        self.waiting: list[Task] = []  # tasks whose announced operation was never done
        self.stalled: Task | None = None
        self._stalled_over = _thread.allocate_lock()
        self._stalled_over.acquire()
        self.over = False
        self._over = _thread.allocate_lock()
        self._over.acquire()
        self.current = self.new_task(program, "main")

    # -- what the controller does

    def execute(self) -> None:
        """Run to the end, and unwind tasks that did not end."""
        global active
        assert active is None, "explorations do not nest"
        active = self
        try:
            self._next(None)
            try:
                self._watch()
            finally:
                self._unwind()
        finally:
            active = None

    def _watch(self) -> None:
        """Wait until the execution ends, or until the task that has the turn does not come back.

        Raises
        ------
        KeyboardInterrupt
            The wait was interrupted. The task that had the turn has ended.
        """
        seen, used_s = (-1, -1), 0.0
        try:
            while not self._over.acquire(timeout=self.options.patience_s):
                task, at = self.current, (self.nr_operations, len(self.steps))
                used_before_s, used_s = used_s, watchdog.processor_s(task)
                if at == seen:
                    patience_s = self.options.patience_s
                    text = watchdog.describe(task, patience_s, used_s - used_before_s)
                    self.stalled, self.failure = task, Stalled(text)
                    assert task.worker is not None
                    task.worker.lost = True
                    return
                seen = at
        except KeyboardInterrupt:
            self.abandoned = True
            while not self.over:  # the interrupt may be raised after the lock was taken
                self._over.acquire(timeout=_LOOK_S)
            raise

    def _unwind(self) -> None:
        """End the tasks that have not ended."""
        self.unfinished = [t for t in self.tasks if t.started and not t.done]
        self.abandoned = True
        self.waiting += self.unfinished
        for task in self.unfinished:
            if task is not self.stalled:
                self.current = task
                assert task.worker is not None
                task.worker.turn.release()
                while not task.done:
                    self._over.acquire(timeout=_LOOK_S)
        if self.stalled is not None:  # others may have let go of what it waits for
            self.current = self.stalled
            watchdog.end(self.stalled)
            self._stalled_over.acquire(timeout=_GRACE_S)  # else its thread is left where it is

    def contended(self) -> set[str]:
        """Return the keys outside `shared` that the execution showed to be shared after all."""
        return {
            key for key, (tasks, uses) in self.uses.items() if tasks & (tasks - 1) and uses != READ
        }

    # -- tasks

    def new_task(self, fn: Callable[[], Any], name: str) -> Task:
        parent = self.current if self.tasks else None
        key = f"{parent.key}.{parent.spawned}" if parent else "0"
        task = Task(len(self.tasks), key, name, fn, self)
        if parent is not None:
            parent.spawned += 1
            task.clock = parent.clock.copy()
            task.now_s = parent.now_s
            self._tick(parent)
        task.clock.extend([0] * (task.id + 1 - len(task.clock)))
        names = [n for n, _ in self.options.interrupts]
        task.interrupts = [i for i, n in enumerate(names) if n == name]
        self.tasks.append(task)
        self.alive += 1
        return task

    def new_key(self) -> str:
        """Return a key for a new object. It is the same in every schedule."""
        self.current.made += 1
        return f"{self.current.key}:{self.current.made}"

    def _body(self, task: Task) -> None:
        try:
            self._begin(task)
            if self.audit is not None:
                sys.settrace(self.audit.trace)
            try:
                value = task.context.run(task.fn)
            finally:
                if self.audit is not None:
                    sys.settrace(None)
            if task.id == 0:
                self.value = value
        except Abandoned:
            pass
        except BaseException as problem:
            injected = any(type(problem) is e for n, e in self.options.interrupts if n == task.name)
            if not self.abandoned and not injected:
                with suppress(Abandoned):
                    self.fail(problem)
        task.done = True
        self.alive -= not task.vanished
        assert task.worker is not None
        if not task.worker.lost:
            self.pool.put(task.worker)
        if task is self.stalled:
            self._stalled_over.release()
        elif self.abandoned:
            self._end()
        else:
            self._next(None)

    def _end(self) -> None:
        """Wake the controller. It may have been woken already, by an interrupt."""
        self.over = True
        with suppress(RuntimeError):
            self._over.release()

    # -- the turn

    def _next(self, here: Task | None) -> None:
        """Pass the turn on. Return when `here` has it again, or at once if `here` is None."""
        task = self._decide(here)
        if task is here and task is not None:
            return
        if task is None:
            self._end()
        else:
            self.current = task
            if task.started:
                assert task.worker is not None
                task.worker.turn.release()
            else:
                task.started = True
                task.worker = self.pool.get()
                task.worker.start(lambda: self._body(task))
        if here is not None:
            assert here.worker is not None
            here.worker.turn.acquire()

    def _decide(self, here: Task | None) -> Task | None:
        if here is not None and here.operation.kind == "choose":
            enabled = {here.id: here.operation}
        else:
            enabled = {}
            for task in self.tasks:
                if not task.done and not task.vanished:
                    offer = task.offer()
                    if offer is not None:
                        enabled[task.id] = offer
        if not enabled:  # all tasks wait: only now a wait with a time can end
            enabled = {t.id: t.operation for t in self.stuck() if t.late is not None and t.late()}
        if not enabled:
            if not all(t.daemon for t in self.stuck()):
                self.failure = self._deadlock()
            return None
        if not any(offer.picks[0] >= 0 for offer in enabled.values()):
            # Only an interrupt can help, and it need not be raised.
            first = min(enabled)
            enabled[first] = enabled[first]._replace(picks=(*enabled[first].picks, STUCK))
        try:
            picked = self.strategy.choose(self, enabled)
        except BaseException as problem:
            self.failure = problem
            return None
        if picked is None:
            self.redundant = True
            return None
        if self.steps:
            self.could_go_on.append(self.steps[-1].task in enabled)
        task_id, self.pick = picked
        return self.tasks[task_id]

    def stuck(self) -> list[Task]:
        """Return the tasks that have not ended."""
        return [t for t in self.tasks if not t.done and not t.vanished]

    def _deadlock(self) -> Deadlock:
        stuck = self.stuck()
        if self.lines is not None:
            waiting = [t.waiting for t in stuck if t.waiting is not None]
            self.lines += [x._replace(what=f"waits: {x.what}") for x in waiting]
        waits = (
            f"{t.name} waits in {t.operation.kind} {self.label(t.operation.key)}" for t in stuck
        )
        return Deadlock("; ".join(w.rstrip() for w in waits))

    def _begin(self, task: Task) -> None:
        prior = task.clock.copy()
        self._tick(task)
        step = Step(task.id, self.pick, task.clock[task.id], prior, {}, task.clock.copy())
        self.steps.append(step)
        if self.options.forks:
            self._fork_order(task, step, READ)

    def alone(self, task: Task) -> bool:
        """Tell whether all steps of other tasks are ordered before `task`, and they do no more.

        It is not enough that they have ended: a task that did not join them could have run first.
        """
        return self.alive == 1 and all(
            t is task or t.vanished or covers(task.clock, t.id, t.clock[t.id]) for t in self.tasks
        )

    def _tick(self, task: Task) -> None:
        task.clock[task.id] += 1

    # -- operations

    def step(
        self, kind: str, obj: Sync | None, use: int, ready: Callable[[], bool] | None = None,
        choices: int = 1, detail: str = "", late: Callable[[], bool] | None = None,
    ) -> bool:  # fmt: skip
        """Announce an operation and wait for the turn to do it.

        Parameters
        ----------
        late : callable, optional
            For a wait with a time: it returns whether the operation may be done, ready or not, when
            no task can go on.

        Returns
        -------
        bool
            Whether it was a scheduling point. If so, the caller reports what it did by `access`.
        """
        if self.quiet:
            return False
        if self.abandoned:
            raise Abandoned
        task = self.current
        self.nr_operations += 1
        if self.nr_operations > self.options.max_steps:
            self.fail(Livelock(f"no end after {self.options.max_steps} operations"))
        key = obj.key if obj is not None else ""
        line = None
        if self.lines is not None:
            what = f"{kind} {detail or self.label(key, obj)}".rstrip()
            line = Line(task.id, what, where(), self._shows(key))
        alone = self.alone(task) and not task.interrupts
        private = not alone and self.shared is not None and key != "" and key not in self.shared
        if private:
            seen = self.uses.setdefault(key, [0, 0])
            seen[0] |= 1 << task.id
            seen[1] |= use
        if choices == 1 and (alone or private) and (ready is None or ready()):
            self.steps[-1].merged += private
            if line is not None and self.lines is not None:
                self.lines.append(line)
            return False
        picks = tuple(range(choices))
        if task.interrupts and choices == 1 and not is_beneath():
            picks += tuple(-1 - i for i in task.interrupts)
        task.announce(Operation(kind, key, use, picks), ready, late)
        task.waiting = line
        self._next(task)
        if self.abandoned:
            raise Abandoned
        if late is not None and self.pick >= 0 and ready is not None and not ready():
            # No task could go on, so this operation could not have been done earlier.
            for other in self.tasks:
                join(task.clock, other.clock)
        self._begin(task)
        if self.pick == STUCK:
            self.waiting = [task]
            self.fail(self._deadlock())
        task.waiting = None
        if self.pick < 0:
            index = -1 - self.pick
            task.interrupts.remove(index)
            exception = self.options.interrupts[index][1]
            if line is not None and self.lines is not None:
                what = f"{exception.__name__}, not: {line.what}"
                self.lines.append(line._replace(what=what))
            raise exception
        if line is not None and self.lines is not None:
            self.lines.append(line)
        return True

    def access(self, obj: Sync, use: int) -> None:
        """Note how the operation of this step used `obj`, in the clocks and in the footprint."""
        task, step = self.current, self.steps[-1]
        clock = task.clock
        if use & ACQUIRE:
            if obj.written:
                join(clock, obj.written)
                step.enabled_by = obj.written
            step.blocking = obj.key
        else:
            if use & BLOCK:
                step.blocking = obj.key
                step.enabled_by = obj.enabled
            if obj.written:
                join(clock, obj.written)
            if use & WRITE:
                join(clock, obj.read)
                obj.written = clock.copy()
                obj.read = []
                if use & ENABLE:
                    obj.enabled = obj.written
            else:
                join(obj.read, clock)
        step.footprint[obj.key] = step.footprint.get(obj.key, 0) | use
        step.clock = clock.copy()
        self._tick(task)

    def released(self, obj: Sync) -> None:
        """Order everything after the next acquire of `obj` after everything so far."""
        obj.written = self.current.clock.copy()
        self._tick(self.current)

    def timed(
        self, kind: str, obj: Sync, use: int, ready: Callable[[], bool], seconds: float,
        of: str = "",
    ) -> bool:  # fmt: skip
        """Wait for `ready`, or until the time is over, which may be at any moment before.

        The operation is done whether ready or not: a wait that ends later is a schedule in which
        the task goes on later. A task's waits run out early `Options.timeouts` times, and then only
        when no task can go on, so that a loop of such waits ends.

        Parameters
        ----------
        of : str
            The key under which the waits that ran out are counted; that of `obj` if it is empty.
        """
        task, of = self.current, of or obj.key
        if self.alone(task) or task.ran_out.get(of, 0) < self.options.timeouts:
            point = self.step(kind, obj, use)
            done = ready()
            if point:
                self.access(obj, use if done else READ)
        else:
            self.cut = True
            point = self.step(kind, obj, use | BLOCK, ready, late=lambda: True)
            done = ready()
            if point and done:
                self.access(obj, use | BLOCK)
        if not done:
            task.ran_out[of] = task.ran_out.get(of, 0) + 1
            task.now_s += max(seconds, 0)
        return done

    def watches(self, obj: Sync) -> bool:
        """Tell whether a task can see `obj` held, so that its release is a scheduling point."""
        return self.shared is None or f"{obj.key}?" in self.shared

    def watch(self, obj: Sync) -> None:
        """Note that a task can see `obj` held. The exploration starts again if that is new."""
        if not self.watches(obj) and not self.alone(self.current):
            self.uses[f"{obj.key}?"] = [3, WRITE]  # as if two tasks had used it

    def merge(self) -> None:
        """Count a scheduling point that no other task could notice."""
        self.steps[-1].merged += not self.alone(self.current)

    def wait_for(self, tasks: list[Task]) -> None:
        """Wait until the tasks have ended. It is no scheduling point if they have ended already."""
        if self.quiet:
            return
        if self.abandoned:
            raise Abandoned
        if not all(task.done for task in tasks):
            names = ", ".join(task.name for task in tasks)
            self.step("join", None, 0, lambda: all(task.done for task in tasks), detail=names)
        for task in tasks:
            join(self.current.clock, task.clock)
            self.current.now_s = max(self.current.now_s, task.now_s)
        self.steps[-1].clock = self.current.clock.copy()

    def settle(self) -> None:
        """Wait until every other task has ended."""
        while rest := [
            t for t in self.tasks if t is not self.current and not (t.done or t.vanished)
        ]:
            self.wait_for(rest)

    def choose(self, n: int) -> int:
        """Branch over 0 to `n` - 1."""
        if self.quiet or n < 2:
            return 0
        self.step("choose", None, 0, choices=n, detail=f"of {n}")
        self.note(f"chose {self.pick}")
        return self.pick

    def fork(self) -> None:
        """Go on as the child of a fork: every other task is gone, and what it holds stays held."""
        if not self.options.forks:
            raise VerifyError("a program that forks is explored with forks=True")
        if self.step("fork", None, 0):
            self._fork_order(self.current, self.steps[-1], WRITE)
        for task in self.tasks:
            if task is not self.current and not task.done:
                task.vanished = True
        self.alive = 1

    def _fork_order(self, task: Task, step: Step, use: int) -> None:
        step.footprint["fork"] = use
        if use == WRITE:
            for other in self.tasks:
                join(task.clock, other.clock)
            step.clock = task.clock.copy()

    # -- reporting

    def fail(self, problem: BaseException) -> None:
        """End the execution with a finding. It does not return."""
        if self.options.announce and not isinstance(problem, (Deadlock, Livelock)):
            self.current.interrupts = []
            self.step("fail", None, 0)
        if self.failure is None:
            self.failure = problem
        self.abandoned = True
        raise Abandoned

    def hides_others(self) -> str:
        """Return why schedules are not seen for this failure, or the empty string.

        After other failures the other tasks go on in an execution of their own.
        """
        kind = type(self.failure).__name__
        if isinstance(self.failure, Livelock):
            return f"{kind}: what is after so many operations is not seen"
        if isinstance(self.failure, (DataRace, UseAfterFree)):
            return f"{kind}: what is after the first of two unordered uses is not seen"
        if self.failed_quietly:
            return (
                f"{kind}: what a quiet check reads is not known, so it was not tried at each step"
            )
        return ""

    def label(self, key: str, obj: Sync | None = None) -> str:
        """Return a short name of an object. The second object of a name is ``name#2``."""
        if obj is not None:
            same = self.labels.setdefault(obj.name, {})
            same.setdefault(key, len(same) + 1)
        for name, keys in self.labels.items():
            if key in keys:
                return name if keys[key] == 1 else f"{name}#{keys[key]}"
        return key

    def note(self, what: str, obj: Sync | None = None) -> None:
        """Add an operation that is no scheduling point to the timeline."""
        if self.lines is not None and not self.quiet and not self.abandoned:
            name, key = (self.label(obj.key, obj), obj.key) if obj is not None else ("", "")
            line = Line(self.current.id, f"{what} {name}".rstrip(), where(), self._shows(key))
            self.lines.append(line)

    def _shows(self, key: str) -> bool:
        return not key or not self.known or key in self.known
