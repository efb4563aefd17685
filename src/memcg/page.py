# SPDX-License-Identifier: Apache-2.0
"""A reader of published pages. docs/page.md describes the layout for readers in other languages.

A page is another process's file: everything in it is checked, and nothing in it is trusted. It is
read by ``pread`` and not mapped, because a mapping of a file that somebody truncates would end the
reader by SIGBUS.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from struct import Struct
from typing import Any, Generic, TypeVar

from . import pages
from .core.dataplane import EVENTS
from .sizes import PAGE_COUNTER_MAX

MAGIC = b"memcgpg\0"
VERSION = 1
STATES = ("gone", "online", "dying")
STAT = ("slab_private", "slab_shared", "page_runs", "external")
PATH_MAX = 256  # bytes of a path in a record
RESERVE_MIN = 16 << 20  # bytes; MEMCG_RESERVE_MIN of native/css.h
MOST_BYTES = 1 << 30  # of a page
HEADER = Struct("<8sII IIQ IIQ IIQ Q QQQ q q QQ II")
RECORD = Struct("<QQQqqII 7q 4q 7Q 7Q II 256s")
EVENT = Struct("<qQQqqqQII 64s")
SAMPLE = Struct("<qQqq")
_TRIES = 8  # reads of a record that is being written; each write takes some instructions

T = TypeVar("T")


class PageError(ValueError):
    """A file is no page, or is one that this version cannot read. The text says which."""


@dataclass(frozen=True, slots=True)
class GroupFigures:
    """What a page says of a group. Sizes are in bytes, times in seconds since 1970.

    `usage` is what is charged to the group and everything below it: memory.current, and what
    threads have charged ahead or freed and still keep. `peak` is memory.peak. A limit of
    ``2**63 - 1`` is none. `stat` is of the group alone, and may be as old as the last sample.
    """

    id: int
    parent: int
    path: str
    state: str
    made: float
    closed: float | None
    usage: int
    peak: int
    max: int
    high: int
    reserve: int
    overdraft: int
    stat: dict[str, int]
    events: dict[str, int]
    events_local: dict[str, int]
    caches: int
    inside: int

    def as_dict(self) -> dict[str, Any]:
        """Return the figures for JSON. A limit is None where there is none."""
        max_, high = (None if n >= PAGE_COUNTER_MAX else n for n in (self.max, self.high))
        return {
            "path": self.path, "state": self.state, "id": self.id, "current": self.usage,
            "peak": self.peak, "max": max_, "high": high, "events": self.events,
            "stat": self.stat, "caches": self.caches, "inside": self.inside, "made": self.made,
            "closed": self.closed,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class PageEvent:
    """An event at a group's limit. `total` counts those of its kind there so far.

    Those of one kind and group that are less than 10 ms apart have one entry. `asked` is the id of
    the group that asked for `bytes`; 0 says that it is not known.
    """

    seq: int
    time: float
    id: int
    group: str
    kind: str
    bytes: int
    usage: int
    max: int
    total: int
    asked: int


@dataclass(frozen=True, slots=True)
class Sample:
    """A group's usage at a time, and the highest since the sample before."""

    seq: int
    time: float
    id: int
    usage: int
    highest: int


@dataclass(frozen=True, slots=True)
class Ring(Generic[T]):
    """The entries of a ring from a number on. `next` is the number to go on with.

    `dropped` were overwritten before they could be read.
    """

    entries: list[T]
    next: int
    dropped: int


def _shown(raw: bytes, length: int) -> str:
    """Return a path as text that cannot move a terminal's cursor."""
    text = raw[:length].decode("utf-8", "ignore" if length > len(raw) else "replace")
    if not text.isprintable():
        text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    return text + "\N{HORIZONTAL ELLIPSIS}" if length > len(raw) else text


class Page:
    """An open page. It is a context manager.

    Raises
    ------
    PageError
        The file is no page of a version that can be read.
    OSError
        The file cannot be opened.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._known: dict[int, tuple[bytes, GroupFigures | None]] = {}  # by the record's place
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            self._read_header()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Page:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file. A second call does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def alive(self) -> bool | None:
        """Tell whether the process writes the page; see `pages.is_alive`."""
        return pages.is_alive(self.path)

    # -- the header

    def _wrong(self, why: str) -> PageError:
        return PageError(f"{self.path!r} is no page that this memcg can read: {why}")

    def _pread(self, n: int, offset: int) -> bytes:
        parts: list[bytes] = []
        while n > 0:
            part = os.pread(self._fd, n, offset)
            if not part:
                raise self._wrong("it is shorter than it says")
            parts.append(part)
            n -= len(part)
            offset += len(part)
        return b"".join(parts)

    def _read_header(self) -> None:
        size = os.fstat(self._fd).st_size
        if size < HEADER.size:
            raise self._wrong(f"it has {size} bytes")
        (
            magic, version, header_bytes, self._record_bytes, self._nr_records, self._records_at,
            self._event_bytes, self._nr_events, self._events_at,
            self._sample_bytes, self._nr_samples, self._samples_at, file_bytes,
            self.pid, self.start_ticks, self.pid_namespace, began, *_,
        ) = HEADER.unpack(self._pread(HEADER.size, 0))  # fmt: skip
        if magic != MAGIC:
            raise self._wrong("it does not begin with memcgpg")
        if version != VERSION:
            raise self._wrong(f"it has version {version}, and version {VERSION} can be read")
        if not HEADER.size <= header_bytes <= file_bytes <= min(size, MOST_BYTES):
            raise self._wrong(f"it says that it has {file_bytes} bytes")
        for what, least, each, nr, at in (
            ("records", RECORD.size, self._record_bytes, self._nr_records, self._records_at),
            ("events", EVENT.size, self._event_bytes, self._nr_events, self._events_at),
            ("samples", SAMPLE.size, self._sample_bytes, self._nr_samples, self._samples_at),
        ):
            if each < least or nr < 1 or at < header_bytes or at + each * nr > file_bytes:
                raise self._wrong(f"its {what} do not fit")
        self.began = began / 1e9

    def _heads(self) -> tuple[int, int, int, int, int]:
        """Return updated_ns, events_head, samples_head, used_records and left_out."""
        *_, updated, events, samples, used, left_out = HEADER.unpack(self._pread(HEADER.size, 0))
        if used > self._nr_records:
            raise self._wrong(f"it says that it uses {used} of {self._nr_records} records")
        return updated, events, samples, used, left_out

    @property
    def updated(self) -> float:
        """When everything was last written, in seconds since 1970."""
        return self._heads()[0] / 1e9

    @property
    def left_out(self) -> int:
        """How many groups found no record so far."""
        return self._heads()[4]

    # -- records

    def groups(self, *, gone: bool = False) -> list[GroupFigures]:
        """Return what the page says of each group, parents before children, siblings by name.

        With `gone`, it also has groups that are freed, as long as their records are not used again.
        """
        used = self._heads()[3]
        n = used * self._record_bytes
        before, after = self._pread(n, self._records_at), self._pread(n, self._records_at)
        found = []
        for at in range(0, n, self._record_bytes):
            raw: bytes | None = before[at : at + RECORD.size]
            assert raw is not None
            if raw[:8] != after[at : at + 8] or raw[0] & 1:
                raw = self._record(self._records_at + at)
            figures = None if raw is None else self._figures_of(at, raw)
            if figures is not None and (figures.state != "gone" or gone):
                found.append(figures)
        return sorted(found, key=lambda g: (g.path.split("/") if g.path else [], g.id))

    def _figures_of(self, at: int, raw: bytes) -> GroupFigures | None:
        """Return the figures of a record, those of the last time if it has not changed since."""
        known = self._known.get(at)
        if known is None or known[0] != raw:
            self._known[at] = known = (raw, _figures(raw))
        return known[1]

    def _record(self, at: int) -> bytes | None:
        """Read a record that was being written; None: it is written all the time."""
        for _ in range(_TRIES):
            raw = self._pread(RECORD.size, at)
            if not raw[0] & 1 and self._pread(8, at) == raw[:8]:
                return raw
        return None

    # -- rings

    def _ring(
        self, which: int, since: int, struct: Struct, each: int, nr: int, at: int
    ) -> tuple[list[tuple[int, tuple[int, ...]]], int, int]:
        head = self._heads()[which]
        first = max(since, head - nr, 0) if since <= head else max(head - nr, 0)
        data = self._pread(each * nr, at) if first < head else b""
        now = self._heads()[which]
        kept = max(first, now - nr + 1)  # the writer may be at the one before
        found = [(i, struct.unpack_from(data, i % nr * each)) for i in range(kept, head)]
        return found, head, min(kept, head) - min(since, head)

    def events(self, since: int = 0) -> Ring[PageEvent]:
        """Return the events from number `since` on, as far as they are kept."""
        found, head, dropped = self._ring(
            1, since, EVENT, self._event_bytes, self._nr_events, self._events_at
        )
        entries = []
        for i, (time, id_, asked, size, usage, max_, total, kind, length, path) in found:
            if kind < len(EVENTS):  # a newer writer may have more kinds
                shown = _shown(path, length)  # type: ignore[arg-type]
                entries.append(PageEvent(
                    i, time / 1e9, id_, shown, EVENTS[kind], size, usage, max_, total, asked
                ))  # fmt: skip
        return Ring(entries, head, dropped)

    def samples(self, since: int = 0) -> Ring[Sample]:
        """Return the samples from number `since` on, as far as they are kept."""
        found, head, dropped = self._ring(
            2, since, SAMPLE, self._sample_bytes, self._nr_samples, self._samples_at
        )
        return Ring([Sample(i, t / 1e9, *rest) for i, (t, *rest) in found], head, dropped)


def _figures(raw: bytes) -> GroupFigures | None:
    """Return the figures of a record; None: the record is not used, or is rubbish."""
    (_, id_, parent, made, closed, state, length, usage, peak, max_, high, reserve, limit, over,
     *rest) = RECORD.unpack(raw)  # fmt: skip
    if not id_ or state >= len(STATES):
        return None
    stat = dict(zip(STAT, rest[:4], strict=True)) | {"overdraft": over}
    if reserve < 0:  # what mem_cgroup_get_limit() derives
        reserve = 0 if max_ == PAGE_COUNTER_MAX else max(max_ // 8, RESERVE_MIN)
    return GroupFigures(
        id_, parent, _shown(rest[20], length), STATES[state], made / 1e9,
        closed / 1e9 if closed else None, usage, peak, max_, high, reserve,
        reserve if limit < 0 else limit, stat,
        dict(zip(EVENTS, rest[4:11], strict=True)), dict(zip(EVENTS, rest[11:18], strict=True)),
        rest[18], rest[19],
    )  # fmt: skip
