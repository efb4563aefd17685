# SPDX-License-Identifier: Apache-2.0
"""A record of the published page (``publish.c``) and its reader, as programs for `memory_model`.

The reader is another process: `memcg.page`, or a program in another language that follows
docs/page.md. So its loads are no site of the C code, and `reader` takes their order.
"""

from __future__ import annotations

from litmus.memory_model import (
    ACQUIRE,
    RELAXED,
    Result,
    Thread,
    explore,
    load,
    lock,
    store,
    unlock,
)
from litmus.protocols import PRESENT, Orders, Protocol, Site

ONLINE, DYING = "online", "dying"


def reader(*fields: str, order: str = ACQUIRE) -> Thread:
    """Return the fields of a record, or None: it is being written, and the reader begins again."""
    seq = yield load("seq", order)
    if seq % 2:
        return None
    found = ()
    for field in fields:
        found += ((yield load(field, order)),)
    return found if (yield load("seq", order)) == seq else None


def publish_add(o: Orders, group: int, name: str) -> Thread:
    """The record of a group that is gone is given to another one."""
    yield lock("publish_lock")
    seq = yield load("seq")
    if o["odd"] == PRESENT:
        yield store("seq", seq + 1, RELAXED)
    yield store("id", group, o["id"])
    yield store("path0", name, o["word"])
    yield store("path1", name, o["word"])
    yield store("seq", seq + 2, o["even"])
    yield unlock("publish_lock")


def _names(o: Orders, order: str = ACQUIRE) -> list[Result]:
    """A reader finds the old name whole, or the new one, or it begins again."""

    def adds() -> Thread:
        yield from publish_add(o, 2, "b")

    def check(last, ends):
        assert ends[1] in (None, (1, "a", "a"), (2, "b", "b")), f"half a name: {ends[1]}"
        assert last["seq"] % 2 == 0, "readers wait for ever"

    initial = {"seq": 0, "id": 1, "path0": "a", "path1": "a", "publish_lock": None}
    return [
        explore(initial, adds, lambda: reader("id", "path0", "path1", order=order), check=check)
    ]


def note_offline(o: Orders) -> Thread:
    if (yield load("state")) != ONLINE:
        return
    if o["lock"] == PRESENT:
        yield lock("publish_lock")
    if (yield load("state")) == ONLINE:  # put_state()
        seq = yield load("seq")
        if o["state_odd"] == PRESENT:
            yield store("seq", seq + 1, RELAXED)
        yield store("state", DYING, o["state"])
        yield store("closed_ns", 5, o["closed"])
        yield store("seq", seq + 2, o["state_even"])
    if o["lock"] == PRESENT:
        yield unlock("publish_lock")


def _states(o: Orders) -> list[Result]:
    """Two threads find the group offline at once."""

    def notes() -> Thread:
        yield from note_offline(o)

    def check(last, ends):
        assert ends[-1] in (None, (ONLINE, 0), (DYING, 5)), f"half a change: {ends[-1]}"
        assert last["seq"] % 2 == 0, "readers wait for ever"
        assert last["state"] == DYING

    initial = {"seq": 0, "state": ONLINE, "closed_ns": 0, "publish_lock": None}
    return [explore(initial, notes, notes, lambda: reader("state", "closed_ns"), check=check)]


page_record = Protocol(
    "page_record",
    {
        "odd": Site("publish.c", "publish_add", "store_relaxed(&record->seq, seq + 1);"),
        "id": Site("publish.c", "publish_add", "store_{}(&record->id, ++next_id)", "RELEASE"),
        "word": Site("publish.c", "put_path", "store_{}(&to[i / 8], word)", "RELEASE"),
        "even": Site("publish.c", "publish_add", "store_{}(&record->seq, seq + 2)", "RELEASE"),
        "lock": Site("publish.c", "note_offline", "mutex_lock(&publish_lock);"),
        "state_odd": Site("publish.c", "put_state", "store_relaxed(&record->seq, seq + 1);"),
        "state": Site("publish.c", "put_state", "store_{}(&record->state, state)", "RELEASE"),
        "closed": Site(
            "publish.c", "put_state",
            "store_{}(&record->closed_ns, now_ns(CLOCK_REALTIME))", "RELEASE",
        ),
        "state_even": Site("publish.c", "put_state", "store_{}(&record->seq, seq + 2)", "RELEASE"),
    },
    lambda o: _names(o) + _states(o),
)  # fmt: skip


def names_by_reader(order: str) -> list[Result]:
    """Run the writer as it is against a reader with loads of this order."""
    return _names(page_record.orders(), order)


PROTOCOLS = [page_record]
