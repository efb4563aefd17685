# SPDX-License-Identifier: Apache-2.0
"""Steps, the objects that they use, and when two steps depend on each other.

A *step* is an announced operation and what its task does up to the next one. Its *footprint*
maps each shared object to how it was used. Two steps of different tasks are dependent if their
footprints conflict. Executions that differ only in the order of independent steps form
one Mazurkiewicz trace, and it is enough to run one of them.

*Happens-before* is kept in vector clocks (Mattern 1989): a task's own entry grows with each
operation that can order another task's steps.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

READ = 1
WRITE = 2
ACQUIRE = 4  # it takes a mutex: two acquires can change places, a release and an acquire cannot
BLOCK = 8  # with READ: it can run only after an ENABLE
ENABLE = 16  # with WRITE: it lets a BLOCK run

Footprint = dict[str, int]
Clock = list[int]


def conflict(a: int, b: int) -> bool:
    """Tell whether two uses of one object depend on each other."""
    if a & b & ACQUIRE:
        return True
    return bool((a | b) & WRITE and a & (READ | WRITE) and b & (READ | WRITE))


def independent(a: Footprint, b: Footprint) -> bool:
    """Tell whether two footprints share no conflicting use."""
    if len(a) > len(b):
        a, b = b, a
    return not any(key in b and conflict(use, b[key]) for key, use in a.items())


def join(clock: Clock, other: Clock) -> None:
    """Raise `clock` to at least `other`, entry by entry."""
    short = len(other) - len(clock)
    if short > 0:
        clock.extend([0] * short)
    for i, t in enumerate(other):
        if t > clock[i]:
            clock[i] = t


def covers(clock: Clock, task: int, stamp: int) -> bool:
    """Tell whether `clock` is at or after the moment `stamp` of `task`."""
    return task < len(clock) and clock[task] >= stamp


@dataclass(slots=True)
class Step:
    """One executed step.

    Attributes
    ----------
    task, pick : int
        The task that ran, and its alternative: 0 to n - 1 for ``choose(n)``, below 0 an interrupt.
    stamp : int
        The task's own clock entry at the operation.
    prior, clock : Clock
        The task's clock when the operation was announced, and when it was done.
    enabled_by : Clock
        The clock of what a blocking operation had to wait for.
    blocking : str
        The object that a blocking operation waits for, or the empty string.
    merged : int
        How many further scheduling points the step contains that no other task could notice.
    """

    task: int
    pick: int
    stamp: int
    prior: Clock
    footprint: Footprint
    clock: Clock = field(default_factory=list)
    enabled_by: Clock = field(default_factory=list)
    blocking: str = ""
    merged: int = 0


class Line(NamedTuple):
    """A line of a timeline: which task did what, and where."""

    task: int
    what: str
    where: str
    shared: bool = True  # another task could notice it


Schedule = list[tuple[int, int]]  # (task, pick), one per scheduling point


def fine(steps: Iterable[Step]) -> Schedule:
    """Return the schedule with every scheduling point, including merged ones."""
    out: Schedule = []
    for step in steps:
        out.append((step.task, step.pick))
        out.extend([(step.task, 0)] * step.merged)
    return out


def format_schedule(schedule: Schedule) -> str:
    """Write a schedule as a replay string.

    ``0*3.1*2.0`` is three steps of task 0, two of task 1, one of task 0. ``1?2`` is a
    ``choose`` that gave 2; ``1!0`` raises the first interrupt in task 1.

    Examples
    --------
    >>> format_schedule([(0, 0), (0, 0), (1, 2), (1, 0), (0, -1)])
    '0*2.1?2.1.0!0'
    """
    parts: list[str] = []
    i = 0
    while i < len(schedule):
        task, pick = schedule[i]
        n = 1
        if pick > 0:
            parts.append(f"{task}?{pick}")
        elif pick < 0:
            parts.append(f"{task}!{-1 - pick}")
        else:
            while i + n < len(schedule) and schedule[i + n] == (task, 0):
                n += 1
            parts.append(f"{task}*{n}" if n > 1 else f"{task}")
        i += n
    return ".".join(parts)


_PART = re.compile(r"(\d+)(?:([*?!])(\d+))?")


def parse_schedule(text: str) -> Schedule:
    """Read a replay string.

    Raises
    ------
    ValueError
        `text` is not a replay string.

    Examples
    --------
    >>> parse_schedule("0*2.1?2.0!0")
    [(0, 0), (0, 0), (1, 2), (0, -1)]
    """
    schedule: Schedule = []
    for part in text.split(".") if text else []:
        match = _PART.fullmatch(part)
        if match is None:
            raise ValueError(f"replay string {text!r}: {part!r} is not task[*n|?n|!n]")
        task, mark, n = int(match[1]), match[2], int(match[3] or 1)
        if mark == "?":
            schedule.append((task, n))
        elif mark == "!":
            schedule.append((task, -1 - n))
        else:
            schedule.extend([(task, 0)] * n)
    return schedule


_LONGEST_ROUND = 12  # lines


def _folded(lines: list[Line]) -> list[Line]:
    """Replace rounds of equal lines by the first round and a line that says how many there are."""
    out: list[Line] = []
    i = 0
    while i < len(lines):
        for n in range(1, _LONGEST_ROUND + 1):
            end = i + n
            while lines[end : end + n] == lines[i : i + n]:
                end += n
            times = (end - i) // n
            if times > 2:
                again = f"... {times} times" if n == 1 else f"... {times} times, these {n}"
                out += [*lines[i : i + n], Line(lines[end - 1].task, again, "")]
                i = end
                break
        else:
            out.append(lines[i])
            i += 1
    return out


def timeline(names: list[str], lines: list[Line]) -> str:
    """Lay lines out with one column per task, and the place in the source at the left.

    Lines of the first task before it started others are left out, and so are lines that no other
    task could notice. A loop is shown once.
    """
    start = next((i for i, line in enumerate(lines) if line.what.startswith("spawn ")), 0)
    lines = _folded([line for line in lines[start:] if line.shared])
    shown = sorted({line.task for line in lines})
    width = {t: max(len(names[t]) + 4, *(len(x.what) for x in lines if x.task == t)) for t in shown}
    place = max((len(line.where) for line in lines), default=0)
    head = " | ".join(f"{t}: {names[t]}".ljust(width[t]) for t in shown)
    out = [f"{'':{place}} | {head}".rstrip()]
    for line in lines:
        cells = [(line.what if line.task == t else "").ljust(width[t]) for t in shown]
        out.append(f"{line.where:{place}} | {' | '.join(cells)}".rstrip())
    return "\n".join(out)
