# SPDX-License-Identifier: Apache-2.0
"""A reader of pages says what is wrong with rubbish, and believes nothing that it says."""

from __future__ import annotations

import os
import random
import re
import struct
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from environment import environment

from memcg import core, page, pages
from memcg.core.dataplane import EVENTS

PUBLISH_H = Path(__file__).parents[2] / "native" / "publish.h"
PROGRAM = """
import memcg, sys, shutil
memcg.install()
path = memcg.publish(groups=16, events=8, samples=32)
with memcg.group("tenants/a", max="16MiB"):
    keep = [bytearray(1 << 20) for _ in range(3)]
    for _ in range(2):
        try: bytearray(64 << 20)
        except MemoryError: pass
    memcg.group("tenants/ünicode")
    shutil.copy(path, sys.argv[1])
"""
LABELS = [
    "magic", "version", "header_bytes", "record_bytes", "nr_records", "records_at", "event_bytes",
    "nr_events", "events_at", "sample_bytes", "nr_samples", "samples_at", "file_bytes", "pid",
    "start_ticks", "pid_namespace", "began_ns", "updated_ns", "events_head", "samples_head",
    "used_records", "left_out",
]  # fmt: skip


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """The bytes of a page."""
    if core.name != "native":
        pytest.skip("only the native core writes pages")
    folder = tmp_path_factory.mktemp("good")
    folder.chmod(0o700)
    subprocess.run(
        [sys.executable, "-c", PROGRAM, folder / "copy"],
        env=environment(XDG_RUNTIME_DIR=str(folder)), check=True,
    )  # fmt: skip
    return (folder / "copy").read_bytes()


def read_all(path) -> page.Page:
    with page.Page(str(path)) as of:
        of.groups(gone=True)
        of.events()
        of.samples()
        assert of.updated >= 0 or of.updated < 0
        assert of.left_out >= 0
    return of


def header(good: bytes, **changes: object) -> bytes:
    fields = dict(zip(LABELS, page.HEADER.unpack_from(good), strict=True)) | changes
    return page.HEADER.pack(*fields.values()) + good[page.HEADER.size :]


def test_a_good_page_is_read(good, tmp_path):
    (tmp_path / "p").write_bytes(good)
    with page.Page(str(tmp_path / "p")) as of:
        assert [g.path for g in of.groups()] == ["", "tenants", "tenants/a", "tenants/ünicode"]
        (a,) = (g for g in of.groups() if g.path == "tenants/a")
        assert a.events["fail"] == a.events_local["fail"] == 2
        assert a.usage > 3 << 20
        assert {e.kind for e in of.events().entries} == {"max", "oom", "fail"}
        assert of.samples().entries[0].id == 1
        assert of.alive() is False  # its name is no page's


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"magic": b"memcgpx\0"}, "does not begin with memcgpg"),
        ({"version": 2}, "version 2, and version 1 can be read"),
        ({"file_bytes": 1 << 40}, "says that it has"),
        ({"file_bytes": 0}, "says that it has 0 bytes"),
        ({"record_bytes": 16}, "its records do not fit"),
        ({"nr_records": 1 << 31}, "its records do not fit"),
        ({"records_at": 8}, "its records do not fit"),
        ({"nr_events": 0}, "its events do not fit"),
        ({"events_at": (1 << 64) - 1}, "its events do not fit"),
        ({"samples_at": 1 << 20}, "its samples do not fit"),
        ({"used_records": 17}, "uses 17 of 16 records"),
    ],
)
def test_what_is_wrong_is_said(good, tmp_path, changes, said):
    (tmp_path / "p").write_bytes(header(good, **changes))
    with pytest.raises(page.PageError, match=re.escape(said)):
        read_all(tmp_path / "p")


@pytest.mark.parametrize("size", [0, 1, 135, 136, 4095, 4096, 8000])
def test_a_short_file_is_no_page(good, tmp_path, size):
    (tmp_path / "p").write_bytes(good[:size])
    with pytest.raises(page.PageError, match="bytes"):
        read_all(tmp_path / "p")


def test_a_page_that_is_cut_while_it_is_open_is_an_error_and_no_crash(good, tmp_path):
    (tmp_path / "p").write_bytes(good)
    with page.Page(str(tmp_path / "p")) as of:
        os.truncate(tmp_path / "p", 5000)
        with pytest.raises(page.PageError, match="shorter than it says"):
            of.groups()
        os.truncate(tmp_path / "p", 0)
        with pytest.raises(page.PageError, match="shorter than it says"):
            of.events()


def test_a_folder_a_pipe_and_a_missing_file_are_errors(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(page.PageError):  # and no wait for a writer
        page.Page(str(tmp_path / "pipe"))
    with pytest.raises((OSError, page.PageError)):
        page.Page(str(tmp_path))
    with pytest.raises(FileNotFoundError):
        page.Page(str(tmp_path / "none"))


def test_a_larger_record_of_a_later_writer_is_read(good, tmp_path):
    """A version may only grow its entries at their ends."""
    fields = dict(zip(LABELS, page.HEADER.unpack_from(good), strict=True))
    at, each, nr = fields["records_at"], 512, fields["nr_records"]
    records = b"".join(good[at + i * each :][:each] + bytes(64) for i in range(nr))
    larger = good[:at] + records + good[at + each * nr :]
    moved = 64 * nr
    larger = header(larger, record_bytes=each + 64, events_at=fields["events_at"] + moved,
                    samples_at=fields["samples_at"] + moved, file_bytes=len(larger))  # fmt: skip
    (tmp_path / "p").write_bytes(larger)
    assert [g.path for g in read_some(tmp_path / "p")] == [
        "", "tenants", "tenants/a", "tenants/ünicode",
    ]  # fmt: skip


def read_some(path) -> list[page.GroupFigures]:
    with page.Page(str(path)) as of:
        return of.groups()


def test_a_name_cannot_move_the_cursor_of_a_terminal(good, tmp_path):
    bad = good.replace(b"tenants/a\0", b"\x1b[2J\xff\n\x9b!!\0")
    (tmp_path / "p").write_bytes(bad)
    shown = "".join(g.path for g in read_some(tmp_path / "p"))
    assert "\N{REPLACEMENT CHARACTER}[2J" in shown
    assert shown.isprintable()
    with page.Page(str(tmp_path / "p")) as of:
        assert all(e.group.isprintable() for e in of.events().entries)


def record_at(good: bytes, path: str) -> int:
    at, each, nr = 4096, 512, 16
    (found,) = (
        at + i * each for i in range(nr)
        if good[at + i * each + 256 :].startswith(path.encode() + b"\0")
    )  # fmt: skip
    return found


def test_a_record_that_is_being_written_is_left_out_and_the_others_are_read(good, tmp_path):
    at = record_at(good, "tenants/a")
    (tmp_path / "p").write_bytes(good[:at] + struct.pack("<Q", 7) + good[at + 8 :])
    assert [g.path for g in read_some(tmp_path / "p")] == ["", "tenants", "tenants/ünicode"]


@pytest.mark.parametrize("seed", range(300))
def test_bytes_that_were_changed_at_random_are_read_or_refused(good, tmp_path, seed):
    random_ = random.Random(seed)
    bad = bytearray(good)
    for _ in range(random_.choice((1, 3, 40, 2000))):
        # the header and what is used lie at the beginning
        where = random_.randrange(random_.choice((136, 4096 + 16 * 512, len(bad))))
        bad[where] = random_.choice((0, 1, 0x7F, 0x80, 0xFF, random_.randrange(256)))
    if random_.random() < 0.2:
        del bad[random_.randrange(len(bad)) :]
    (tmp_path / "p").write_bytes(bad)
    with suppress(page.PageError):
        assert read_all(tmp_path / "p").pid >= 0


@pytest.mark.parametrize("seed", range(20))
def test_a_file_of_random_bytes_is_refused(tmp_path, seed):
    random_ = random.Random(seed)
    (tmp_path / "p").write_bytes(random_.randbytes(random_.randrange(20000)))
    with pytest.raises(page.PageError):
        read_all(tmp_path / "p")


def test_a_ring_returns_what_is_new_and_counts_what_was_overwritten(good, tmp_path):
    def events(head: int, since: int) -> page.Ring[page.PageEvent]:
        (tmp_path / "p").write_bytes(header(good, events_head=head))
        with page.Page(str(tmp_path / "p")) as of:
            return of.events(since)

    assert [e.seq for e in events(5, 0).entries] == [0, 1, 2, 3, 4]
    assert [e.seq for e in events(5, 3).entries] == [3, 4]
    assert events(5, 5) == page.Ring([], 5, 0)
    wrapped = events(20, 10)  # 8 are kept, and the writer may be at the oldest
    assert ([e.seq for e in wrapped.entries], wrapped.next, wrapped.dropped) == (
        list(range(13, 20)), 20, 3,
    )  # fmt: skip
    # another process's page, which has fewer
    assert [e.seq for e in events(5, 30).entries] == [0, 1, 2, 3, 4]
    assert events((1 << 64) - 1, 0).next == (1 << 64) - 1  # rubbish


def test_the_reader_and_the_writer_have_one_layout():
    text = PUBLISH_H.read_text()
    for name, struct_ in (("header", page.HEADER), ("record", page.RECORD), ("event", page.EVENT),
                          ("sample", page.SAMPLE)):  # fmt: skip
        (size,) = re.findall(rf"sizeof\(struct publish_{name}\) == (\d+)", text)
        assert int(size) == struct_.size
    offset = struct.calcsize("<8sII IIQ IIQ IIQ Q QQ")
    assert offset == pages.NAMESPACE_AT
    items = re.findall(r"^    MEMCG_EV_(\w+),", PUBLISH_H.with_name("memcg.h").read_text(), re.M)
    assert tuple(name.lower() for name in items) == EVENTS
