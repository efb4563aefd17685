# SPDX-License-Identifier: Apache-2.0
"""What ``memcg top`` shows: rows from the page, sorted, folded and filtered; columns of text."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from memcg.display import SPARK_WIDTH, spark
from memcg.page import GroupFigures, Page
from memcg.sizes import PAGE_COUNTER_MAX, format_size

from .ps import command_line, resident

KEPT = SPARK_WIDTH  # readings of each group for its sparkline


@dataclass(slots=True)
class Row:
    """A group as it is shown. `delta` is in bytes a second."""

    group: GroupFigures
    depth: int
    name: str
    folded: int  # groups below it that are hidden
    delta: float
    history: deque[int]


@dataclass(frozen=True, slots=True)
class Header:
    """The figures of the process. Sizes are in bytes."""

    pid: int
    command: str
    rss: int
    charged: int
    online: int
    dying: int
    left_out: int
    alive: bool


def percent(part: int, whole: int) -> float:
    return 100 * part / whole if 0 < whole < PAGE_COUNTER_MAX else 0.0


def in_slabs(g: GroupFigures) -> float:
    """Return how much of the group's own memory lies in slabs, in percent."""
    slabs = g.stat["slab_private"] + g.stat["slab_shared"]
    return percent(slabs, slabs + g.stat["page_runs"] + g.stat["external"])


SORTS: dict[str, Callable[[Row], float]] = {
    "current": lambda r: r.group.usage,
    "max": lambda r: r.group.max if r.group.max < PAGE_COUNTER_MAX else -1,
    "%": lambda r: percent(r.group.usage, r.group.max),
    "peak": lambda r: r.group.peak,
    "delta": lambda r: r.delta,
    "high": lambda r: r.group.events["high"],
    "oom": lambda r: r.group.events["oom"],
    "fail": lambda r: r.group.events["fail"],
    "inside": lambda r: r.group.inside,
    "slab": lambda r: in_slabs(r.group),
}


class Watch:
    """A page that is read again and again.

    Attributes
    ----------
    sort : str
        A name of `SORTS`. In a tree siblings are sorted.
    flat : bool
        Whether groups are shown by their paths in one list.
    folded : set of int
        The ids of groups whose children are hidden.
    filter : str
        Only groups whose paths have it are shown, and in a tree those above them.
    percents : bool
        Whether sizes are shown as parts of the root's usage.
    """

    def __init__(self, page: Page) -> None:
        self.page = page
        self.sort = "current"
        self.flat = False
        self.folded: set[int] = set()
        self.filter = ""
        self.percents = False
        self.depth: int | None = None
        self.groups: list[GroupFigures] = []
        self.root_usage = 0
        self._command = command_line(page.pid)
        self._history: dict[int, deque[int]] = {}
        self._delta: dict[int, float] = {}
        self._read_at: float | None = None
        for sample in page.samples().entries:
            self._history.setdefault(sample.id, deque(maxlen=KEPT)).append(sample.usage)

    def read(self, now: float | None = None) -> Header:
        """Read the page. `now` is the time in seconds, for tests."""
        now = time.monotonic() if now is None else now
        self.groups = self.page.groups()
        passed = None if self._read_at is None else max(now - self._read_at, 1e-3)
        self._read_at = now
        history = self._history
        self._history, self._delta = {}, {}
        for g in self.groups:
            kept = history.get(g.id)
            if kept is None:
                kept = deque(maxlen=KEPT)
            elif passed is not None and kept:
                self._delta[g.id] = (g.usage - kept[-1]) / passed
            kept.append(g.usage)
            self._history[g.id] = kept
        self.root_usage = next((g.usage for g in self.groups if not g.path), 0)
        return Header(
            self.page.pid, self._command, resident(self.page.pid), self.root_usage,
            sum(g.state == "online" for g in self.groups),
            sum(g.state == "dying" for g in self.groups), self.page.left_out,
            self.page.alive() is not False,
        )  # fmt: skip

    def _row(self, g: GroupFigures, depth: int, name: str, folded: int) -> Row:
        return Row(g, depth, name, folded, self._delta.get(g.id, 0.0), self._history[g.id])

    def rows(self) -> list[Row]:
        """Return what is shown, in its order."""
        key = SORTS[self.sort]
        shown = [g for g in self.groups if self.filter in (g.path or "/")] if self.filter else (
            self.groups)  # fmt: skip
        if self.flat:
            rows = [self._row(g, 0, g.path or "/", 0) for g in shown if self._is_shallow(g)]
            return sorted(rows, key=lambda r: (-key(r), r.name))
        return self._tree(shown, key)

    def _is_shallow(self, g: GroupFigures) -> bool:
        return self.depth is None or (g.path.count("/") + 1 if g.path else 0) <= self.depth

    def _tree(self, shown: list[GroupFigures], key: Callable[[Row], float]) -> list[Row]:
        paths = {g.path for g in self.groups if g.state == "online"}
        if self.filter:  # those above stay
            kept = {g.path for g in shown}
            for path in list(kept):
                while path:
                    path = path.rpartition("/")[0]
                    kept.add(path)
            shown = [g for g in self.groups if g.path in kept]
        below: dict[str, list[Row]] = {}
        top: list[Row] = []
        for g in shown:
            row = self._row(g, 0, g.path.rpartition("/")[2] or "/", 0)
            if not g.path:
                top.append(row)
                continue
            parent = g.path.rpartition("/")[0]
            below.setdefault(parent if parent in paths else "", []).append(row)
        found: list[Row] = []

        def add(row: Row, depth: int) -> None:
            row.depth = depth
            found.append(row)
            inner = below.get(row.group.path, []) if row.group.state == "online" else []
            if row.group.id in self.folded or (self.depth is not None and depth >= self.depth):
                row.folded = self._count(inner, below)
                return
            for child in sorted(inner, key=lambda r: (-key(r), r.name)):
                add(child, depth + 1)

        for row in top:
            add(row, 0)
        return found

    def _count(self, rows: list[Row], below: dict[str, list[Row]]) -> int:
        n = len(rows)
        for row in rows:
            if row.group.state == "online":
                n += self._count(below.get(row.group.path, []), below)
        return n

    # -- text

    def cells(self, row: Row) -> list[str]:
        """Return a row's columns."""
        g = row.group
        mark = f" +{row.folded}" if row.folded else ""
        dying = " (dying)" if g.state == "dying" else ""
        share = percent(g.usage, g.max)
        return [
            "  " * row.depth + row.name + dying + mark, self._size(g.usage),
            "max" if g.max >= PAGE_COUNTER_MAX else self._size(g.max),
            f"{share:.0f}" if g.max < PAGE_COUNTER_MAX else "-", self._size(g.peak),
            rate(row.delta), str(g.events["high"]), str(g.events["oom"]), str(g.events["fail"]),
            str(g.inside), f"{in_slabs(g):.0f}",
        ]  # fmt: skip

    def _size(self, n: int) -> str:
        return f"{percent(n, self.root_usage):.1f} %" if self.percents else format_size(n)


__all__ = [
    "ALIGN",
    "SORTS",
    "SPARK_WIDTH",
    "TITLES",
    "Header",
    "Row",
    "Watch",
    "header_lines",
    "spark",
]
TITLES = ("GROUP", "CURRENT", "MAX", "%", "PEAK", "Δ/s", "HIGH", "OOM", "FAIL", "INSIDE", "SLAB%")
ALIGN = "<>>>>>>>>>>"


def rate(delta: float) -> str:
    """Return bytes a second with a sign; nothing for less than one."""
    if abs(delta) < 1:
        return ""
    return ("+" if delta > 0 else "-") + format_size(int(abs(delta)))


def header_lines(h: Header, now: str) -> list[str]:
    """Return the two lines above the table."""
    if not h.alive:
        memory = f"charged at the end {format_size(h.charged)}"
    else:
        memory = f"resident {format_size(h.rss)}, charged {format_size(h.charged)}, "
        memory += f"the rest {format_size(h.rss - h.charged)}" if h.rss >= h.charged else (
            "more is charged than resident: pages that are not touched yet")  # fmt: skip
    left_out = f", {h.left_out} without room on the page" if h.left_out else ""
    state = "" if h.alive else "  (ended)"
    return [
        f"memcg top - {now}  process {h.pid}{state}  {h.command}",
        f"{memory}; groups: {h.online} online, {h.dying} dying{left_out}",
    ]
