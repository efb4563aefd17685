# SPDX-License-Identifier: Apache-2.0
"""What ``memcg exporter`` exports: the figures of each page of this user, at each scrape."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from memcg import pages
from memcg.integrations.metrics import Selection, those_set
from memcg.integrations.prometheus import families, fill
from memcg.page import GroupFigures, Page, PageError

from .ps import command_line, resident


@dataclass(eq=False)
class Exported:
    """A group of another process. It is one object as long as the group is there."""

    figures: GroupFigures
    parent: Exported | None = None

    @property
    def path(self) -> str:
        return self.figures.path

    @property
    def online(self) -> bool:
        return self.figures.state == "online"

    @property
    def current(self) -> int:
        return self.figures.usage

    @property
    def peak(self) -> int:
        return self.figures.peak

    @property
    def events(self) -> dict[str, int]:
        return self.figures.events


def limits(group: Exported) -> dict[str, int]:
    """Return the limits that the group has, in bytes."""
    f = group.figures
    return those_set({"max": f.max, "high": f.high, "reserve": f.reserve, "overdraft": f.overdraft})


class Process:
    """A page that is read at each scrape.

    Raises
    ------
    PageError, OSError
        It is no page, or it has gone.
    """

    def __init__(self, path: str, depth: int, max_groups: int) -> None:
        self.page = Page(path)
        self._selection = Selection(depth, max_groups)
        self._groups: dict[int, Exported] = {}  # by id
        self._command = command_line(self.page.pid)
        here = self.page.pid_namespace == pages.pid_namespace()
        # Two containers may have processes of one number, and here it may be another's.
        self._pid = str(self.page.pid) + ("" if here else f"@{self.page.pid_namespace}")
        self._is_here = here

    def fill(self, families: dict[str, Metric]) -> None:
        """Add the process's samples."""
        figures = self.page.groups()
        online = [f for f in figures if f.state == "online"]
        before, self._groups = self._groups, {}
        by_path: dict[str, Exported] = {}
        for f in online:
            g = before.pop(f.id, None)
            if g is None:
                g = Exported(f)
            g.figures = f
            g.parent = by_path.get(f.path.rpartition("/")[0]) if f.path else None
            self._groups[f.id] = by_path[f.path] = g
        for g in before.values():  # they are closed
            if g.online:
                g.figures = replace(g.figures, state="gone")
        self._selection.refresh(list(self._groups.values()))
        root = by_path.get("")
        rss = resident(self.page.pid) if self._is_here else 0
        fill(
            families, self._selection, limits, self._slab_bytes(),
            sum(f.state == "dying" for f in figures),
            max(rss - root.current, 0) if root is not None else 0, self._pid,
        )  # fmt: skip
        families["process"].add_metric([self._command, self._pid], 1)

    def _slab_bytes(self) -> dict[Exported, dict[str, int]]:
        """Return what the slabs of the groups that are shown, and of those below them, hold."""
        found = {g: {"private": 0, "shared": 0} for g in self._selection.shown}
        for g in self._groups.values():
            above: Exported | None = g
            while above is not None:
                if above in found:
                    found[above]["private"] += g.figures.stat["slab_private"]
                    found[above]["shared"] += g.figures.stat["slab_shared"]
                above = above.parent
        return found


class PagesCollector(Collector):  # type: ignore[misc]  # the library may be absent
    """The figures of all processes of this user that publish, with a label ``pid`` for each."""

    def __init__(self, depth: int, max_groups: int) -> None:
        self._depth, self._max_groups = depth, max_groups
        self._processes: dict[str, Process] = {}
        self._scraping = threading.Lock()  # a server has a thread for each scrape

    def describe(self) -> Iterable[Metric]:
        """Return the families without samples, so that registering does not read the pages."""
        return self._families().values()

    def collect(self) -> Iterator[Metric]:
        """Read all pages. Prometheus-client calls it at each scrape."""
        found = self._families()
        with self._scraping:
            unread = self._read(found)
        found["unread"].add_metric([], unread)
        yield from found.values()

    def _families(self) -> dict[str, Metric]:
        return families("pid") | {
            "process": GaugeMetricFamily(
                "memcg_process_info", "A process that publishes.", labels=["command", "pid"]
            ),
            "unread": GaugeMetricFamily(
                "memcg_exporter_unread_pages", "Files that could not be read as pages."
            ),
        }

    def _read(self, found: dict[str, Metric]) -> int:
        live = set(pages.live())
        for path in set(self._processes) - live:
            self._processes.pop(path).page.close()
        unread = 0
        for path in sorted(live):
            try:
                if path not in self._processes:
                    self._processes[path] = Process(path, self._depth, self._max_groups)
                self._processes[path].fill(found)
            except (PageError, OSError):  # it ended just now, or is of another version
                unread += 1
                if path in self._processes:
                    self._processes.pop(path).page.close()
        return unread
