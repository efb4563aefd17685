# SPDX-License-Identifier: Apache-2.0
"""Stateless exploration of a program's schedules.

`explore` runs a program again and again, each time under another schedule, until every
schedule is covered or a failure is found. `replay` runs one schedule. A program is a callable that
starts tasks by `memcg.verify.seam.spawn` and uses the seam's primitives. It must not depend on
anything else that differs from run to run. The value that it returns is a final state, and an
exception that it raises is a failure.

References: Godefroid, *Model checking for programming languages using VeriSoft* (POPL 1997);
`dpor.py` and `strategies.py` name those of the strategies.
"""

from __future__ import annotations

import gc
import sys
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, cast

from .dpor import Dpor
from .errors import DataRace, NondeterminismError, Stalled, UseAfterFree, VerifyError
from .plain import Audit
from .runtime import Options, Run, Strategy
from .strategies import Exhaustive, Follow, Pct, Random, is_preemption
from .trace import Line, Schedule, fine, format_schedule, parse_schedule, timeline
from .tracking import Tracking
from .workers import Pool, one_processor

Program = Callable[[], Hashable]
STRATEGIES = ("dpor", "naive", "bounded", "pct", "random")
_AUDITED = 200  # so many executions are looked through for plain objects that tasks share,
_AUDIT_EVERY = 16  # and then every so many
PROGRESS_S = 1.0
_LONG = 200  # operations; a longer execution, as of a livelock, counts several times when minimised
_COLLECT_EVERY = 200  # in executions; no garbage collection runs inside one


@dataclass(frozen=True, slots=True)
class Failure:
    """A schedule that fails.

    Attributes
    ----------
    exception : BaseException
        What the program raised, or the explorer's finding (see `errors`).
    trace : list of Line
        Which task did what, and where.
    names : list of str
        The names of the tasks.
    replay : str
        The replay string, which `replay` takes.
    preemptions : int
        How often a task lost its turn though it could go on.
    minimal : bool
        Whether no schedule with fewer preemptions fails with an exception of this type.
    """

    exception: BaseException
    trace: list[Line]
    names: list[str]
    replay: str
    preemptions: int
    minimal: bool

    @property
    def timeline(self) -> str:
        """The schedule as a text, with a column per task and a line per operation."""
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
        How many executions ran to an end.
    redundant : int
        How many executions were given up because their trace was explored before.
    warmup : int
        How many executions were spent on learning which objects are shared.
    exhausted : bool
        Whether every schedule is covered. If it is false, the exploration has not passed.
    why : str
        Why it is not exhausted though no bound ended it.
    unseen : list of str
        Plain objects that two tasks use at the same time, and where. They are not on the seam, so
        schedules that differ in them were not run.
    failure : Failure or None
        The failing schedule; None if none failed or `stop` was false.
    failures : list
        The exceptions of all failing schedules; at most one unless `stop` was false.
    states : Counter
        The final states, each with the number of schedules that reached it.
    """

    schedules: int = 0
    redundant: int = 0
    warmup: int = 0
    exhausted: bool = False
    why: str = ""
    unseen: list[str] = field(default_factory=list)
    failure: Failure | None = None
    failures: list[BaseException] = field(default_factory=list)
    states: Counter[Hashable] = field(default_factory=Counter)

    @property
    def executions(self) -> int:
        return self.schedules + self.redundant + self.warmup

    @property
    def passed(self) -> bool:
        return self.exhausted and not self.failures

    def reaches(self, predicate: Callable[[Any], object]) -> bool:
        """Tell whether a schedule ends in a final state for which `predicate` is true.

        Raises
        ------
        VerifyError
            None was seen, and not every schedule was.
        """
        if any(predicate(state) for state in self.states):
            return True
        if not self.exhausted:
            why = f": {self.why}" if self.why else ""
            raise VerifyError(
                f"no such state in {self.schedules} schedules, which are not all{why}"
            )
        return False

    def check(self) -> Result:
        """Raise AssertionError unless every schedule was covered and none failed."""
        if self.failure is not None:
            raise AssertionError(str(self.failure)) from self.failure.exception
        if not self.passed:
            why = f": {self.why}" if self.why else ""
            raise AssertionError(f"not exhausted after {self.schedules} schedules{why}")
        return self


@contextmanager
def _quiet_process() -> Iterator[None]:
    """Use one processor, and let no garbage collection run by itself."""
    collecting = gc.isenabled()
    gc.freeze()  # present garbage is not collected in an execution either
    gc.disable()
    try:
        with one_processor():
            yield
    finally:
        gc.unfreeze()
        if collecting:
            gc.enable()


class Explorer:
    """It runs one program under many schedules."""

    def __init__(
        self, program: Program, options: Options, *, everything: bool = False,
        tracking: Tracking | None = None,
    ) -> None:  # fmt: skip
        everything = everything or bool(options.interrupts) or options.forks
        self.program = program
        self.options = options
        self.pool = Pool()
        self.shared: set[str] | None = None if everything else set()
        self.executions = 0
        self.tracking = tracking
        self.audit = Audit(tracking) if options.audit or tracking is not None else None

    def run(self, strategy: Strategy, shared: set[str] | None, *, record: bool = False) -> Run:
        known = (self.shared or set()) if record else None
        looks = self.executions < _AUDITED or self.executions % _AUDIT_EVERY == 0
        notes = looks and not record and self.options.audit
        audit = self.audit if notes or self.tracking is not None else None
        if audit is not None:
            audit.notes = notes
        if self.tracking is not None:
            self.tracking.restore()
        run = Run(self.program, strategy, self.options, self.pool, shared, known=known,
                  audit=audit)  # fmt: skip
        run.execute()
        self.executions += 1
        if self.executions % _COLLECT_EVERY == 0:
            gc.collect()
        if isinstance(run.failure, NondeterminismError):
            raise run.failure
        return run

    def learns(self, run: Run) -> bool:
        """Add objects that turned out to be shared. If there are some, the exploration restarts."""
        new = run.contended()
        if new and self.shared is not None:
            self.shared |= new
            if self.audit is not None:
                self.audit.found.clear()  # the order that these objects make was not known
        return bool(new)

    def primes(self) -> bool:
        """Tell whether an execution was only there to switch the tracing of instructions on.

        Since 3.12 CPython sees that a function is to be traced when it is called the next time.
        """
        return self.executions == 1 and self.traces_late()

    def traces_late(self) -> bool:
        return self.audit is not None and sys.version_info >= (3, 12)

    def all(
        self, make: Callable[[], Strategy], max_schedules: int | None, result: Result, *,
        stop: bool, progress: Callable[[Result], object] | None = None,
    ) -> Run | None:  # fmt: skip
        """Explore, and return the first failing run if `stop` is true."""
        strategy, told_s = make(), time.monotonic()
        while True:
            if progress is not None and time.monotonic() >= told_s + PROGRESS_S:
                told_s = time.monotonic()
                progress(result)
            if max_schedules is not None and result.schedules >= max_schedules:
                return None
            try:
                run = self.run(strategy, self.shared)
            except KeyboardInterrupt:
                result.why = "interrupted"
                return None
            if self.primes() and run.stalled is None:
                strategy = make()
                continue
            if run.stalled is not None:
                result.schedules += 1
                result.failures.append(cast(Stalled, run.failure))
                result.why = run.hides_others()
                return run
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
                    result.why = result.why or run.hides_others()
                else:
                    result.states[run.value] += 1
            if run.cut:
                result.why = result.why or (
                    f"a wait with a time could run out more than {run.options.timeouts} times in "
                    "one task; timeouts=N explores N"
                )
            if not strategy.end(run):
                result.exhausted = not result.why
                return None


def _is_certain(run: Run) -> bool:
    """Tell whether a failure is one even if the execution missed some order by shared objects."""
    return run.failure is not None and not isinstance(run.failure, (DataRace, UseAfterFree))


def preemptions(run: Run) -> int:
    """Count how often a task lost its turn though it could go on."""
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
            budget -= 1 + run.nr_operations // _LONG
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
    stop: bool = True, minimise: int = 2_000, patience_s: float = 10.0,
    audit: bool = True, timeouts: int = 2, track: Iterable[type | ModuleType] = (),
    progress: Callable[[Result], object] | None = None,
) -> Result:  # fmt: skip
    """Run `program` under every schedule, or as many as the strategy and the bounds allow.

    Parameters
    ----------
    program : callable
        It is called in each execution as task 0, ``main``. It makes every shared object itself,
        anew on each call.
    strategy : str
        ``dpor`` runs one schedule per trace, ``naive`` every schedule, and ``bounded`` every
        schedule with at most `preemption_bound` preemptions. ``pct`` and ``random`` choose at
        random from `seed`; they run 100 schedules if `max_schedules` is None.
    max_schedules : int or None
        The exploration ends after so many schedules; None means that there is no bound.
    preemption_bound : int or None
        The bound of ``bounded``.
    depth : int
        The bug depth d of ``pct``.
    seed : int
        The seed of ``pct`` and ``random``.
    max_steps : int
        An execution that does more operations than this is a livelock.
    interrupts : iterable of (task name, exception class)
        Each exception may be raised once in its task, in place of any operation that the task
        announces from outside the files that `places.beneath` lists.
    forks : bool
        Whether the program may call `seam.fork`.
    stop : bool
        Whether the exploration ends at the first failure.
    minimise : int
        How many executions may be spent on making a failing schedule smaller. One of n operations
        counts 1 + n // 200 times.
    patience_s : float
        A task that does no operation of the seam for so many seconds is reported, with its stack.
    audit : bool
        Look for plain objects that tasks share, which are not explored (see `plain.py`): in the
        first 200 executions and in each 16th after them.
    timeouts : int
        So often the waits of a task for one object run out, at any moment, and so often its sleeps
        end. After that they do so only when no task can go on, and the result is not exhausted.

    track : iterable of class or module
        Each use of a field of these classes, of a global of these modules and of a field of the
        classes that they define, and of the contents of a list, dict, set or deque becomes a step,
        as if it were on the seam (see `tracking.py`). What an execution does to globals, class
        attributes and what they hold is undone after it.
    progress : callable or None
        It is called about every second with the result so far.

    Returns
    -------
    Result
        Its `passed` is true if every schedule was covered and none failed. Ctrl-C ends the
        exploration; the result then has what was found so far.

    Raises
    ------
    NondeterminismError
        The same schedule met other operations when it was run again.
    ValueError
        The strategy is unknown, or ``bounded`` and `preemption_bound` are not given together, or
        `track` and `interrupts` are: an exception that is raised in a traced instruction ends the
        tracing.
    TypeError
        Something in `track` is neither a module nor a class of Python.
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"strategy {strategy!r}: must be one of {', '.join(STRATEGIES)}")
    if (strategy == "bounded") != (preemption_bound is not None):
        raise ValueError(
            "strategy 'bounded' and preemption_bound need each other; give both or neither"
        )
    interrupts, track = tuple(interrupts), tuple(track)
    if interrupts and track:
        raise ValueError("track and interrupts cannot be used together; leave one out")
    makers: dict[str, Callable[[], Any]] = {
        "dpor": Dpor,
        "naive": Exhaustive,
        "bounded": lambda: Exhaustive(preemption_bound),
        "pct": lambda: Pct(seed, depth),
        "random": lambda: Random(seed),
    }
    if strategy in ("pct", "random") and max_schedules is None:
        max_schedules = 100
    options = Options(max_steps, tuple(interrupts), forks=forks, patience_s=patience_s, audit=audit,
                      timeouts=timeouts, announce=not stop and strategy != "naive")  # fmt: skip
    tracking = Tracking(track) if track else None
    explorer = Explorer(program, options, everything=strategy == "naive", tracking=tracking)
    result = Result()
    try:
        with _quiet_process(), tracking or nullcontext():
            failing = explorer.all(makers[strategy], max_schedules, result, stop=stop,
                                   progress=progress)  # fmt: skip
            if failing is not None:
                budget = minimise if failing.stalled is None else 0
                result.failure = _minimise(explorer, failing, budget)
    finally:
        explorer.pool.close()
    if explorer.audit is not None and explorer.audit.found:
        result.unseen = [*explorer.audit.found.values()]
        result.exhausted = False  # schedules that differ in these only were not run
        result.why = result.why or result.unseen[0]
    if strategy == "bounded":
        result.exhausted = False  # schedules with more preemptions were not run
    return result


def replay(
    program: Program, schedule: str, *, max_steps: int = 20_000,
    interrupts: Iterable[tuple[str, type[BaseException]]] = (), forks: bool = False,
    audit: bool = False, timeouts: int = 2, track: Iterable[type | ModuleType] = (),
) -> Failure:  # fmt: skip
    """Run the schedule of a replay string, which `Failure.replay` contains.

    `audit` is ignored. `max_steps`, `interrupts`, `forks`, `timeouts` and `track` must be
    those of the exploration.

    Raises
    ------
    NondeterminismError
        The program does not follow the schedule, or does not fail under it.
    ValueError
        `schedule` is not a replay string.
    """
    track = tuple(track)
    tracking = Tracking(track) if track else None
    options = Options(max_steps, tuple(interrupts), forks=forks, timeouts=timeouts)
    explorer = Explorer(program, options, tracking=tracking)
    parsed = parse_schedule(schedule)
    try:
        with _quiet_process(), tracking or nullcontext():
            if explorer.traces_late():
                explorer.run(Random(0), None)
            counted = explorer.run(Follow(parsed), None)
            return _failure(explorer, parsed, preemptions(counted), minimal=False)
    finally:
        explorer.pool.close()


__all__ = ["Failure", "Program", "Result", "explore", "is_preemption", "replay"]
