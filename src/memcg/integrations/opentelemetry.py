# SPDX-License-Identifier: Apache-2.0
"""Metrics of memcg's groups for OpenTelemetry. Needs ``pip install memcg[otel]``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation, get_meter_provider

from ..groups import root, shield
from .metrics import OTHER, Selection, label, limits, uncharged_bytes


def instrument(
    meter_provider: MeterProvider | None = None, *, depth: int = 2, max_groups: int = 200
) -> None:
    """Make observable instruments that read the groups whenever the provider collects.

    They are ``memcg.memory.usage``, ``memcg.memory.peak``, ``memcg.memory.limit`` and
    ``memcg.memory.uncharged`` in bytes, and ``memcg.memory.events``. Attributes are ``memcg.group``
    (``/`` is the root), ``memcg.limit`` and ``memcg.event``.

    Parameters
    ----------
    meter_provider : opentelemetry.metrics.MeterProvider, optional
        The default is the global one.
    depth, max_groups : int
        As for `memcg.prometheus.MemcgCollector`.

    Raises
    ------
    ValueError
        `depth` or `max_groups` is below 1.
    """
    selection = Selection(depth, max_groups)
    meter = (meter_provider or get_meter_provider()).get_meter("memcg")

    def callback(
        read: Callable[[], Iterator[Observation]],
    ) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observe(options: CallbackOptions) -> Iterable[Observation]:
            with root, shield():
                selection.refresh()
                return list(read())

        return observe

    def usage() -> Iterator[Observation]:
        for g in selection.shown:
            yield Observation(g.current, {"memcg.group": label(g)})
        if selection.folded:
            yield Observation(sum(g.current for g in selection.folded), {"memcg.group": OTHER})

    def peak() -> Iterator[Observation]:
        for g in selection.shown:
            yield Observation(g.peak, {"memcg.group": label(g)})

    def limit() -> Iterator[Observation]:
        for g in selection.shown:
            for which, n in limits(g).items():
                yield Observation(n, {"memcg.group": label(g), "memcg.limit": which})

    def events() -> Iterator[Observation]:
        for g in selection.shown:
            for event, n in g.events.items():
                yield Observation(n, {"memcg.group": label(g), "memcg.event": event})
        for event, n in selection.other_events().items():
            yield Observation(n, {"memcg.group": OTHER, "memcg.event": event})

    def uncharged() -> Iterator[Observation]:
        yield Observation(uncharged_bytes())

    for name, read, text in (
        ("memcg.memory.usage", usage, "Bytes charged here and below."),
        ("memcg.memory.peak", peak, "The highest usage."),
        ("memcg.memory.limit", limit, "A limit that is set."),
        ("memcg.memory.uncharged", uncharged, "The resident set beyond what is charged."),
    ):
        meter.create_observable_gauge(name, [callback(read)], unit="By", description=text)
    meter.create_observable_counter(
        "memcg.memory.events", [callback(events)], description="Events of memory.events."
    )
