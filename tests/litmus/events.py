# SPDX-License-Identifier: Apache-2.0
"""The event queue of ``event.c`` and its reader in ``memcg.c``, as programs for `memory_model`."""

from __future__ import annotations

from litmus.memory_model import (
    RELEASE,
    Result,
    Thread,
    add,
    exchange,
    explore,
    join,
    load,
    read,
    store,
    wait,
    write,
)
from litmus.protocols import Orders, Protocol, Site, put_first


def event_post(o: Orders, node: str, event: str) -> Thread:
    if (yield exchange(f"{node}.posted", 1, o["claim"])):
        return False
    yield write(f"{node}.event", event)
    if (yield from put_first("posted", node, f"{node}.next", o["link"])) is None:
        yield add("wakes", 1, RELEASE)  # the call of the waker
    return True


def drain(o: Orders) -> Thread:
    """Call memcg_next_event() until it returns none, and return the events."""
    found = ()
    while (node := (yield exchange("posted", None, o["take_posted"]))) is not None:
        nodes = []
        while node is not None:
            nodes.insert(0, node)
            node = yield read(f"{node}.next")
        for node in nodes:
            found += ((yield read(f"{node}.event")),)
            yield exchange(f"{node}.posted", 0, o["taken"])
    return found


def _event_queue(o: Orders, *nodes: str) -> list[Result]:
    def consumer() -> Thread:
        wakes = yield wait("wakes", bool)
        found = yield from drain(o)
        yield join(1, 2)
        if (yield load("wakes")) != wakes:
            found += yield from drain(o)
        return found

    def check(last, ends):
        posted = [event for event, was_posted in zip("ab", ends[1:], strict=True) if was_posted]
        assert sorted(ends[0]) == posted, f"posted {posted}, received {ends[0]}"

    initial = {"posted": None, "wakes": 0}
    initial |= {f"{n}.{field}": None for n in nodes for field in ("posted", "event", "next")}
    return [
        explore(
            initial,
            consumer,
            lambda: event_post(o, nodes[0], "a"),
            lambda: event_post(o, nodes[1], "b"),
            check=check,
        )
    ]


def _coalesced(o: Orders) -> list[Result]:
    """A poster that finds its node posted relies on the consumer to see what it wrote before."""

    def poster() -> Thread:
        yield store("figure", 1, "RELAXED")
        return (yield from event_post(o, "n", "a"))

    def consumer() -> Thread:
        yield from drain(o)
        return (yield load("figure"))

    def check(last, ends):
        figure, was_posted = ends
        assert was_posted or figure == 1, "the consumer read the figure of before"

    initial = {"posted": "n", "n.posted": 1, "n.event": "a", "n.next": None}
    return [explore(initial | {"figure": 0, "wakes": 1}, consumer, poster, check=check)]


event_queue = Protocol(
    "event_queue",
    {
        "claim": Site("event.c", "event_post", "exchange_{}(&node->posted, 1)", "ACQ_REL"),
        "link": Site("event.c", "event_post", "cas_weak_{}(&posted, &first, node)", "RELEASE"),
        "take_posted": Site("event.c", "take_posted", "exchange_{}(&posted, NULL)", "ACQUIRE"),
        "taken": Site("memcg.c", "memcg_next_event", "exchange_{}(&node->posted, 0)", "ACQ_REL"),
    },
    lambda o: _event_queue(o, "m", "n") + _event_queue(o, "n", "n") + _coalesced(o),
)

PROTOCOLS = [event_queue]
