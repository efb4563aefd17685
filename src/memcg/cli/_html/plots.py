# SPDX-License-Identifier: Apache-2.0
"""Plots over time by bokeh, which writes its own script into the page. Needs ``memcg[html]``."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from bokeh.embed import components
from bokeh.models import (
    ColumnDataSource,
    CrosshairTool,
    DatetimeTickFormatter,
    FactorRange,
    HoverTool,
    NoOverlap,
    Range1d,
    Span,
)
from bokeh.plotting import figure
from bokeh.resources import Resources

from memcg.sizes import format_size

from .shapes import KIND_COLOURS, clock, unit

if TYPE_CHECKING:
    from .flame import Box
    from .shapes import Mark, Panel, Shapes

SCRIPTS = True
TEXT, GRID = "#59636e", "#d8dee4"
# The page's colours follow the reader's scheme, and the script of a plot knows only its own.
PAINT = """
(() => {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const paint = () => {
    const text = dark.matches ? "#9aa4af" : "#59636e", grid = dark.matches ? "#30363d" : "#d8dee4";
    for (const doc of Bokeh.documents) for (const root of doc.roots())
      for (const model of root.references()) {
        if (model.type.endsWith("Axis"))
          model.setv({major_label_text_color: text, axis_label_text_color: text,
                      axis_line_color: grid, major_tick_line_color: grid});
        else if (model.type === "Grid") model.setv({grid_line_color: grid});
        else if (model.name === "limit")
          model.setv({line_color: dark.matches ? "#ff7b72" : "#b3261e"});
      }
  };
  dark.addEventListener("change", paint);
  const wait = () => {
    if (Bokeh.documents.length) { paint(); document.body.dataset.drawn = "yes"; }
    else setTimeout(wait, 10);
  };
  wait();
})();
"""

_made: list[Any] = []


def _script(text: str) -> str:
    return f'<script type="text/javascript">{text}</script>'


def _head() -> str:
    own = Resources(mode="inline", components=["bokeh"])
    return "".join(_script(text) for text in own.js_raw)


HEAD = _head()


def _place(plot: Any, name: str) -> str:
    """Return the place of a plot. `finish` puts the plot there."""
    _made.append(plot)
    return f'<div class="{name}" data-plot="{name}">\0{len(_made) - 1}\0</div>'


def finish(html: str) -> str:
    """Return the page's part with all plots, and the script that draws them."""
    if not _made:
        return html
    script: str
    script, places = components(tuple(_made))
    _made.clear()
    for i, place in enumerate(places):
        html = html.replace(f"\0{i}\0", place)
    return html + script + _script(PAINT)


def _x(times: list[float]) -> list[float]:
    """Return times as bokeh shows them: it knows no time zone."""
    return [(t + time.localtime(t).tm_gmtoff) * 1000 for t in times]


def _plot(times: list[float], height: int, **more: Any) -> Any:
    x = _x([times[0], times[-1]])
    plot = figure(
        height=height, sizing_mode="stretch_width", x_range=tuple(x), background_fill_alpha=0,
        border_fill_alpha=0, outline_line_color=None, toolbar_location=None,
        tools="xpan,xwheel_zoom,xbox_zoom,reset", active_scroll=None, **more,
    )  # fmt: skip
    plot.xaxis.formatter = DatetimeTickFormatter(
        milliseconds="%H:%M:%S.%3N", seconds="%H:%M:%S", minsec="%H:%M:%S", minutes="%H:%M",
        hourmin="%H:%M", hours="%H:%M", days="%m-%d",
    )  # fmt: skip
    for axis in (*plot.xaxis, *plot.yaxis):
        axis.major_label_text_color = axis.axis_label_text_color = TEXT
        axis.axis_line_color = axis.major_tick_line_color = GRID
        axis.minor_tick_line_color = None
        axis.axis_label_text_font_style = "normal"
        axis.major_label_text_font_size = axis.axis_label_text_font_size = "12px"
    # A page may be narrow, and the number of labels does not depend on its width.
    plot.xaxis.major_label_policy = NoOverlap(min_distance=8)
    plot.grid.grid_line_color = GRID
    plot.xgrid.grid_line_color = None
    plot.min_border_right = 24
    return plot


def _mark(plot: Any, marks: list[Mark], y: list[Any]) -> None:
    source = ColumnDataSource({
        "x": _x([m.time for m in marks]), "y": y, "colour": [KIND_COLOURS[m.kind] for m in marks],
        "text": [m.text for m in marks],
    })  # fmt: skip
    dots = plot.scatter("x", "y", source=source, size=8, fill_color="colour", line_color="white",
                        line_width=0.5)  # fmt: skip
    plot.add_tools(HoverTool(renderers=[dots], tooltips=[("", "@text")], description="events"))


def _limit(plot: Any, n: int | None, most: float, size: int) -> float:
    """Draw a limit, and return how high the plot is."""
    if n is not None and n / size <= 3 * most:
        plot.add_layout(Span(location=n / size, dimension="width", line_dash="dashed",
                             line_color="#b3261e", line_width=1.5, name="limit"))  # fmt: skip
        most = max(most, n / size)
    return most * 1.06


def stack(shapes: Shapes) -> str:
    """Return the layers of all groups' usage, with the root's limit and the events."""
    data = shapes.stack()
    totals = [sum(c) for c in zip(*(x.values for x in data.layers), strict=True)] or data.highest
    what, size = unit(max([1, *totals, *data.highest]))
    plot = _plot(data.times, 320, y_axis_label=what)
    x = _x(data.times)
    columns: dict[str, list[Any]] = {
        "x": x, "highest": [n / size for n in data.highest], "when": [clock(t) for t in data.times],
        "total": [format_size(n) for n in totals],
    }  # fmt: skip
    names = [f"layer{i}" for i in range(len(data.layers))]
    for name, layer in zip(names, data.layers, strict=True):
        columns[name] = [n / size for n in layer.values]
        columns[f"{name}_text"] = [format_size(n) for n in layer.values]
    source = ColumnDataSource(columns)
    plot.varea_stack(names, x="x", color=[x.colour for x in data.layers], source=source)
    line = plot.line("x", "highest", source=source, line_color="#8b949e", line_width=1)
    tips = [("", "@when"), ("all", "@total")]
    tips += [
        (x.name, f"@{n}_text") for n, x in reversed(list(zip(names, data.layers, strict=True)))
    ]
    plot.add_tools(
        HoverTool(renderers=[line], tooltips=tips, mode="vline", description="usage"),
        CrosshairTool(dimensions="height", line_color="#8b949e"),
    )
    top = _limit(plot, data.limit, max([*totals, *data.highest]) / size, size)
    plot.y_range.start, plot.y_range.end = 0, top or 1
    _mark(plot, data.marks, [top * 0.97] * len(data.marks))
    return _place(plot, "stack")


def flame(made: list[Box]) -> str:
    """Return a flame graph that can be zoomed along its width."""
    rows = 1 + max(b.row for b in made)
    plot = figure(
        height=20 * rows + 30, sizing_mode="stretch_width", x_range=Range1d(0, 1, bounds=(0, 1)),
        y_range=(rows, 0), background_fill_alpha=0, border_fill_alpha=0, outline_line_color=None,
        toolbar_location=None, tools="xpan,xwheel_zoom,xbox_zoom,reset", active_scroll=None,
        min_border=0,
    )  # fmt: skip
    plot.axis.visible = plot.grid.visible = False
    source = ColumnDataSource({
        "left": [b.x for b in made], "right": [b.x + b.width for b in made],
        "top": [b.row for b in made], "bottom": [b.row + 0.95 for b in made],
        "colour": [b.colour for b in made], "title": [b.title for b in made],
        "name": [_cut(b) for b in made], "middle": [b.row + 0.48 for b in made],
    })  # fmt: skip
    drawn = plot.quad("left", "right", "top", "bottom", source=source, fill_color="colour",
                      line_color="white", line_width=0.5)  # fmt: skip
    plot.text("left", "middle", text="name", source=source, x_offset=4, text_baseline="middle",
              text_font_size="12px", text_color="#1f2328")  # fmt: skip
    plot.add_tools(HoverTool(renderers=[drawn], tooltips=[("", "@title")]))
    return _place(plot, "flame")


def _cut(box: Box) -> str:
    """Return as much of a box's name as fits into it at the width of most screens."""
    letters = int(box.width * 1100 / 7) - 1
    if letters < 3:
        return ""
    return box.name if len(box.name) <= letters else f"{box.name[: letters - 1]}\u2026"


def panel(shapes: Shapes, of: Panel) -> str:
    """Return one group's usage with its limit and its events."""
    what, size = unit(max([1, *of.values]))
    plot = _plot(of.times, 160, y_axis_label=what)
    values = [n / size for n in of.values]
    source = ColumnDataSource({
        "x": _x(of.times), "y": values, "when": [clock(t) for t in of.times],
        "text": [format_size(n) for n in of.values],
    })  # fmt: skip
    plot.varea("x", y1=0, y2="y", source=source, color=of.colour, alpha=0.75)
    line = plot.line("x", "y", source=source, line_color=of.colour, line_width=1.5)
    plot.add_tools(HoverTool(renderers=[line], tooltips=[("@when", "@text")], mode="vline"))
    top = _limit(plot, of.max, max(values), size)
    plot.y_range.start, plot.y_range.end = 0, top or 1
    plot.yaxis.ticker.desired_num_ticks = 3
    plot.xaxis.ticker.desired_num_ticks = 3
    _mark(plot, of.marks, [top * 0.93] * len(of.marks))
    return _place(plot, "panel")


def timeline(shapes: Shapes) -> str:
    """Return the events of each group as dots on a line of its own."""
    rows, marks = shapes.timeline()
    plot = _plot(shapes.times, 70 + 26 * len(rows), y_range=FactorRange(*reversed(rows)))
    plot.ygrid.grid_line_color = GRID
    _mark(plot, marks, [mark.group for mark in marks])
    return _place(plot, "timeline")
