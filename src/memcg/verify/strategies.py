# SPDX-License-Identifier: Apache-2.0
"""Ways to choose schedules without partial-order reduction.

References: Musuvathi & Qadeer, *Iterative context bounding* (PLDI 2007); Burckhardt, Kothari,
Musuvathi & Nagarakatte, *A randomized scheduler with probabilistic guarantees of finding bugs*
(ASPLOS 2010).
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from .dpor import Enabled, check_same
from .errors import NondeterminismError
from .runtime import Run
from .trace import Schedule


@dataclass(slots=True)
class _Branch:
    enabled: Enabled
    options: list[tuple[int, int]]
    preemptions: int  # before this step
    index: int = 0


def is_preemption(last: int | None, task: int, enabled: Enabled) -> bool:
    """Tell whether going on with `task` takes the turn from a task that could go on."""
    return last is not None and task != last and last in enabled


class Exhaustive:
    """It tries every schedule, depth first, with at most `bound` preemptions; None: no bound."""

    def __init__(self, bound: int | None = None) -> None:
        self.bound = bound
        self.stack: list[_Branch] = []

    def choose(self, run: Run, enabled: Enabled) -> tuple[int, int] | None:
        depth = len(run.steps)
        if depth < len(self.stack):
            branch = self.stack[depth]
            check_same(depth, branch.enabled, enabled)
            return branch.options[branch.index]
        last = run.steps[-1].task if depth else None
        spent = 0
        if depth:
            before = self.stack[-1]
            earlier = run.steps[-2].task if depth > 1 else None
            spent = before.preemptions + is_preemption(earlier, run.steps[-1].task, before.enabled)
        order = sorted(enabled, key=lambda t: (t != last, t))
        if self.bound is not None and spent >= self.bound and last in enabled:
            order = order[:1]
        options = [(t, p) for t in order for p in enabled[t].picks]
        self.stack.append(_Branch(dict(enabled), options, spent))
        return options[0]

    def end(self, run: Run) -> bool:
        del self.stack[len(run.steps) :]
        while self.stack:
            branch = self.stack[-1]
            if branch.index + 1 < len(branch.options):
                branch.index += 1
                return True
            self.stack.pop()
        return False


class Random:
    """It picks a task at random at each step."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def choose(self, run: Run, enabled: Enabled) -> tuple[int, int] | None:
        task = self.random.choice(sorted(enabled))
        return task, self.random.choice(enabled[task].picks)

    def end(self, run: Run) -> bool:
        return True


class Pct:
    """It gives tasks random priorities that change at `depth` - 1 random steps.

    In each execution it finds a bug of depth d among n tasks and k steps with a probability of at
    least 1 / (n k^(d - 1)).
    """

    def __init__(self, seed: int, depth: int) -> None:
        self.random = random.Random(seed)
        self.depth = depth
        self.length = 1  # how many steps the longest execution so far had
        self._begin()

    def _begin(self) -> None:
        self.priority: dict[int, float] = {}
        n = min(self.depth - 1, self.length)
        self.changes = set(self.random.sample(range(self.length), n))
        self.lowest = 0.0

    def choose(self, run: Run, enabled: Enabled) -> tuple[int, int] | None:
        for task in sorted(enabled):
            self.priority.setdefault(task, 1 + self.random.random())
        task = max(sorted(enabled), key=self.priority.__getitem__)
        if len(run.steps) in self.changes:
            self.lowest -= 1
            self.priority[task] = self.lowest
            task = max(sorted(enabled), key=self.priority.__getitem__)
        return task, self.random.choice(enabled[task].picks)

    def end(self, run: Run) -> bool:
        self.length = max(self.length, len(run.steps))
        self._begin()
        return True


class Follow:
    """It follows one given schedule."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule

    def choose(self, run: Run, enabled: Enabled) -> tuple[int, int] | None:
        depth = len(run.steps)
        if depth >= len(self.schedule):
            raise NondeterminismError(
                f"the program goes on after the {depth} steps of the replay string"
            )
        task, pick = self.schedule[depth]
        if task not in enabled or pick not in enabled[task].picks:
            raise NondeterminismError(
                f"step {depth} of the replay string: task {task} cannot do alternative {pick} "
                f"here; enabled are { ({t: (o.kind, o.picks) for t, o in enabled.items()}) }"
            )
        return task, pick

    def end(self, run: Run) -> bool:
        return False
