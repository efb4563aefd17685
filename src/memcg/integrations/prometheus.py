# SPDX-License-Identifier: Apache-2.0
"""A collector for prometheus-client. Needs ``pip install memcg[prometheus]``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from ..control import memcontrol
from ..groups import root, shield
from .metrics import OTHER, Selection, label, limits, uncharged_bytes


class MemcgCollector(Collector):  # type: ignore[misc]  # the library may be absent
    """The figures of memcg's groups, read at each scrape.

    Parameters
    ----------
    depth : int
        How many levels below the root get series of their own. The figures of a group contain
        those of the groups below it.
    max_groups : int
        How many groups get series of their own. All others are one group ``(other)``, so that a
        program with many groups does not flood the server. A group keeps its series until it is
        closed.
    labels : dict, optional
        More labels for every series, for example ``{"pid": str(os.getpid())}`` where several
        worker processes are scraped.

    Raises
    ------
    ValueError
        `depth` or `max_groups` is below 1, or a label's name is bad or is one of memcg's.

    Notes
    -----
    A scrape runs in the root group, under `memcg.shield`, in whatever thread asks for it. The
    series are ``memcg_memory_current_bytes``, ``_peak_bytes``, ``_limit_bytes`` (label ``limit``,
    only for limits that are set), ``memcg_memory_events_total`` (label ``event``; those of
    ``memory.events``), ``memcg_slab_bytes`` (label ``state``: active, free, shared),
    ``memcg_groups`` (label ``state``: online, dying) and ``memcg_process_uncharged_bytes``.

    Examples
    --------
    >>> from prometheus_client import REGISTRY
    >>> from memcg.prometheus import MemcgCollector
    >>> REGISTRY.register(MemcgCollector(depth=2))   # once, in the process that is scraped
    >>> REGISTRY.get_sample_value("memcg_groups", {"state": "online"}) >= 1
    True
    """

    def __init__(
        self, depth: int = 2, max_groups: int = 200, labels: dict[str, str] | None = None
    ) -> None:
        self._selection = Selection(depth, max_groups)
        self._labels = dict(labels or {})
        for name in self._labels:
            if name in ("group", "limit", "event", "state"):
                raise ValueError(f"label {name!r} is memcg's own; write another name")
        list(self.describe())  # raises for a name that Prometheus does not take

    def describe(self) -> Iterable[Metric]:
        """Return the families without samples, so that registering does not read the groups."""
        return self._families().values()

    def collect(self) -> Iterator[Metric]:
        """Read all groups. Prometheus-client calls it at each scrape."""
        with root, shield():
            families = self._families()
            self._fill(families)
        yield from families.values()

    def _families(self) -> dict[str, Metric]:
        return families(*self._labels)

    def _fill(self, families: dict[str, Metric]) -> None:
        selection = self._selection
        selection.refresh()
        fill(
            families, selection, limits, selection.slab_bytes(), len(memcontrol.dying),
            uncharged_bytes(), *self._labels.values(),
        )  # fmt: skip


def families(*more: str) -> dict[str, Metric]:
    """Return the families without samples; each has the labels `more` too."""

    def gauge(name: str, text: str, *labels: str) -> Metric:
        return GaugeMetricFamily(name, text, labels=[*labels, *more])

    return {
        "current": gauge("memcg_memory_current_bytes", "Bytes charged here and below.", "group"),
        "peak": gauge("memcg_memory_peak_bytes", "The highest usage.", "group"),
        "limit": gauge("memcg_memory_limit_bytes", "A limit that is set.", "group", "limit"),
        "events": CounterMetricFamily(
            "memcg_memory_events", "Events of memory.events.", labels=["group", "event", *more]
        ),
        "slab": gauge("memcg_slab_bytes", "Bytes of slabs, here and below.", "group", "state"),
        "groups": gauge("memcg_groups", "Groups of the process.", "state"),
        "uncharged": gauge(
            "memcg_process_uncharged_bytes", "The resident set beyond what is charged."
        ),
    }


def fill(
    families: dict[str, Metric],
    selection: Selection,
    limits: Callable[[Any], dict[str, int]],
    slab_bytes: dict[Any, dict[str, int]],
    dying: int,
    uncharged: int,
    *more: str,
) -> None:
    """Add the samples of one process. Sizes are in bytes; `more` are the further labels' values."""

    def add(family: str, value: float, *labels: str) -> None:
        families[family].add_metric([*labels, *more], value)

    for g in selection.shown:
        name = label(g)
        add("current", g.current, name)
        add("peak", g.peak, name)
        for which, n in limits(g).items():
            add("limit", n, name, which)
        for event, n in g.events.items():
            add("events", n, name, event)
    for g, states in slab_bytes.items():
        for state, n in states.items():
            add("slab", n, label(g), state)
    if selection.folded:
        add("current", sum(g.current for g in selection.folded), OTHER)
    if selection.folded or any(selection.other_events().values()):
        for event, n in selection.other_events().items():
            add("events", n, OTHER, event)
    add("groups", selection.nr_groups, "online")
    add("groups", dying, "dying")
    add("uncharged", uncharged)
