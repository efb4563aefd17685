# SPDX-License-Identifier: Apache-2.0
"""Dynamic partial-order reduction runs one execution per Mazurkiewicz trace, as far as it can.

After each execution its races are found. A race is a pair of dependent steps that nothing else
orders. For each race, the second step is also tried first, from the state before the first step.
Sleep sets keep what was explored from being explored again in another order.

References: Flanagan & Godefroid, *Dynamic partial-order reduction for model checking software*
(POPL 2005); Abdulla, Aronis, Jonsson & Sagonas, *Optimal dynamic partial order reduction* (POPL
2014), whose source sets this is; Godefroid, *Partial-order methods* (1996), for sleep sets.
"""

from __future__ import annotations

from collections.abc import Mapping

from .errors import NondeterminismError
from .runtime import Run
from .task import Operation
from .trace import (
    ACQUIRE,
    BLOCK,
    ENABLE,
    READ,
    WRITE,
    Clock,
    Footprint,
    Step,
    conflict,
    covers,
    independent,
)

Enabled = Mapping[int, Operation]
Sleeper = tuple[Footprint, tuple[int, ...]]  # the footprint of its next step, and its alternatives


class Node:
    """A state on the path: what was enabled, what was tried, and what need not be tried."""

    __slots__ = ("backtrack", "enabled", "footprint", "index", "sleep", "task")

    def __init__(self, enabled: Enabled, sleep: dict[int, Sleeper], task: int) -> None:
        self.enabled = dict(enabled)
        self.sleep = sleep  # a task that was tried is added here
        # A task that can only be interrupted is tried first, and then one that can go on.
        self.backtrack = {t for t, o in enabled.items() if o.picks[0] < 0 and t not in sleep}
        self.task = min(self.backtrack, default=task)
        self.backtrack.add(task)
        self.index = 0  # the alternative of `task` that runs now
        self.footprint: Footprint = {}  # that of `task`, over its alternatives

    @property
    def pick(self) -> int:
        return self.enabled[self.task].picks[self.index]


def check_same(depth: int, expected: Enabled, found: Enabled) -> None:
    """Raise NondeterminismError if a replayed prefix met other operations than before."""
    if dict(expected) != dict(found):
        was = {t: (o.kind, o.key) for t, o in expected.items()}
        now = {t: (o.kind, o.key) for t, o in found.items()}
        raise NondeterminismError(
            f"step {depth} of the same schedule met other operations: before {was}, now {now}; "
            "the program depends on something the explorer does not control"
        )


class Dpor:
    """It searches depth first, with source sets and sleep sets."""

    def __init__(self) -> None:
        self.stack: list[Node] = []
        self.fresh = 0  # the first step that the last execution did not share with the one before

    def choose(self, run: Run, enabled: Enabled) -> tuple[int, int] | None:
        depth = len(run.steps)
        if depth < len(self.stack):
            node = self.stack[depth]
            check_same(depth, node.enabled, enabled)
            return node.task, node.pick
        last = run.steps[-1] if depth else None
        sleep: dict[int, Sleeper] = {}
        if last is not None:
            sleep = {
                t: (f, picks)
                for t, (f, picks) in self.stack[-1].sleep.items()
                if t != last.task
                and independent(f, last.footprint)
                and (t not in enabled or set(enabled[t].picks) <= set(picks))
            }
        awake = [t for t in enabled if t not in sleep]
        if not awake:
            return None
        able = [t for t in awake if enabled[t].picks[0] >= 0] or awake
        task = last.task if last is not None and last.task in able else able[0]
        node = Node(enabled, sleep, task)
        self.stack.append(node)
        return node.task, node.pick

    def end(self, run: Run) -> bool:
        steps = run.steps
        del self.stack[len(steps) :]
        for node, step in zip(self.stack[self.fresh :], steps[self.fresh :], strict=True):
            for key, use in step.footprint.items():
                node.footprint[key] = node.footprint.get(key, 0) | use
        self._add_races(run)
        if steps and self.stack[-1].enabled[steps[-1].task].kind == "fail":
            self._go_on_without(self.stack[-1], steps[-1].task)
        while self.stack:
            node = self.stack[-1]
            self.fresh = len(self.stack) - 1
            if node.index + 1 < len(node.enabled[node.task].picks):
                node.index += 1
                return True
            node.sleep[node.task] = node.footprint, node.enabled[node.task].picks
            todo = sorted(node.backtrack - node.sleep.keys())
            if todo:
                node.task, node.index, node.footprint = todo[0], 0, {}
                return True
            self.stack.pop()
        return False

    @staticmethod
    def _go_on_without(node: Node, task: int) -> None:
        """Plan an execution in which the other tasks go on, and not the one that failed.

        The step that fails ends the execution, so it conflicts with all that others would have done
        next. It uses no object, so its task sleeps while they do it.
        """
        others = [t for t, o in node.enabled.items() if t != task and o.picks[0] >= 0]
        if node.backtrack.isdisjoint(others):
            node.backtrack.update([t for t in others if t not in node.sleep][:1])

    # -- races

    def _add_races(self, run: Run) -> None:
        history: dict[str, list[tuple[int, int]]] = {}
        steps = run.steps
        for j, step in enumerate(steps):
            if j >= self.fresh and step.footprint:
                self._races_of(steps, history, j, step)
            for key, use in step.footprint.items():
                history.setdefault(key, []).append((j, use))
        vanished = [t for t in run.tasks if t.vanished and not t.started]
        for task in [*run.waiting, *vanished]:  # the steps that they would have done next
            operation = task.operation
            footprint = {operation.key: operation.use} if operation.use else {}
            if task.vanished:
                footprint["fork"] = READ  # it could have been done before the fork
            waiting = Step(task.id, 0, task.clock[task.id] + 1, task.clock, footprint,
                           task.clock, blocking=operation.key)  # fmt: skip
            self._races_of(steps, history, len(steps), waiting)

    def _races_of(
        self, steps: list[Step], history: dict[str, list[tuple[int, int]]], j: int, step: Step
    ) -> None:
        found: list[int] = []
        for key, use in step.footprint.items():
            for i, before in reversed(history.get(key, ())):
                if not conflict(use, before):
                    continue
                first = steps[i]
                last_word = before & (WRITE | ACQUIRE)  # older uses are ordered before this one
                if first.task == step.task or covers(step.prior, first.task, first.stamp):
                    if last_word:
                        break
                    continue
                if use & BLOCK and before & ENABLE:
                    continue  # the wait cannot end before the step that ends it
                if key != step.blocking and covers(step.enabled_by, first.task, first.stamp):
                    continue  # it precedes the release that this step had to wait for
                if key == "fork" and j == len(steps) and step.task not in self.stack[i].enabled:
                    continue  # it waits for something older
                found.append(i)
                if last_word:
                    break
        handled: list[int] = []
        for i in sorted(set(found), reverse=True):
            first = steps[i]
            if not any(covers(steps[h].clock, first.task, first.stamp) for h in handled):
                handled.append(i)
                self._reverse(steps, i, j, step)

    def _reverse(self, steps: list[Step], i: int, j: int, step: Step) -> None:
        """Plan an execution in which the steps that do not depend on step `i` run before it.

        These are the steps from `i` to `j`, and `step`.
        """
        node, first = self.stack[i], steps[i]
        initials: list[int] = []
        passed: list[Step] = []
        for later in [*steps[i + 1 : j], step]:
            if later is not step and covers(later.clock, first.task, first.stamp):
                continue
            clock: Clock = later.clock
            if later.task not in initials and not any(
                covers(clock, p.task, p.stamp) for p in passed
            ):
                initials.append(later.task)
            passed.append(later)
        if any(t in node.backtrack or t in node.sleep for t in initials):
            return
        possible = [t for t in initials if t in node.enabled]
        if step.task in possible:
            node.backtrack.add(step.task)
        elif possible:
            node.backtrack.add(possible[0])
        else:
            node.backtrack |= node.enabled.keys()


__all__ = ["Dpor", "Node", "check_same"]
