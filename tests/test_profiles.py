# SPDX-License-Identifier: Apache-2.0
"""What lives by call stack, in pprof's and speedscope's formats and in lines."""

from __future__ import annotations

import gzip
import json

import pytest

from memcg.profiles import encode, folded, pprof, speedscope
from memcg.sites import Frame, Site, Sites, from_dict, lines, where

MAIN = Frame("/app/main.py", "<module>", 9, 1)
LOAD = Frame("/app/lo;ad.py", "load.<locals>.größe", 40, 33)
OTHER = Frame("/app/lo;ad.py", "load.<locals>.größe", 41, 33)  # another line of the same function
C = Frame("/lib/libarrow.so", "(C code)", 0, 0)
FOUND = Sites(
    524288, 30, 0, 9_000_000, 1_000_000,
    [
        Site("tenants/a", (MAIN, LOAD), 5_000_000, 300_000_000_000, 20),
        Site("", (MAIN, OTHER, C), 3_000_000, 7, 8),
        Site("tenants/a", (), 1_000_000, 2, 2),
    ],
)  # fmt: skip


def fields(data: bytes) -> list[tuple[int, int | bytes]]:
    """Read a message of protobuf's wire format: (number, integer or bytes) for each field."""
    found: list[tuple[int, int | bytes]] = []
    at = 0

    def varint() -> int:
        nonlocal at
        n = shift = 0
        while True:
            byte = data[at]
            at += 1
            n |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return n

    while at < len(data):
        key = varint()
        n = varint()
        if key & 7 == 2:
            found.append((key >> 3, data[at : at + n]))
            assert at + n <= len(data)
            at += n
        else:
            assert key & 7 == 0, key
            found.append((key >> 3, n))
    return found


def packed(data: bytes) -> list[int]:
    found, n, shift = [], 0, 0
    for byte in data:
        n |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            found.append(n)
            n = shift = 0
    return found


def test_pprof_has_each_stack_with_its_bytes_blocks_and_group():
    profile = fields(gzip.decompress(pprof(FOUND)))
    strings = [text.decode() for number, text in profile if number == 6]
    assert strings[0] == ""
    assert len(set(strings)) == len(strings)
    functions = {f[1]: f for n, data in profile if n == 5 for f in [dict(fields(data))]}
    locations = {f[1]: dict(fields(f[4])) for n, d in profile if n == 4 for f in [dict(fields(d))]}

    def frame(location: int) -> Frame:
        line = locations[location]
        f = functions[line[1]]
        return Frame(strings[f[4]], strings[f[2]], line.get(2, 0), f.get(5, 0))

    samples = []
    for number, data in profile:
        if number == 2:
            sample = dict(fields(data))
            label = dict(fields(sample[3]))
            assert strings[label[1]] == "group"
            stack = tuple(frame(i) for i in reversed(packed(sample[1])))
            samples.append((strings[label[2]], stack, packed(sample[2])))
    assert samples == [(s.group or "/", s.stack, [s.blocks, s.nbytes]) for s in FOUND.sites]
    types = [dict(fields(d)) for n, d in profile if n == 1]
    assert [(strings[t[1]], strings[t[2]]) for t in types] == [
        ("inuse_objects", "count"), ("inuse_space", "bytes")]  # fmt: skip
    rest = dict(profile)
    assert (rest[12], strings[rest[14]]) == (524288, "inuse_space")
    assert len(functions) == 3  # the two lines of one function share it


def test_speedscope_has_each_stack_and_weights_in_bytes():
    profile = json.loads(encode(FOUND, "x.speedscope.json", "live"))
    assert profile == speedscope(FOUND, "live")
    (of,) = profile["profiles"]
    frames = profile["shared"]["frames"]
    assert (of["type"], of["unit"], of["startValue"], of["endValue"]) == (
        "sampled", "bytes", 0, 9_000_000)  # fmt: skip
    assert of["weights"] == [5_000_000, 3_000_000, 1_000_000]
    names = [[frames[i]["name"] for i in stack] for stack in of["samples"]]
    assert names[0] == ["group tenants/a", "<module>", "load.<locals>.größe"]
    assert names[2] == ["group tenants/a"]
    assert frames[of["samples"][0][2]] == {
        "name": "load.<locals>.größe", "file": "/app/lo;ad.py", "line": 40}  # fmt: skip


def test_a_line_of_a_folded_stack_is_cut_at_semicolons_only_between_frames():
    text = folded(FOUND)
    assert text.splitlines()[0] == (
        "tenants/a;<module> (main.py:9);load.<locals>.größe (lo,ad.py:40) 5000000"
    )
    assert [line.count(";") for line in text.splitlines()] == [2, 3, 0]


def test_json_has_the_biggest_stacks_and_the_sum_of_the_others():
    made = json.loads(json.dumps(FOUND.as_dict()))
    assert from_dict(made) == FOUND
    assert made["rest"] == 0
    cut = FOUND.as_dict(most=1)
    assert (len(cut["sites"]), cut["rest"], len(cut["frames"])) == (1, 4_000_000, 2)


def test_the_end_of_the_name_tells_the_format():
    assert gzip.decompress(encode(FOUND, "a.pb.gz", ""))
    assert encode(FOUND, "a.folded", "").decode() == folded(FOUND)
    with pytest.raises(ValueError, match=r"\.speedscope\.json, \.pb\.gz, \.folded"):
        encode(FOUND, "a.json", "")


def test_a_report_has_the_innermost_frames_and_says_how_sure_it_is():
    text = lines(FOUND)
    assert text[0] == (
        "allocated by (an estimate from 30 samples, one in 512.0 KiB; in all 8.6 MiB, give or take "
        "1.9 MiB):"
    )
    assert text[1].split() == [
        "4.8", "MiB", "tenants/a:", "load.<locals>.größe", "(lo;ad.py:40)", "<", "<module>",
        "(main.py:9)"]  # fmt: skip
    many = Site("", tuple(Frame("f.py", f"f{i}", i, 0) for i in range(9)), 1, 1, 1)
    assert where(many) == "f8 (f.py:8) < f7 (f.py:7) < f6 (f.py:6) < ..."
    assert lines(Sites(0, 0, 0, 0, 0, [])) == []
    assert "no sampled block lives" in lines(Sites(4096, 0, 0, 0, 0, []))[0]
