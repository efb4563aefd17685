# SPDX-License-Identifier: Apache-2.0
"""Stateless exploration of a program's schedules.

`explore` runs a program again and again, each time under another schedule, until every
schedule is covered or a failure is found. `replay` runs one schedule. A program is a callable that
starts tasks by `memcg.verify.seam.spawn`, works through the seam's primitives and does nothing
else that differs from run to run; what it returns is a final state, what it raises a failure.

References: Godefroid, *Model checking for programming languages using VeriSoft* (POPL 1997);
`dpor.py` and `strategies.py` name those of the strategies.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from .dpor import Dpor
from .errors import DataRace, NondeterminismError, UseAfterFree
from .runtime import Options, Run, Strategy
from .strategies import Exhaustive, Follow, Pct, Random, is_preemption
from .trace import Line, Schedule, fine, format_schedule, parse_schedule, timeline
from .workers import Pool, one_processor

Program = Callable[[], Hashable]
STRATEGIES = ("dpor", "naive", "bounded", "pct", "random")
_COLLECT_EVERY = 200  # executions; no collection runs inside one


@dataclass(frozen=True, slots=True)
class Failure:
    """A schedule that fails.

    Attributes
    ----------
    exception : BaseException
        What was raised, or the explorer's finding (see `errors`).
    trace : list of Line
        Who did what, where.
    replay : str
        What `replay` takes.
    preemptions : int
        Times a task lost its turn though it could go on.
    minimal : bool
        No schedule with fewer preemptions fails with an exception of this type.
    """

    exception: BaseException
    trace: list[Line]
    names: list[str]
    replay: str
    preemptions: int
    minimal: bool

    @property
    def timeline(self) -> str:
        """One column per task, one line per operation."""
        return timeline(self.names, self.trace)

    def __str__(self) -> str:
        kind = type(self.exception).__name__
        return (
            f"{kind}: {self.exception}\n\n{self.timeline}\n\n"
            f"replay {self.replay!r} ({self.preemptions} preemptions"
            f"{', the fewest possible' if self.minimal else ''})"
        )


@dataclass(slots=True)
class Result:
    """What an exploration found.

    Attributes
    ----------
    schedules : int
        Executions that ran to an end.
    redundant : int
        Executions given up because their trace was explored before.
    warmup : int
        Executions spent on learning which objects are shared.
    exhausted : bool
        Every schedule is covered. Not exhausted is never a pass.
    failures : list
        Exceptions of all failing schedules; one unless `stop` was false.
    states : Counter
        Final states, each with the number of schedules that reached it.
    """

    schedules: int = 0
    redundant: int = 0
    warmup: int = 0
    exhausted: bool = False
    failure: Failure | None = None
    failures: list[BaseException] = field(default_factory=list)
    states: Counter[Hashable] = field(default_factory=Counter)

    @property
    def executions(self) -> int:
        return self.schedules + self.redundant + self.warmup

    @property
    def passed(self) -> bool:
        return self.exhausted and not self.failures

    def check(self) -> Result:
        """Fail unless every schedule was covered and none failed."""
        if self.failure is not None:
            raise AssertionError(str(self.failure)) from self.failure.exception
        if not self.passed:
            raise AssertionError(f"not exhausted after {self.schedules} schedules")
        return self


@contextmanager
def _quiet_process() -> Iterator[None]:
    """One processor, and no garbage collection at times of its own choosing."""
    collecting = gc.isenabled()
    gc.freeze()  # what is garbage already waits too
    gc.disable()
    try:
        with one_processor():
            yield
    finally:
        gc.unfreeze()
        if collecting:
            gc.enable()


class Explorer:
    """Runs one program under many schedules."""

    def __init__(self, program: Program, options: Options, *, everything: bool = False) -> None:
        everything = everything or bool(options.interrupts) or options.forks
        self.program = program
        self.options = options
        self.pool = Pool()
        self.shared: set[str] | None = None if everything else set()
        self.executions = 0

    def run(self, strategy: Strategy, shared: set[str] | None, *, record: bool = False) -> Run:
        known = (self.shared or set()) if record else None
        run = Run(self.program, strategy, self.options, self.pool, shared, known=known)
        run.execute()
        self.executions += 1
        if self.executions % _COLLECT_EVERY == 0:
            gc.collect()
        if isinstance(run.failure, NondeterminismError):
            raise run.failure
        return run

    def learns(self, run: Run) -> bool:
        """Take up objects that turned out to be shared; the exploration starts again then."""
        new = run.contended()
        if new and self.shared is not None:
            self.shared |= new
        return bool(new)

    def all(
        self, make: Callable[[], Strategy], max_schedules: int | None, result: Result, *, stop: bool
    ) -> Run | None:
        """Explore; return the first failing run if `stop`."""
        strategy = make()
        while True:
            if max_schedules is not None and result.schedules >= max_schedules:
                return None
            run = self.run(strategy, self.shared)
            if self.learns(run) and not (stop and _is_certain(run)):
                result.warmup += result.schedules + result.redundant + 1
                result.schedules = result.redundant = 0
                result.states.clear()
                result.failures.clear()
                strategy = make()
                continue
            if run.redundant:
                result.redundant += 1
            else:
                result.schedules += 1
                if run.failure is not None:
                    result.failures.append(run.failure)
                    if stop:
                        return run
                else:
                    result.states[run.value] += 1
            if not strategy.end(run):
                result.exhausted = True
                return None


def _is_certain(run: Run) -> bool:
    """Tell whether a failure stands even if the execution missed some order by shared objects."""
    return run.failure is not None and not isinstance(run.failure, (DataRace, UseAfterFree))


def preemptions(run: Run) -> int:
    """Count the times a task lost its turn though it could go on."""
    return sum(
        1
        for before, now, could in zip(run.steps, run.steps[1:], run.could_go_on, strict=False)
        if before.task != now.task and could
    )


def _failure(explorer: Explorer, schedule: Schedule, count: int, *, minimal: bool) -> Failure:
    run = explorer.run(Follow(schedule), None, record=True)
    if run.failure is None or run.lines is None:
        raise NondeterminismError("a failing schedule did not fail when it was run again")
    names = [task.name for task in run.tasks]
    return Failure(run.failure, run.lines, names, format_schedule(schedule), count, minimal)


def _minimise(explorer: Explorer, failing: Run, budget: int) -> Failure:
    """Look for a failing schedule with fewer preemptions, then with fewer steps."""
    best, fewest, kind = failing, preemptions(failing), type(failing.failure)
    minimal = False
    for bound in range(fewest + 1):
        strategy = Exhaustive(bound)
        found, more = None, True
        while more and budget > 0:
            run = explorer.run(strategy, explorer.shared)
            budget -= 1
            if type(run.failure) is kind:
                at = preemptions(run)
                if found is None or (at, len(fine(run.steps))) < (
                    preemptions(found), len(fine(found.steps))
                ):  # fmt: skip
                    found = run
            more = strategy.end(run)
        if found is not None:
            best, minimal = found, True
            break
        if more:
            break
    return _failure(explorer, fine(best.steps), preemptions(best), minimal=minimal)


def explore(
    program: Program, *, strategy: str = "dpor", max_schedules: int | None = None,
    preemption_bound: int | None = None, depth: int = 3, seed: int = 0, max_steps: int = 20_000,
    interrupts: Iterable[tuple[str, type[BaseException]]] = (), forks: bool = False,
    stop: bool = True, minimise: int = 2_000,
) -> Result:  # fmt: skip
    """Run `program` under every schedule, or as many as the strategy and the bounds allow.

    Parameters
    ----------
    program : callable
        Started as task 0, ``main``. A new one each time: what it shares it makes itself.
    strategy : str
        ``dpor``: one schedule per trace. ``naive``: every schedule. ``bounded``: every schedule
        with at most `preemption_bound` preemptions. ``pct``, ``random``: at random from `seed`,
        100 schedules unless `max_schedules` says otherwise.
    depth : int
        The bug depth d of ``pct``.
    max_steps : int
        Operations after which an execution is a livelock.
    interrupts : iterable of (task name, exception class)
        Each may be raised once, instead of any operation that the task announces from
        outside the data plane.
    forks : bool
        The program calls `seam.fork`.
    stop : bool
        Stop at the first failure.
    minimise : int
        Executions to spend on making a failing schedule smaller.

    Raises
    ------
    NondeterminismError
        The same schedule led somewhere else when run again.
    ValueError
        An unknown strategy, or ``bounded`` without a bound.
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"strategy {strategy!r}: must be one of {', '.join(STRATEGIES)}")
    if (strategy == "bounded") != (preemption_bound is not None):
        raise ValueError("strategy 'bounded' and preemption_bound go together")
    makers: dict[str, Callable[[], Any]] = {
        "dpor": Dpor,
        "naive": Exhaustive,
        "bounded": lambda: Exhaustive(preemption_bound),
        "pct": lambda: Pct(seed, depth),
        "random": lambda: Random(seed),
    }
    if strategy in ("pct", "random") and max_schedules is None:
        max_schedules = 100
    options = Options(max_steps, tuple(interrupts), forks=forks)
    explorer = Explorer(program, options, everything=strategy == "naive")
    result = Result()
    try:
        with _quiet_process():
            failing = explorer.all(makers[strategy], max_schedules, result, stop=stop)
            if failing is not None:
                result.failure = _minimise(explorer, failing, minimise)
    finally:
        explorer.pool.close()
    if strategy == "bounded":
        result.exhausted = False  # only up to the bound
    return result


def replay(
    program: Program, schedule: str, *, max_steps: int = 20_000,
    interrupts: Iterable[tuple[str, type[BaseException]]] = (), forks: bool = False,
) -> Failure:  # fmt: skip
    """Run the schedule of a replay string, as `Failure.replay` gives it.

    Raises
    ------
    NondeterminismError
        The program does not follow the schedule, or does not fail under it.
    """
    explorer = Explorer(program, Options(max_steps, tuple(interrupts), forks=forks))
    parsed = parse_schedule(schedule)
    try:
        with _quiet_process():
            counted = explorer.run(Follow(parsed), None)
            return _failure(explorer, parsed, preemptions(counted), minimal=False)
    finally:
        explorer.pool.close()


__all__ = ["Failure", "Program", "Result", "explore", "is_preemption", "replay"]
