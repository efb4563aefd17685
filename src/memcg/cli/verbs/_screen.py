# SPDX-License-Identifier: Apache-2.0
"""The screen of ``memcg top``. Only the lines that are seen are rendered."""

from __future__ import annotations

import time
from typing import Any, ClassVar

from rich.segment import Segment
from rich.style import Style
from textual import events, work
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.message import Message
from textual.screen import ModalScreen
from textual.scroll_view import ScrollView
from textual.strip import Strip
from textual.widgets import Footer, Input, Static

from memcg import pages
from memcg.sizes import format_size

from ._client import Client, Refused
from ._commands import level
from ._watch import ALIGN, SORTS, SPARK_WIDTH, TITLES, Row, Watch, header_lines, spark

PLAIN = Style()
STYLES = {"red": Style(color="red"), "yellow": Style(color="yellow")}
SORTED = Style(bold=True, underline=True)
TITLE = Style(bold=True)
SPARK = Style(color="cyan")
CURSOR = Style(reverse=True)
NAME_MOST = 40  # columns of a name; a longer one is cut
DELAYS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
EVENTS_SHOWN = 20
KEYS = {"c": "current", "m": "max", "p": "peak", "d": "delta", "o": "oom"}


def path_of(row: Row) -> str:
    return row.group.path or "/"


class Groups(ScrollView, can_focus=True):
    """The table."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", show=False),
        Binding("down,j", "move(1)", show=False),
        Binding("pageup", "move(-20)", show=False),
        Binding("pagedown", "move(20)", show=False),
        Binding("home", "move(-1000000)", show=False),
        Binding("end", "move(1000000)", show=False),
    ]

    class Opened(Message):
        """Enter was pressed on a group."""

        def __init__(self, row: Row) -> None:
            super().__init__()
            self.row = row

    def __init__(self, view: Watch) -> None:
        super().__init__()
        self.view = view
        self.rows: list[Row] = []
        self.cursor = 0
        self._widths = [len(title) for title in TITLES]

    def show(self, rows: list[Row]) -> None:
        """Show these rows. The cursor stays on its group."""
        chosen = self.chosen()
        self.rows = rows
        if chosen is not None:
            for i, row in enumerate(rows):
                if row.group.id == chosen.group.id:
                    self.cursor = i
                    break
        self.cursor = min(self.cursor, max(len(rows) - 1, 0))
        self.virtual_size = Size(self._measure(), len(rows) + 1)
        self.refresh()

    def chosen(self) -> Row | None:
        return self.rows[self.cursor] if self.cursor < len(self.rows) else None

    def _measure(self) -> int:
        """Make columns wide enough for what is seen. They never get narrower, so nothing jumps."""
        first = self.scroll_offset.y
        for row in self.rows[first : first + max(self.size.height, 1)]:
            for i, cell in enumerate(self.view.cells(row)):
                self._widths[i] = max(self._widths[i], min(len(cell), NAME_MOST))
        return sum(self._widths) + 2 * len(self._widths) + SPARK_WIDTH

    def render_line(self, y: int) -> Strip:
        width = self.size.width
        if y == 0:  # the titles stay
            return self._strip(list(TITLES), TITLE, "", sorted_by=self.view.sort).crop_extend(
                0, width, PLAIN
            )
        at = y - 1 + self.scroll_offset.y
        if at >= len(self.rows):
            return Strip.blank(width)
        row = self.rows[at]
        style = STYLES.get(level(row.group) or "", PLAIN)
        if at == self.cursor:
            style += CURSOR
        strip = self._strip(self.view.cells(row), style, spark(row.history))
        return strip.crop_extend(0, width, style)

    def _strip(self, cells: list[str], style: Style, bars: str, sorted_by: str = "") -> Strip:
        column = 1 + list(SORTS).index(sorted_by) if sorted_by else -1
        segments = []
        for i, cell in enumerate(cells):
            if len(cell) > self._widths[i]:
                cell = cell[: self._widths[i] - 1] + "…"
            text = f"{cell:{ALIGN[i]}{self._widths[i]}}"
            segments.append(Segment(text, SORTED if i == column else style))
            segments.append(Segment("  ", style))
        segments.append(Segment(bars, style + SPARK))
        return Strip(segments)

    def action_move(self, by: int) -> None:
        self.cursor = max(0, min(self.cursor + by, len(self.rows) - 1))
        seen = max(self.size.height - 2, 1)
        first = self.scroll_offset.y
        if self.cursor < first:
            self.scroll_to(y=self.cursor, animate=False)
        elif self.cursor > first + seen:
            self.scroll_to(y=self.cursor - seen, animate=False)
        self.refresh()

    def on_click(self, event: events.Click) -> None:
        at = event.y - 1 + self.scroll_offset.y
        if event.y >= 1 and at < len(self.rows):
            self.cursor = at
            self.refresh()


class Ask(ModalScreen[str | None]):
    """Ask for a line of text; Escape gives None."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss(None)", "Cancel")]
    DEFAULT_CSS = """
    Ask { align: center middle; }
    Ask > Static { width: 60; padding: 1 2 0 2; background: $panel; }
    Ask > Input { width: 60; }
    """

    def __init__(self, question: str, value: str = "") -> None:
        super().__init__()
        self.question = question
        self.value = value

    def compose(self) -> ComposeResult:
        yield Static(self.question, markup=False)
        yield Input(self.value)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        self.dismiss(event.value)


class Detail(ModalScreen[None]):
    """Text about a group; it scrolls. q, Enter or Escape closes it."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,enter", "dismiss(None)", "Close"),
    ]
    DEFAULT_CSS = """
    Detail > ScrollView { overflow: auto; }
    Detail > Static { height: auto; padding: 1 2; }
    Detail { overflow: auto; background: $background; }
    """

    def __init__(self, title: str, text: str) -> None:
        super().__init__()
        self._shown = f"{title}\n\n{text}"

    def compose(self) -> ComposeResult:
        yield Static(self._shown, id="text", markup=False)

    def put(self, title: str, text: str) -> None:
        self.query_one("#text", Static).update(f"{title}\n\n{text}")


class Top(App[None]):
    """The application."""

    ENABLE_COMMAND_PALETTE = False
    TITLE = "memcg top"
    CSS = """
    #header { height: 2; text-wrap: nowrap; text-overflow: ellipsis; }
    Groups { height: 1fr; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "quit", "Quit"),
        Binding("ctrl+c", "quit", show=False),
        Binding("less_than_sign", "column(-1)", "", show=False),
        Binding("greater_than_sign", "column(1)", "Sort", key_display="< >"),
        *(Binding(key, f"sort('{name}')", show=False) for key, name in KEYS.items()),
        Binding("slash", "filter", "Filter"),
        Binding("space", "fold", "Fold"),
        Binding("enter", "open", "Detail"),
        Binding("t", "flat", "Tree/flat"),
        Binding("percent_sign", "percents", "%"),
        Binding("l", "limit", "Limit"),
        Binding("r", "reclaim", "Reclaim"),
        Binding("plus", "delay(1)", show=False),
        Binding("minus", "delay(-1)", "Delay", key_display="+ -"),
        Binding("P", "pause", "Pause"),
    ]

    def __init__(self, view: Watch, delay: float = 0.5, clock: str | None = None) -> None:
        super().__init__()
        self.view = view
        self.delay = delay
        self.clock = clock  # for tests: the time that is shown
        self.paused = False
        self._timer: Any = None

    def compose(self) -> ComposeResult:
        yield Static(id="header", markup=False)
        yield Groups(self.view)
        yield Footer()

    def on_mount(self) -> None:
        self.query_one(Groups).focus()
        self._start_timer()
        self.call_after_refresh(self.look)

    def _start_timer(self) -> None:
        if self._timer is not None:
            self._timer.stop()
        self._timer = self.set_interval(self.delay, self.look, pause=self.paused)

    def look(self) -> None:
        """Read the page and show it."""
        shown = self.query("#header").results(Static)
        if (top := next(shown, None)) is None:  # the screen is being taken down
            return
        header = self.view.read()
        clock = self.clock or time.strftime("%H:%M:%S")
        top.update("\n".join(header_lines(header, clock)))
        self._show()
        if not header.alive:
            self._timer.stop()

    def _show(self) -> None:
        self.query_one(Groups).show(self.view.rows())

    def _chosen(self) -> Row | None:
        return self.query_one(Groups).chosen()

    # -- keys

    def action_column(self, by: int) -> None:
        names = list(SORTS)
        self.action_sort(names[(names.index(self.view.sort) + by) % len(names)])

    def action_sort(self, name: str) -> None:
        self.view.sort = name
        self._show()

    def action_fold(self) -> None:
        if (row := self._chosen()) is not None and not self.view.flat:
            self.view.folded ^= {row.group.id}
            self._show()

    def action_flat(self) -> None:
        self.view.flat = not self.view.flat
        self._show()

    def action_percents(self) -> None:
        self.view.percents = not self.view.percents
        self._show()

    def action_pause(self) -> None:
        self.paused = not self.paused
        (self._timer.pause if self.paused else self._timer.resume)()
        self.notify("paused" if self.paused else "goes on", timeout=2)

    def action_delay(self, by: int) -> None:
        nearest = min(range(len(DELAYS)), key=lambda i: abs(DELAYS[i] - self.delay))
        self.delay = DELAYS[max(0, min(nearest + by, len(DELAYS) - 1))]
        self._start_timer()
        self.notify(f"every {self.delay:g} s", timeout=2)

    def action_filter(self) -> None:
        def found(text: str | None) -> None:
            if text is not None:
                self.view.filter = text
                self._show()

        self.push_screen(Ask("show only groups whose paths have", self.view.filter), found)

    # -- what needs the socket

    def action_limit(self) -> None:
        if (row := self._chosen()) is None:
            return
        path = row.group.path

        def answered(text: str | None) -> None:
            if text:
                self.ask("write", path=path, file="memory.max", value=text)

        cells = self.view.cells(row)
        self.push_screen(Ask(f"memory.max of {path_of(row)!r}, now {cells[2]}:"), answered)

    def action_reclaim(self) -> None:
        if (row := self._chosen()) is not None:
            self.ask("reclaim", path=row.group.path)

    @work(thread=True)
    def ask(self, op: str, **fields: object) -> None:
        """Send a request, in a thread: a process that holds the GIL answers late."""
        try:
            answer = self._request(op, **fields)
        except Refused as error:
            self.call_from_thread(
                self.notify, str(error), severity="error", timeout=8, markup=False
            )
            return
        name, nbytes = (("reclaimed", answer["reclaimed"]) if op == "reclaim"
                        else ("memory.max is", answer["value"]))  # fmt: skip
        self.call_from_thread(self.notify, f"{name} {format_size(nbytes)}", markup=False)

    def _request(self, op: str, **fields: object) -> dict[str, Any]:
        path = self.view.page.path.removesuffix(pages.SUFFIX) + ".sock"
        try:
            with Client(path) as client:
                return client.request(op, **fields)
        except OSError:
            raise Refused(
                "this process serves no socket; memcg run --control=write or "
                "memcg.serve(writable=True) opens one"
            ) from None

    def action_open(self) -> None:
        if (row := self._chosen()) is None:
            return
        title = "  ".join(self.view.cells(row))
        events_ = self._events(row)
        detail = Detail(title, f"{events_}\n\nasking the process ...")
        self.push_screen(detail)
        self._fill(detail, row.group.path, title, events_)

    def _events(self, row: Row) -> str:
        top = row.group
        below = f"{top.path}/" if top.path else ""
        found = [e for e in self.view.page.events().entries
                 if e.id == top.id or e.group.startswith(below)]  # fmt: skip
        lines = [
            f"{time.strftime('%H:%M:%S', time.localtime(e.time))}  {e.kind:<9} "
            f"{'' if e.id == top.id else f'at {e.group}: '}asked {e.bytes:,}, "
            f"usage {e.usage:,}, total {e.total}"
            for e in found[-EVENTS_SHOWN:]
        ]
        return "events\n" + ("\n".join(lines) or "none")

    @work(thread=True)
    def _fill(self, detail: Detail, path: str, title: str, events_: str) -> None:
        parts = [events_]
        for op, heading in (("slabinfo", "caches"), ("report", "what holds its memory")):
            try:
                text = str(self._request(op, path=path)["text"])
            except Refused as error:
                text = str(error)
            parts.append(f"{heading}\n{text}")
        self.call_from_thread(self._put, detail, title, "\n\n".join(parts))

    def _put(self, detail: Detail, title: str, text: str) -> None:
        if detail.is_mounted:
            detail.put(title, text)
