# SPDX-License-Identifier: Apache-2.0
"""A page on Dask's dashboard, ``/memcg``: what each worker's tasks use, by prefix, and the shares.

It needs bokeh, as the dashboard does. Without bokeh, or without a dashboard, there is no page.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..sizes import PAGE_COUNTER_MAX, format_size

if TYPE_CHECKING:
    from distributed import Scheduler

PAGES = ("/memcg", "/individual-memcg")
INTERVAL_MS = 500
MOST_BARS = 60  # the largest are shown


def add(scheduler: Scheduler) -> bool:
    """Put the page on the scheduler's dashboard, and tell whether there is one."""
    application = getattr(scheduler, "http_application", None)
    try:
        from distributed.dashboard.core import BokehApplication
        from distributed.dashboard.scheduler import template_variables
    except ImportError:  # bokeh is not installed, or too old
        return False
    if application is None or not scheduler.services.get("dashboard"):
        return False
    variables = template_variables(scheduler)
    if "memcg" not in variables["pages"]:
        variables["pages"].insert(-1, "memcg")
        variables["plots"].append({"url": "individual-memcg", "name": "Memory groups"})
    app = BokehApplication(
        dict.fromkeys(PAGES, document), scheduler, prefix=_prefix(), template_variables=variables
    )
    application.add_application(app)
    from tornado.ioloop import IOLoop

    app.initialize(IOLoop.current())
    app.start()
    return True


def _prefix() -> str:
    import dask

    return dask.config.get("distributed.scheduler.http.prefix", None) or ""


def document(scheduler: Scheduler, extra: dict[str, Any], doc: Any) -> None:
    """Fill one document, that of a browser which has opened the page. Dask's dashboard calls it."""
    from distributed.dashboard.components.scheduler import env

    panel = Panel(scheduler)
    panel.update()
    doc.title = "Dask: Memory groups"
    doc.add_periodic_callback(panel.update, INTERVAL_MS)
    doc.add_root(panel.root)
    doc.template = env.get_template("simple.html")
    doc.template_variables.update(extra)


class Panel:
    """Two figures: a bar for each prefix of each worker, and one for each worker's share."""

    def __init__(self, scheduler: Scheduler) -> None:
        from bokeh.layouts import column
        from bokeh.models import ColumnDataSource

        self.scheduler = scheduler
        self.groups = ColumnDataSource(dict.fromkeys(_GROUPS, ()))
        self.shares = ColumnDataSource(dict.fromkeys(_SHARES, ()))
        groups = _figure("What tasks use, by worker and prefix", self.groups, [
            ("stored", "results", "#88bb88"), ("running", "running tasks", "#4477aa")])  # fmt: skip
        groups.scatter("peak", "name", source=self.groups, marker="dash", angle=1.5708, size=14,
                       color="#aa3333", line_width=2, legend_label="peak")  # fmt: skip
        shares = _figure("Shares of limits over all workers", self.shares, [
            ("used", "used", "#4477aa"), ("idle", "not used", "#ccddee"),
            ("free", "not given out", "#eeeeee")])  # fmt: skip
        self.figures = groups, shares
        self.root = column(groups, shares, sizing_mode="stretch_width", name="memcg")

    def update(self) -> None:
        extension = self.scheduler.extensions["memcg"]
        for source, figure, found, names in (
            (self.groups, self.figures[0], group_bars(self.scheduler, extension), _GROUPS),
            (self.shares, self.figures[1], share_bars(self.scheduler, extension), _SHARES),
        ):
            figure.height = 120 + 22 * len(found)
            figure.y_range.factors = [bar["name"] for bar in found][::-1]
            source.data = {name: [bar[name] for bar in found] for name in names}


_GROUPS = ("name", "running", "stored", "peak", "text")
_SHARES = ("name", "used", "idle", "free", "text")


def _figure(title: str, source: Any, parts: list[tuple[str, str, str]]) -> Any:
    from bokeh.models import AdaptiveTicker, DataRange1d, HoverTool, NumeralTickFormatter
    from bokeh.plotting import figure

    made = figure(title=title, y_range=[], height=120, sizing_mode="stretch_width",
                  tools="", toolbar_location=None)  # fmt: skip
    made.x_range = DataRange1d(start=0)
    made.hbar_stack(
        [name for name, _, _ in parts], y="name", height=0.8, source=source,
        color=[colour for _, _, colour in parts], legend_label=[text for _, text, _ in parts],
    )  # fmt: skip
    made.add_tools(HoverTool(tooltips=[("", "@name"), ("", "@text")]))
    made.xaxis.ticker = AdaptiveTicker(mantissas=[1, 256, 512], base=1024)
    made.xaxis.formatter = NumeralTickFormatter(format="0.0 ib")
    made.legend.location = "bottom_right"
    made.legend.orientation = "horizontal"
    return made


def group_bars(scheduler: Scheduler, extension: Any) -> list[dict[str, Any]]:
    """Return a bar for each prefix of each worker, the largest first."""
    bars = []
    for address, account in extension.accounts.items():
        worker = scheduler.workers.get(address)
        for prefix, figures in account["prefixes"].items():
            limit = figures["task_limit"]
            events = ", ".join(f"{name} {n}" for name, n in sorted(figures["events"].items()))
            bars.append({
                "name": f"{worker.name if worker is not None else address}: {prefix}",
                "running": max(figures["current"] - figures["stored"], 0),
                "stored": figures["stored"],
                "peak": figures["peak"],
                "text": f"{format_size(figures['current'])}, peak {format_size(figures['peak'])}, "
                + (f"limit of a task {format_size(limit)}" if limit < PAGE_COUNTER_MAX else
                   "no limit") + (f"; {events}" if events else ""),
            })  # fmt: skip
    bars.sort(key=lambda bar: (-bar["peak"], bar["name"]))
    return bars[:MOST_BARS]


def share_bars(scheduler: Scheduler, extension: Any) -> list[dict[str, Any]]:
    """Return a bar for each limit, then one for each worker's share of it."""
    bars = []
    for path, ledger in extension.ledgers.items():
        used = sum(min(a.used, a.out) for a in ledger.accounts.values())
        bars.append({"name": path, "used": used, "idle": ledger.out - used, "free": ledger.free,
                     "text": f"{format_size(ledger.out)} of {format_size(ledger.limit)} given out, "
                     f"{ledger.refused} asks refused"})  # fmt: skip
        for address, account in list(ledger.accounts.items())[:MOST_BARS]:
            worker = scheduler.workers.get(address)
            used = min(account.used, account.out)
            bars.append({"name": f"{path} on {worker.name if worker is not None else address}",
                         "used": used, "idle": account.out - used, "free": 0,
                         "text": f"{format_size(used)} of {format_size(account.out)}"})  # fmt: skip
    return bars
