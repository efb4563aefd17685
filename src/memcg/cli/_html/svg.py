# SPDX-License-Identifier: Apache-2.0
"""Plots over time as SVG without a script. The texts beside them are HTML, so they keep their size.

The drawing is stretched to the width that there is; lines keep their width.
"""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from memcg.sizes import format_size

from .shapes import KIND_COLOURS, clock, ticks, unit

if TYPE_CHECKING:
    from .flame import Box
    from .shapes import Mark, Panel, Shapes

HEAD = ""  # what the page's head needs for them
SCRIPTS = False
X_LABELS = 4
ROW_PX = 20  # of a flame graph; style.py has it too


def stack(shapes: Shapes) -> str:
    """Return the layers of all groups' usage, with the root's limit and the events."""
    data = shapes.stack()
    most = max([sum(c) for c in zip(*(x.values for x in data.layers), strict=True)] or [0])
    most = max([most, *data.highest])
    top = _top(most, data.limit)
    parts, below = [], [0] * len(data.times)
    for layer in data.layers:
        above = [a + b for a, b in zip(below, layer.values, strict=True)]
        points = [*_points(data.times, above, top), *reversed(_points(data.times, below, top))]
        parts.append(
            f'<polygon fill="{layer.colour}" points="{" ".join(points)}">'
            f"<title>{escape(layer.name)}</title></polygon>"
        )
        below = above
    parts.append(_line(data.times, data.highest, top, "highest"))
    if data.limit is not None and data.limit <= top:
        parts.append(_across(data.limit, top))
    return _plot("stack", parts, data.times, top, data.marks)


def panel(shapes: Shapes, of: Panel) -> str:
    """Return one group's usage with its limit and its events."""
    top = _top(max(of.values), of.max)
    points = [_point(of.times, of.times[0], 0, top), *_points(of.times, of.values, top),
              _point(of.times, of.times[-1], 0, top)]  # fmt: skip
    parts = [f'<polygon fill="{of.colour}" points="{" ".join(points)}"></polygon>']
    if of.max is not None and of.max <= top:
        parts.append(_across(of.max, top))
    return _plot("panel", parts, of.times, top, of.marks, labels=2)


def timeline(shapes: Shapes) -> str:
    """Return the events of each group as dots on a line of its own."""
    rows, marks = shapes.timeline()
    times = shapes.times
    lines = []
    for name in rows:
        dots = "".join(_dot(times, mark) for mark in marks if mark.group == name)
        lines.append(
            f'<div class="row"><span class="name" title="{escape(name)}">{escape(name)}</span>'
            f'<div class="dots">{dots}</div></div>'
        )
    axis = f'<div class="row"><span></span><div class="dots axis">{_x_labels(times)}</div></div>'
    return f'<div class="timeline" data-plot="timeline">{"".join(lines)}{axis}</div>'


def flame(made: list[Box]) -> str:
    """Return a flame graph. Its boxes are HTML, so their texts keep their size and are cut."""
    parts = "".join(
        f'<div style="left:{100 * b.x:.3f}%;width:{100 * b.width:.3f}%;top:{ROW_PX * b.row}px;'
        f'background:{b.colour}" title="{escape(b.title)}">{escape(b.name)}</div>'
        for b in made
    )
    height = ROW_PX * (1 + max(b.row for b in made))
    return f'<div class="flame" data-plot="flame" style="height:{height}px">{parts}</div>'


def finish(html: str) -> str:
    """Return the part of the page that has all plots, once they are made."""
    return html


def _top(most: int, limit: int | None) -> int:
    """Return the highest size of a plot: a limit that is far above does not make the rest flat."""
    if limit is not None and limit <= 3 * max(most, 1):
        most = max(most, limit)
    return int(most * 1.06) or 1


def _point(times: list[float], t: float, n: float, top: int) -> str:
    x = 1000 * (t - times[0]) / (times[-1] - times[0])
    return f"{x:.1f},{1000 - 1000 * n / top:.1f}"


def _points(times: list[float], values: list[int], top: int) -> list[str]:
    return [_point(times, t, n, top) for t, n in zip(times, values, strict=True)]


def _line(times: list[float], values: list[int], top: int, kind: str) -> str:
    return f'<polyline class="{kind}" points="{" ".join(_points(times, values, top))}"></polyline>'


def _across(n: int, top: int) -> str:
    y = 1000 - 1000 * n / top
    return (f'<line class="limit" x1="0" x2="1000" y1="{y:.1f}" y2="{y:.1f}">'
            f"<title>memory.max {format_size(n)}</title></line>")  # fmt: skip


def _dot(times: list[float], mark: Mark) -> str:
    x = 100 * (mark.time - times[0]) / (times[-1] - times[0])
    return (f'<i style="left:{x:.2f}%;background:{KIND_COLOURS[mark.kind]}" '
            f'title="{escape(mark.text)}"></i>')  # fmt: skip


def _x_labels(times: list[float], n: int = X_LABELS) -> str:
    span = times[-1] - times[0]
    texts = []
    for i in range(n):
        part = i / (n - 1)
        edge = " first" if i == 0 else " last" if i == n - 1 else ""
        texts.append(f'<span class="x{edge}" style="left:{100 * part:.1f}%">'
                     f"{clock(times[0] + part * span)}</span>")  # fmt: skip
    return "".join(texts)


def _plot(
    name: str, parts: list[str], times: list[float], top: int, marks: list[Mark],
    labels: int = X_LABELS,
) -> str:  # fmt: skip
    what, size = unit(top)
    grid, texts = [], []
    for n in ticks(top / size):
        y = 1000 - 1000 * n * size / top
        grid.append(f'<line class="grid" x1="0" x2="1000" y1="{y:.1f}" y2="{y:.1f}"></line>')
        label = f"{n:g} {what}" if n else "0"
        texts.append(f'<span class="y" style="top:{y / 10:.1f}%">{label}</span>')
    svg = (f'<svg viewBox="0 0 1000 1000" preserveAspectRatio="none">'
           f"{''.join(grid)}{''.join(parts)}</svg>")  # fmt: skip
    dots = "".join(_dot(times, mark) for mark in marks)
    return (
        f'<div class="plot {name}" data-plot="{name}"><div class="area">{svg}'
        f'<div class="dots">{dots}</div>{"".join(texts)}{_x_labels(times, labels)}</div></div>'
    )
