# SPDX-License-Identifier: Apache-2.0
"""The shapes of the plots: series over time, layers, tiles, marks and their colours.

They are the same for both ways to draw. Times are in seconds since 1970, sizes in bytes.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from dataclasses import dataclass, field
from typing import Any

from memcg.sizes import format_size

LAYERS = 8  # groups that have a colour of their own; the rest is one layer
POINTS = 600  # of a series; more cannot be seen
PANELS = 12  # groups with a limit that have a plot of their own
MARKS = 400  # events that are drawn
ROWS = 14  # groups of the timeline
# Neighbours differ in brightness too, which is seen where colours are not.
COLOURS = ("#4477aa", "#ee8866", "#44aa88", "#cc6677", "#88ccee", "#ddaa33", "#aa4499", "#999933")
REST = "#9aa1ab"
KIND_COLOURS = {
    "high": "#ddaa33", "max": "#ee7733", "oom": "#d03050", "oom_kill": "#d03050",
    "reserve": "#9966cc", "overdraft": "#9966cc", "fail": "#d03050",
}  # fmt: skip
OTHERS = "other groups"


@dataclass(frozen=True)
class Mark:
    """Events of one kind at one group, near each other in time."""

    time: float
    group: str
    kind: str
    text: str


@dataclass(frozen=True)
class Layer:
    """What a group holds without those below it, at each of the plot's times."""

    name: str
    colour: str
    values: list[int]


@dataclass
class Stack:
    """The usage of all groups over time, as layers. `limit` is the root's."""

    times: list[float]
    layers: list[Layer]
    highest: list[int]
    limit: int | None
    marks: list[Mark]


@dataclass
class Panel:
    """One group's usage over time, with those below it."""

    name: str
    colour: str
    times: list[float]
    values: list[int]
    max: int | None
    high: int | None
    marks: list[Mark]


@dataclass
class Tile:
    """A rectangle of a treemap, in parts of the whole area."""

    x: float
    y: float
    width: float
    height: float
    name: str
    nbytes: int
    colour: str
    title: str
    kind: str  # group, type or object
    inner: list[Tile] = field(default_factory=list)


def name_of(path: str) -> str:
    return path or "/"


class Shapes:
    """The shapes of a process's figures."""

    def __init__(self, figures: dict[str, Any]) -> None:
        self.figures = figures
        self.now: float = figures["time"]
        self._by_id = {g["id"]: g for g in (*figures["gone"], *figures["groups"])}
        self._usage = self._series()
        self.times = self._times()
        self.start = self.times[0]
        self._own = self._own_series()
        most = {path: max(values, default=0) for path, values in self._own.items()}
        ranked = sorted((p for p in most if most[p]), key=lambda p: (-most[p], p))
        self.coloured = ranked if len(ranked) <= LAYERS else ranked[:LAYERS]
        self.colours = dict(zip(sorted(self.coloured), COLOURS, strict=False))

    def colour(self, path: str) -> str:
        return self.colours.get(path, REST)

    # -- over time

    def _series(self) -> dict[int, tuple[list[float], list[int], list[int]]]:
        """Return the times, usages and highest usages of each group that is known."""
        found: dict[int, tuple[list[float], list[int], list[int]]] = {}
        for when, id_, usage, highest in self.figures["samples"]:
            if id_ in self._by_id:
                times, usages, most = found.setdefault(id_, ([], [], []))
                times.append(when)
                usages.append(max(usage, 0))
                most.append(max(highest, usage, 0))
        for g in self.figures["groups"]:
            times, usages, most = found.setdefault(g["id"], ([], [], []))
            if g["state"] == "online":
                times.append(max(self.now, times[-1] if times else self.now))
                usages.append(g["current"])
                most.append(g["current"])
        return found

    def _times(self) -> list[float]:
        times = sorted({t for series in self._usage.values() for t in series[0]})
        first = max(self.figures["began"], 0.0)
        if not times or times[0] > first:
            times.insert(0, min(first, self.now))
        if len(times) < 2:
            times.append(times[0] + 1)
        step = -(-len(times) // POINTS)
        return times if step == 1 else [*times[:-1:step], times[-1]]

    def _held(self, id_: int, which: int = 0) -> list[int]:
        """Return a group's usage at each time of the plot: the sample that was the last then."""
        times, *both = self._usage.get(id_, ([], [], []))
        g = self._by_id[id_]
        values = []
        for t in self.times:
            at = bisect_right(times, t)
            gone = g["closed"] is not None and t >= g["closed"]
            values.append(0 if gone or not at else both[which][at - 1])
        return values

    def _own_series(self) -> dict[str, list[int]]:
        """Return what each path held without those below it. A path may have had several groups."""
        usage: dict[str, list[int]] = {}
        for id_, g in self._by_id.items():
            held = self._held(id_)
            before = usage.get(g["path"])
            usage[g["path"]] = held if before is None else [
                a + b for a, b in zip(before, held, strict=True)]  # fmt: skip
        own = {path: list(values) for path, values in usage.items()}
        for path, values in usage.items():
            parent = path.rpartition("/")[0]
            if path and parent in own:
                own[parent] = [a - b for a, b in zip(own[parent], values, strict=True)]
        return {path: [max(n, 0) for n in values] for path, values in own.items()}

    def stack(self) -> Stack:
        """Return the usage of all groups; their layers add up to the root's usage."""
        layers = [Layer(name_of(path), self.colour(path), self._own[path])
                  for path in sorted(self.coloured)]  # fmt: skip
        rest = [path for path in self._own if path not in self.coloured]
        if any(max(self._own[path], default=0) for path in rest):
            sums = [sum(column) for column in zip(*(self._own[p] for p in rest), strict=True)]
            layers.append(Layer(OTHERS, REST, sums))
        root = next((g for g in self.figures["groups"] if not g["path"]), None)
        highest = self._held(root["id"], 1) if root else [0] * len(self.times)
        return Stack(self.times, layers, highest, root["max"] if root else None, self.marks())

    def panels(self) -> list[Panel]:
        """Return the groups that have a limit or had an event, the fullest first."""
        events = {e["group"] for e in self.figures["events"]}
        limited = [g for g in self.figures["groups"] if g["state"] == "online" and (
            g["max"] is not None or g["path"] in events)]  # fmt: skip
        limited.sort(key=lambda g: (-g["peak"] / (g["max"] or g["peak"] or 1), g["path"]))
        return [
            Panel(name_of(g["path"]), self.colour(g["path"]), self.times, self._held(g["id"]),
                  g["max"], g["high"], self.marks(g["path"]))
            for g in limited[:PANELS]
        ]  # fmt: skip

    def marks(self, path: str | None = None) -> list[Mark]:
        """Return the events of a group, or of all. Those of one kind that are near are one mark."""
        span = max(self.times[-1] - self.start, 1e-3)
        found: dict[tuple[str, str, int], list[dict[str, Any]]] = {}
        for e in self.figures["events"]:
            if path is None or e["group"] == path:
                cell = int((e["time"] - self.start) / span * 150)
                found.setdefault((e["group"], e["kind"], cell), []).append(e)
        marks = []
        for (group, kind, _), events in found.items():
            last = events[-1]
            text = f"{clock(last['time'])} {kind} at {name_of(group)}: asked "
            text += f"{format_size(last['bytes'])}, usage {format_size(last['usage'])}"
            if last["max"] < 2**63 - 1:
                text += f" of {format_size(last['max'])}"
            text += f"; {last['total']} in all"
            when = min(max(last["time"], self.start), self.times[-1])
            marks.append(Mark(when, name_of(group), kind, text))
        return sorted(marks, key=lambda m: m.time)[-MARKS:]

    def timeline(self) -> tuple[list[str], list[Mark]]:
        """Return the groups that had events, those with the most first, and the events."""
        marks = self.marks()
        counts: dict[str, int] = {}
        for mark in marks:
            counts[mark.group] = counts.get(mark.group, 0) + 1
        rows = sorted(counts, key=lambda name: (-counts[name], name))[:ROWS]
        return rows, [mark for mark in marks if mark.group in rows]

    # -- what holds memory now

    def tiles(self) -> list[Tile]:
        """Return the treemap: groups, in them types, and in them the biggest objects."""
        own, held = self.figures["own"], self.figures["held"] or {}
        groups = [(name_of(path), own[path], path) for path in own if own[path]]
        found = []
        for x, y, w, h, (name, n, path) in squarify(groups):
            tile = Tile(
                x, y, w, h, name, n, self.colour(path), f"{name}: {format_size(n)}", "group"
            )
            if path in held:
                tile.inner = self._types(path, held[path], n)
            found.append(tile)
        return found

    def _types(self, path: str, held: dict[str, Any], nbytes: int) -> list[Tile]:
        kinds = [(k["kind"], k["nbytes"], k) for k in held["kinds"] if k["nbytes"]]
        if held["rest"]:
            kinds.append(("other types", held["rest"], None))
        rest = nbytes - sum(n for _, n, _ in kinds)
        if rest > nbytes // 100:  # free places in slabs, and what threads keep ahead
            kinds.append(("free in slabs", rest, None))
        found = []
        for x, y, w, h, (name, n, kind) in squarify(kinds):
            many = f"{kind['objects']:,} x " if kind else ""
            title = f"{name_of(path)}: {many}{name}, {format_size(n)}"
            tile = Tile(x, y, w, h, name, n, self.colour(path), title, "type")
            objects = [(b["text"], b["nbytes"], b) for b in held["objects"]
                       if b["kind"] == name and b["nbytes"] <= n]  # fmt: skip
            if objects and kind and kind["objects"] > 1:
                tile.inner = self._objects(path, objects, n)
            elif objects:
                tile.title = f"{name_of(path)}: {objects[0][0]}"
            found.append(tile)
        return found

    def _objects(self, path: str, objects: list[Any], nbytes: int) -> list[Tile]:
        rest = nbytes - sum(n for _, n, _ in objects)
        if rest > 0:
            objects = [*objects, ("all others", rest, None)]
        return [
            Tile(x, y, w, h, name, n, self.colour(path), f"{name_of(path)}: {name}", "object")
            for x, y, w, h, (name, n, _) in squarify(objects)
        ]


def squarify(items: list[Any], shape: float = 1.8) -> list[tuple[float, float, float, float, Any]]:
    """Place rectangles whose areas are as the items' second fields, as square as they can be.

    `shape` is the width of the area over its height, as the reader sees it; what is returned is in
    parts of both. The algorithm is that of Bruls, Huizing and van Wijk, Squarified Treemaps (2000).

    Examples
    --------
    >>> [(round(w, 2), round(h, 2)) for x, y, w, h, item in squarify([("a", 3), ("b", 1)])]
    [(0.75, 1.0), (0.25, 1.0)]
    """
    left = sorted((item for item in items if item[1] > 0), key=lambda item: -item[1])
    scale = shape / (sum(item[1] for item in left) or 1)
    x, y, width, height = 0.0, 0.0, shape, 1.0
    found = []
    while left:
        side = min(width, height)  # a row lies along the shorter side
        row, best = 1, _worst(left[:1], scale, side)
        while row < len(left) and (now := _worst(left[: row + 1], scale, side)) <= best:
            row, best = row + 1, now
        thick = sum(item[1] for item in left[:row]) * scale / side
        at = 0.0
        for item in left[:row]:
            length = item[1] * scale / thick
            if width >= height:
                found.append((x / shape, y + at, thick / shape, length, item))
            else:
                found.append(((x + at) / shape, y, length / shape, thick, item))
            at += length
        if width >= height:
            x, width = x + thick, width - thick
        else:
            y, height = y + thick, height - thick
        left = left[row:]
    return found


def _worst(row: list[Any], scale: float, side: float) -> float:
    """Return how far from a square the worst rectangle of a row is; 1 is a square."""
    areas = [item[1] * scale for item in row]
    thick = sum(areas) / side
    ratios = [thick**2 / area for area in (min(areas), max(areas))]
    return float(max(*ratios, *(1 / ratio for ratio in ratios)))


def is_light(colour: str) -> bool:
    """Tell whether black is easier to read on a colour than white.

    Examples
    --------
    >>> is_light("#88ccee"), is_light("#aa4499")
    (True, False)
    """
    red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return bool(0.2126 * red**2.2 + 0.7152 * green**2.2 + 0.0722 * blue**2.2 > 0.35)


def clock(when: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(when))


def unit(most: float) -> tuple[str, int]:
    """Return a unit in which a size has few digits.

    Examples
    --------
    >>> unit(3 << 20), unit(700)
    (('MiB', 1048576), ('B', 1))
    """
    for name, n in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if most >= n:
            return name, n
    return "B", 1


def ticks(most: float) -> list[float]:
    """Return two to six round numbers from 0 up to `most`.

    Examples
    --------
    >>> ticks(87), ticks(0.4)
    ([0, 20, 40, 60, 80], [0.0, 0.1, 0.2, 0.3, 0.4])
    """
    if most <= 0:
        return [0]
    power = 1.0
    while power > most:
        power /= 10
    while power * 10 <= most:
        power *= 10
    step = next(s for s in (power / 5, power / 2, power, power * 2, power * 5) if most / s <= 5)
    step = int(step) if step >= 1 else round(step, 9)
    return [round(step * i, 9) for i in range(int(most / step + 1e-9) + 1)]
