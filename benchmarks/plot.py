# SPDX-License-Identifier: Apache-2.0
"""Draw a question's ratios beside their targets, as an SVG for light and dark backgrounds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Any

STYLE = """text { font: 12px system-ui, sans-serif; fill: #333 } .grid { stroke: #ddd }
.one { stroke: #888 } .met { stroke: #2a7d4f; fill: #2a7d4f }
.missed { stroke: #b3442e; fill: #b3442e }
@media (prefers-color-scheme: dark) { text { fill: #ccc } .grid { stroke: #444 }
.one { stroke: #999 } .met { stroke: #5cc98c; fill: #5cc98c }
.missed { stroke: #f08a70; fill: #f08a70 } }"""
LEFT, RIGHT, STEP = 330, 720, 20


def svg(title: str, rows: Sequence[dict[str, Any]]) -> str:
    """Ratio / target on a logarithmic axis. Left of the line is better than the target."""
    shown = [r for r in rows if r["met"] is not None and r["target"] and r["low"] > 0]
    if not shown:
        return ""

    def past(r: dict[str, Any], value: float) -> float:
        return r["target"] / value if r["at_least"] else value / r["target"]

    ends = [past(r, r[k]) for r in shown for k in ("low", "high")]
    low, high = math.log2(min([*ends, 0.5])), math.log2(max([*ends, 2]))

    def x(value: float) -> float:
        return LEFT + (math.log2(value) - low) / (high - low) * (RIGHT - LEFT)

    height = 50 + STEP * len(shown)
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {RIGHT + 30} {height}">',
             f"<style>{STYLE}</style>",
             f'<text x="10" y="16">{escape(title)}</text>']  # fmt: skip
    every = max(1, math.ceil((high - low) / 8))
    for power in range(math.ceil(low), math.floor(high) + 1):
        if power % every == 0:
            at, kind = x(2.0**power), "one" if power == 0 else "grid"
            parts.append(f'<line class="{kind}" x1="{at:.1f}" x2="{at:.1f}" y1="26" '
                         f'y2="{height - 18}"/><text x="{at:.1f}" y="{height - 4}" '
                         f'text-anchor="middle">{2.0**power:g}</text>')  # fmt: skip
    for i, r in enumerate(shown):
        y = 38 + STEP * i
        kind = "met" if r["met"] else "missed"
        a, b, c = (x(past(r, r[k])) for k in ("low", "ratio", "high"))
        parts.append(f'<text x="{LEFT - 10}" y="{y + 4}" text-anchor="end">'
                     f'{escape(r["work"])} / {escape(r["against"])}</text>'
                     f'<line class="{kind}" x1="{a:.1f}" x2="{c:.1f}" y1="{y}" y2="{y}"/>'
                     f'<circle class="{kind}" cx="{b:.1f}" cy="{y}" r="4"/>')  # fmt: skip
    return "\n".join([*parts, "</svg>\n"])
