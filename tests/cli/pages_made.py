# SPDX-License-Identifier: Apache-2.0
"""Make files that are pages, with the figures that a test wants."""

from __future__ import annotations

from pathlib import Path

from memcg import page, pages
from memcg.sizes import PAGE_COUNTER_MAX

MIB = 1 << 20
ROOM = 64


def record(id_: int, path: str, usage: int, *, state: int = 1, max: int = PAGE_COUNTER_MAX,
           high: int = PAGE_COUNTER_MAX, peak: int = 0, runs: int = 0, inside: int = 0,
           **events: int) -> bytes:  # fmt: skip
    raw = path.encode()
    counts = [events.get(name, 0) for name in page.EVENTS]
    return page.RECORD.pack(
        2, id_, 0, 10**18, 0, state, len(raw), usage, peak or usage, max, high, -1, -1, 0,
        usage - runs, 0, runs, 0, *counts, *counts, 0, inside, raw,
    )  # fmt: skip


def write(
    path: Path, records: list[bytes], samples: list[tuple[int, int]] = (), pid: int = 1
) -> None:
    """Write a page. `samples` are (id of a group, usage)."""
    at = 4096
    events_at = at + ROOM * page.RECORD.size
    samples_at = events_at + 8 * page.EVENT.size
    size = samples_at + ROOM * page.SAMPLE.size
    header = page.HEADER.pack(
        page.MAGIC, page.VERSION, 4096, page.RECORD.size, ROOM, at, page.EVENT.size, 8, events_at,
        page.SAMPLE.size, ROOM, samples_at, size, pid, 1, pages.pid_namespace(), 10**18, 10**18, 0,
        len(samples), len(records), 0,
    )  # fmt: skip
    text = bytearray(size)
    text[: len(header)] = header
    text[at : at + len(records) * page.RECORD.size] = b"".join(records)
    for i, (id_, usage) in enumerate(samples):
        where = samples_at + i * page.SAMPLE.size
        text[where : where + page.SAMPLE.size] = page.SAMPLE.pack(10**18, id_, usage, usage)
    path.write_bytes(text)


def tenants(grown: int = 0) -> list[bytes]:
    """Return the records of a small tree; `grown` bytes are added to tenants/acme/web."""
    return [
        record(1, "", 300 * MIB + grown, max=1024 * MIB, high=896 * MIB, runs=100 * MIB, oom=3),
        record(2, "tenants", 200 * MIB + grown, oom=3),
        record(3, "tenants/acme", 150 * MIB + grown, max=160 * MIB, high=140 * MIB,
               inside=2, runs=75 * MIB, oom=2, fail=1),
        record(4, "tenants/acme/web", 64 * MIB + grown, max=64 * MIB, inside=1, oom=2, fail=1),
        record(5, "tenants/acme/jobs", 80 * MIB),
        record(6, "tenants/beta", 40 * MIB, max=512 * MIB, high=448 * MIB, oom=1),
        record(7, "tenants/old", 3 * MIB, state=2),
    ]  # fmt: skip
