# SPDX-License-Identifier: Apache-2.0
"""The boxes of a flame graph: what lives, by group and call stack, the outermost call on top.

A box is as wide as what its call stack, and those that go on from it, have allocated and not freed.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import Any

from memcg.sites import Frame, from_dict
from memcg.sizes import format_size

LEAST = 0.001  # of the whole width; narrower boxes are left out
DEPTH_MOST = 60  # rows; the innermost calls of a deeper stack are not drawn
COLOURS = ("#f4a259", "#e8875b", "#f2b950", "#dd7a6b", "#eda15f", "#e6a93f", "#d98e73")
SUMS = ("#8d99ae", "#a3adbf")  # what is no call: all, and groups


@dataclass(frozen=True)
class Box:
    """A rectangle, in parts of the whole width, and in rows from the top."""

    x: float
    width: float
    row: int
    name: str
    nbytes: int
    colour: str
    title: str


@dataclass
class _Node:
    name: str
    place: str
    colour: str
    nbytes: int = 0
    inner: dict[object, _Node] = field(default_factory=dict)

    def into(self, key: object, name: str, place: str, colour: str) -> _Node:
        if key not in self.inner:
            self.inner[key] = _Node(name, place, colour)
        return self.inner[key]


def _colour(frame: Frame) -> str:
    return COLOURS[zlib.crc32(f"{frame.file} {frame.function}".encode()) % len(COLOURS)]


def _tree(found: dict[str, Any]) -> _Node:
    top = _Node("all", "what was sampled", SUMS[0])
    for site in from_dict(found).sites:
        group = site.group or "/"
        node = top.into(("group", group), group, "group", SUMS[1])
        top.nbytes += site.nbytes
        node.nbytes += site.nbytes
        for frame in site.stack[: DEPTH_MOST - 2]:
            where = f"{frame.file}:{frame.line}" if frame.line else frame.file
            node = node.into(frame[:3], frame.function, where, _colour(frame))
            node.nbytes += site.nbytes
    return top


def boxes(found: dict[str, Any] | None) -> list[Box]:
    """Return the boxes for `Sites.as_dict`; none if nothing was sampled."""
    if not found or not found["nbytes"]:
        return []
    made: list[Box] = []
    top = _tree(found)
    whole = top.nbytes or 1
    waiting = [(top, 0.0, 0)]
    while waiting:
        node, x, row = waiting.pop()
        share = node.nbytes / whole
        if share < LEAST:
            continue
        title = f"{node.name}, {format_size(node.nbytes)} ({100 * share:.1f} %), {node.place}"
        made.append(Box(x, share, row, node.name, node.nbytes, node.colour, title))
        for inner in sorted(node.inner.values(), key=lambda n: (-n.nbytes, n.name)):
            waiting.append((inner, x, row + 1))
            x += inner.nbytes / whole
    return sorted(made, key=lambda box: (box.row, box.x))
