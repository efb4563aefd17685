# SPDX-License-Identifier: Apache-2.0
"""Small pictures of usage: a bar and a line of text, and a group's tree as HTML for notebooks."""

from __future__ import annotations

from collections.abc import Collection

from .control.cgroup import cgroup, subtree
from .sizes import PAGE_COUNTER_MAX, format_size

BARS = " ▁▂▃▄▅▆▇█"
BAR_WIDTH = 20
SPARK_WIDTH = 30
ROWS = 50  # of a tree
_CELL = "text-align:{};padding:1px 10px 1px 0;white-space:nowrap;background:none"
_LEVELS = {"": "#4477aa", "high": "#ddaa33", "full": "#d03050"}


def bar(part: int, whole: int, width: int = BAR_WIDTH) -> str:
    """Return a bar of text that is full where `part` is `whole`.

    Examples
    --------
    >>> bar(30, 80, 8)
    '███░░░░░'
    """
    n = min(round(width * part / whole), width) if whole > 0 else 0
    return "█" * n + "░" * (width - n)


def spark(history: Collection[int], width: int = SPARK_WIDTH) -> str:
    """Return a line of bars: the highest reading is full, and 0 is empty.

    Examples
    --------
    >>> spark([0, 50, 100], 5)
    '   ▄█'
    """
    most = max(history, default=0)
    bars = "".join(
        BARS[-(-n * (len(BARS) - 1) // most)] if most > 0 and n > 0 else BARS[0] for n in history
    )
    return bars[-width:].rjust(width)


def tree_html(top: cgroup) -> str:
    """Return a group and those below it as a table of HTML, with a bar for each.

    A bar is full at the group's limit. A group without one is measured by the group at the top.
    """
    from html import escape

    groups = sorted(subtree(top), key=lambda g: g.path.split("/"))
    depth = top.path.count("/") + 1 if top.path else 0
    most = max(top.current, 1)
    rows = []
    for g in groups[:ROWS]:
        current, limit = g.current, g.max  # type: ignore[attr-defined]
        limited = limit < PAGE_COUNTER_MAX
        share = min(100 * current / (limit if limited else most), 100) if limit else 100
        level = "full" if current >= limit else "high" if limited and share > 87.5 else ""
        level_colour = _LEVELS[level] if limited else "#9aa1ab"
        below = (g.path.count("/") + 1 if g.path else 0) - depth
        name = escape(g.path if g is top else g.path.rpartition("/")[2]) or "/"
        events = ", ".join(f"{kind} {n}" for kind, n in g.events.items() if n)
        of = f"of {format_size(limit)}" if limited else ""
        cells = (
            ("left", f'<span style="padding-left:{1.2 * below:.1f}em">{name}</span>'),
            ("left", '<div style="width:120px;height:9px;border-radius:2px;overflow:hidden;'
                     'background:rgba(127,127,127,.25)"><div style="height:100%;'
                     f'width:{share:.1f}%;background:{level_colour}"></div></div>'),
            ("right", format_size(current)), ("left", of), ("left", events),
        )  # fmt: skip
        rows.append("<tr>" + "".join(f'<td style="{_CELL.format(a)}">{x}</td>' for a, x in cells)
                    + "</tr>")  # fmt: skip
    if len(groups) > ROWS:
        rows.append(f'<tr><td style="{_CELL.format("left")}" colspan="5">... and '
                    f"{len(groups) - ROWS} more</td></tr>")  # fmt: skip
    return f'<table style="font-size:13px;border-collapse:collapse">{"".join(rows)}</table>'
