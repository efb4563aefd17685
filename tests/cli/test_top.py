# SPDX-License-Identifier: Apache-2.0
"""``memcg top`` as text: rows, columns and turns. tests/hosts has the screen."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import subprocess
import sys
from collections import deque
from pathlib import Path

import pytest

from memcg import page

pytest.importorskip("click", reason="click is not installed for this Python")

from memcg.cli.verbs import _watch

HERE = Path(__file__).parent
MIB = 1 << 20


def made():
    spec = importlib.util.spec_from_file_location("pages_made", HERE / "pages_made.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def watch(tmp_path):
    """A watch over a page that a test can write again."""
    path = tmp_path / "p"
    made().write(path, made().tenants(), [(4, 16 * MIB), (4, 32 * MIB)])
    with page.Page(str(path)) as of:
        yield _watch.Watch(of)


def names(watch) -> list[str]:
    return ["  " * row.depth + row.name for row in watch.rows()]


def test_the_tree_has_siblings_by_the_chosen_column(watch):
    watch.read(0)
    assert names(watch) == [
        "/", "  tenants", "    acme", "      jobs", "      web", "    beta", "    old",
    ]  # fmt: skip
    watch.sort = "oom"
    assert names(watch)[2:5] == ["    acme", "      web", "      jobs"]
    watch.sort = "max"
    assert names(watch)[2:] == ["    beta", "    acme", "      web", "      jobs", "    old"]


def test_a_folded_group_says_how_many_are_below_it(watch):
    watch.read(0)
    watch.folded = {2}
    assert names(watch) == ["/", "  tenants"]
    assert watch.cells(watch.rows()[1])[0] == "  tenants +5"
    watch.folded = {3}
    assert watch.cells(watch.rows()[2])[0] == "    acme +2"
    watch.folded, watch.depth = set(), 1
    assert names(watch) == ["/", "  tenants"]


def test_a_filter_keeps_what_is_above(watch):
    watch.read(0)
    watch.filter = "web"
    assert names(watch) == ["/", "  tenants", "    acme", "      web"]
    watch.flat = True
    assert names(watch) == ["tenants/acme/web"]


def test_flat_is_one_list_by_the_column(watch):
    watch.read(0)
    watch.flat = True
    assert names(watch)[:3] == ["/", "tenants", "tenants/acme"]
    watch.sort = "fail"
    assert names(watch)[:2] == ["tenants/acme", "tenants/acme/web"]


def test_the_difference_a_second_and_the_sparkline_come_from_what_was_read(watch):
    watch.read(100)
    made().write(Path(watch.page.path), made().tenants(grown=8 * MIB))
    watch.read(102)
    (web,) = (row for row in watch.rows() if row.name == "web")
    assert web.delta == 4 * MIB
    assert watch.cells(web) == [
        "      web", "72.0 MiB", "64.0 MiB", "112", "72.0 MiB", "+4.0 MiB", "0", "2", "1", "1",
        "100",
    ]  # fmt: skip
    assert list(web.history) == [16 * MIB, 32 * MIB, 64 * MIB, 72 * MIB]  # the ring's, then ours
    assert _watch.spark(web.history).strip() == "▂▄██"
    watch.percents = True
    assert watch.cells(web)[1] == "23.4 %"


def test_the_bars_of_a_sparkline():
    assert _watch.spark(deque([0, 0]), 4) == "    "
    assert _watch.spark(deque([1, 1000]), 2) == "▁█"  # what is not 0 is seen
    assert _watch.spark(deque(maxlen=4), 3) == "   "


def test_the_header_counts_groups_and_the_rest(watch):
    header = watch.read(0)
    assert (header.online, header.dying, header.charged) == (6, 1, 300 * MIB)
    lines = _watch.header_lines(header, "12:00:00")
    assert "groups: 6 online, 1 dying" in lines[1]


def test_the_header_of_a_process_that_has_ended_does_not_compare_with_its_resident_set(watch):
    header = dataclasses.replace(watch.read(0), alive=False, rss=0)
    lines = _watch.header_lines(header, "12:00:00")
    assert "(ended)" in lines[0]
    assert lines[1] == "charged at the end 300.0 MiB; groups: 6 online, 1 dying"


PROGRAM = """
import memcg, sys
memcg.install()
memcg.publish()
with memcg.group("tenants/a", max="64MiB"):
    keep = bytearray(8 << 20)
    print("ready", flush=True)
    sys.stdin.readline()
    list(map(str, range(40_000_000)))
"""


@pytest.fixture
def watched(cli, native, tmp_path):
    cli.env["MEMCG_RUNTIME_DIR"] = str(tmp_path / "run")
    cli.write({"program.py": PROGRAM.replace('"64MiB"', '"8GiB"')})
    with cli.popen("program.py", stdin=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"ready\n"
        yield process
        process.kill()


def test_one_look_is_a_table(cli, watched):
    shown = cli.memcg("top", "-n", "1")
    assert (shown.status, shown.err) == (0, "")
    lines = shown.out.splitlines()
    assert f"process {watched.pid}" in lines[0]
    assert "groups: 3 online, 0 dying" in lines[1]
    assert lines[3].split() == list(_watch.TITLES)
    assert [line.split()[0] for line in lines[4:]] == ["/", "tenants", "a"]
    flat = cli.memcg("top", "-n", "1", "--flat", "--depth", "1").out.splitlines()
    assert [line.split()[0] for line in flat[4:]] == ["/", "tenants"]


def test_while_the_gil_is_held_top_shows_the_group_growing(cli, watched):
    watched.stdin.write(b"\n")
    watched.stdin.flush()
    with cli.popen("-m", "memcg", "top", "--json", "-d", "0.2", "-n", "8") as top:
        usages = []
        for line in top.stdout:
            groups = {g["path"]: g for g in json.loads(line)["groups"]}
            usages.append(groups["tenants/a"]["current"])
    assert watched.poll() is None
    assert usages[-1] > usages[0] + 20 * MIB
    assert len(set(usages)) >= 4, usages


def test_top_ends_with_the_process(cli, watched):
    with cli.popen("-m", "memcg", "top", "-b", "-d", "0.1") as top:
        assert top.stdout.readline().startswith(b"memcg top - ")
        watched.kill()
        watched.wait()
        rest = top.stdout.read()
        assert top.wait(30) == 0
    assert b"(ended)" in rest


def test_without_textual_the_screen_says_what_to_do_and_a_look_works(cli, watched):
    cli.write({"textual/__init__.py": "raise ModuleNotFoundError('no', name='textual')"})
    cli.env["PYTHONPATH"] = f"{cli.directory}:{cli.env['PYTHONPATH']}"
    shown = cli.memcg("top")
    assert shown.status == 1
    assert shown.err == (
        "memcg: the screen needs textual, which is not installed; pip install 'memcg[top]', or "
        "use memcg top -b or -n 1\n"
    )
    assert cli.memcg("top", "-n", "1").status == 0


def test_neither_click_nor_textual_is_imported_by_memcg_and_by_run(cli):
    code = (
        "import sys, memcg; print([m for m in ('click', 'textual', 'socket') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], env=cli.env, capture_output=True, text=True)
    assert done.stdout == "[]\n"
    assert cli.memcg("run", "-c", code).out == "[]\n"
