# SPDX-License-Identifier: Apache-2.0
"""``memcg ps, ls, tree, events, cat, set, slabinfo, report``: a process looks at another."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys

import pytest

from memcg.cli.verbs import VERBS

pytest.importorskip("click", reason="click is not installed for this Python")

PROGRAM = """
import memcg, sys
memcg.group("tenants/b", max="32MiB")
with memcg.group("tenants/a", max="64MiB"):
    keep = bytearray(8 << 20)
    try: bytearray(100 << 20)
    except MemoryError: pass
    print("ready", flush=True)
    sys.stdin.read()
"""
MIB = 1 << 20


@pytest.fixture
def watched(cli, native, tmp_path):
    """Start programs by ``memcg run``, whose pages lie in a folder of this test's own."""
    cli.env["MEMCG_RUNTIME_DIR"] = str(tmp_path / "run")
    cli.write({"program.py": PROGRAM})
    started = []

    def start(*options: str, program: str = "program.py") -> subprocess.Popen[bytes]:
        process = cli.popen("-m", "memcg", "run", *options, program, stdin=subprocess.PIPE)
        started.append(process)
        assert process.stdout.readline() == b"ready\n", process.communicate()
        return process

    yield start
    for process in started:
        process.kill()
        with process:
            pass


def ok(shown) -> str:
    assert (shown.status, shown.err) == (0, ""), shown
    return shown.out


def failed(shown, status=1) -> str:
    assert (shown.status, shown.out) == (status, ""), shown
    assert "Traceback" not in shown.err
    return shown.err


def test_a_program_under_memcg_run_is_listed_with_its_groups(cli, watched):
    process = watched("--max", "1GiB")
    (listed,) = json.loads(ok(cli.memcg("ps", "--json")))
    assert (listed["pid"], listed["groups"], listed["control"]) == (process.pid, 4, False)
    assert listed["rss"] > 8 * MIB
    assert "memcg run --max 1GiB program.py" in ok(cli.memcg("ps"))

    lines = ok(cli.memcg("ls", "-R")).splitlines()
    assert [line.split()[0] for line in lines] == [
        "GROUP", "/", "tenants", "tenants/a", "tenants/b",
    ]  # fmt: skip
    assert "fail 1" in lines[3]
    assert [line.split()[0] for line in ok(cli.memcg("ls")).splitlines()] == [
        "GROUP", "/", "tenants",
    ]  # fmt: skip
    figures = {g["path"]: g for g in json.loads(ok(cli.memcg("ls", "-R", "--json")))}
    a = figures["tenants/a"]
    assert 8 * MIB < a["current"] < 9 * MIB
    assert (a["max"], a["inside"], a["events"]["oom"]) == (64 * MIB, 1, 1)
    assert figures["tenants"]["max"] is None


def test_the_tree_is_drawn_and_nested(cli, watched):
    watched()
    assert [line.rstrip("0123456789. MKiBof") for line in ok(cli.memcg("tree")).splitlines()] == [
        "/", "└─ tenants", "   ├─ a", "   └─ b",
    ]  # fmt: skip
    assert len(ok(cli.memcg("tree", "--depth", "1")).splitlines()) == 2
    tree = json.loads(ok(cli.memcg("tree", "--json")))
    assert [c["path"] for c in tree["children"][0]["children"]] == ["tenants/a", "tenants/b"]


def test_events_are_listed_and_followed(cli, watched):
    process = watched()
    events = [json.loads(line) for line in ok(cli.memcg("events", "--json")).splitlines()]
    assert [e["kind"] for e in events] == ["max", "oom", "fail"]
    assert {e["group"] for e in events} == {"tenants/a"}
    assert "fail       tenants/a  asked 100.0 MiB" in ok(cli.memcg("events", "-n", "1"))
    follower = cli.popen("-m", "memcg", "events", "-f", "--json")
    with follower:
        for _ in events:
            assert json.loads(follower.stdout.readline())["group"] == "tenants/a"
        process.kill()
        process.wait()
        assert follower.wait(30) == 0  # the process is gone
    assert "no process publishes" in failed(cli.memcg("events"))


def test_without_a_socket_cat_reads_the_page_and_the_others_say_what_to_do(cli, watched):
    watched()
    assert 8 * MIB < int(ok(cli.memcg("cat", "tenants/a", "memory.current"))) < 9 * MIB
    assert ok(cli.memcg("cat", "tenants/a", "memory.max")) == f"{64 * MIB}\n"
    assert ok(cli.memcg("cat", "/", "memory.max")) == "max\n"
    assert "fail 1\n" in ok(cli.memcg("cat", "tenants/a", "memory.events.local"))
    assert "page_runs" in ok(cli.memcg("cat", "tenants/a", "memory.stat"))
    for args in (
        ("cat", "tenants/a", "cgroup.stat"), ("set", "tenants/a", "memory.max", "1G"),
        ("slabinfo",), ("report", "/"),
    ):  # fmt: skip
        assert "memcg run --control" in failed(cli.memcg(*args))


def test_with_a_socket_files_are_read_and_written(cli, watched):
    watched("--control=write")
    assert 8 * MIB < int(ok(cli.memcg("cat", "tenants/a", "memory.current"))) < 9 * MIB
    assert ok(cli.memcg("cat", "/", "cgroup.stat")).splitlines()[0] == "nr_descendants 3"
    assert ok(cli.memcg("set", "tenants/a", "memory.max", "512M")) == f"{512 * MIB}\n"
    assert ok(cli.memcg("cat", "tenants/a", "memory.max", "--json")) == f"{512 * MIB}\n"
    assert ok(cli.memcg("set", "tenants/a", "memory.max", "max")) == "max\n"
    assert "not a size" in failed(cli.memcg("set", "tenants/a", "memory.max", "few"))
    assert ok(cli.memcg("slabinfo")).startswith("slabinfo - version: 2.1\n")
    assert {line["name"] for line in json.loads(ok(cli.memcg("slabinfo", "--json")))}
    assert "bytearray" in ok(cli.memcg("report", "tenants/a"))


def test_a_socket_for_reading_refuses_to_write(cli, watched):
    watched("--control")
    assert "--control=write" in failed(cli.memcg("set", "tenants/a", "memory.max", "1G"))


def test_one_of_two_processes_has_to_be_chosen(cli, watched):
    one, two = watched(), watched()
    assert "2 processes publish" in failed(cli.memcg("ls"))
    assert ok(cli.memcg("ls", "--pid", str(two.pid)))
    one.send_signal(signal.SIGKILL)
    one.wait()
    assert ok(cli.memcg("ls"))  # the killed one's page is stale
    assert f"process {one.pid} does not publish" in failed(cli.memcg("ls", "-p", str(one.pid)))


def test_a_program_that_does_not_publish_is_not_seen(cli, watched):
    watched("--no-publish")
    assert "no process publishes" in failed(cli.memcg("ls"))
    assert cli.memcg("ps").status == 1
    wrong = cli.memcg("run", "--no-publish", "--control", "program.py")
    assert "--control: it needs the page" in failed(wrong, 2)
    wrong = cli.memcg("run", "--control=all", "program.py")
    assert "'all' is neither read nor write" in failed(wrong, 2)


@pytest.mark.parametrize("args", [
    ("cat", "tenants/a"), ("cat", "tenants/a", "memory.none"), ("events", "--none"), ("set", "a"),
    ("ls", "--pid", "x"), ("tree", "--depth", "-1"),
])  # fmt: skip
def test_wrong_usage_has_status_two(cli, args):
    assert "Usage: memcg" in failed(cli.memcg(*args), 2)


def test_what_is_not_there_has_status_one(cli, watched):
    watched("--control")
    for args in (("ls", "none"), ("tree", "none"), ("cat", "none", "memory.max")):
        assert "there is no group 'none'" in failed(cli.memcg(*args))


def test_there_is_colour_in_a_terminal_only_and_not_with_no_color(cli, watched):
    watched()

    def in_terminal(**more: str) -> bytes:
        ours, theirs = pty.openpty()
        with subprocess.Popen(
            [sys.executable, "-m", "memcg", "events"], cwd=cli.directory, env=cli.env | more,
            stdout=theirs, stdin=theirs,
        ) as process:  # fmt: skip
            os.close(theirs)
            shown = b""
            try:
                while part := os.read(ours, 65536):
                    shown += part
            except OSError:  # the terminal has no writer left
                pass
            os.close(ours)
            assert process.wait(30) == 0
        return shown

    assert b"\x1b[31m" in in_terminal()
    assert b"\x1b" not in in_terminal(NO_COLOR="1")
    assert "\x1b" not in ok(cli.memcg("events"))


def test_a_shell_completes_verbs_pids_paths_and_files(cli, watched):
    process = watched()

    def complete(words: str) -> list[str]:
        cli.env.update(_MEMCG_COMPLETE="bash_complete", COMP_WORDS=f"memcg {words}",
                       COMP_CWORD=str(len(words.split(" "))))  # fmt: skip
        return [line.partition(",")[2] for line in ok(cli.memcg()).splitlines()]

    assert complete("s") == ["set", "slabinfo"]
    assert set(complete("")) >= {"run", "doctor", "ps", "top"}
    assert complete("ls --pid ") == [str(process.pid)]
    assert complete("cat ten") == ["tenants", "tenants/a", "tenants/b"]
    assert complete("cat tenants/a memory.m") == ["memory.max"]
    del cli.env["_MEMCG_COMPLETE"]
    assert "_MEMCG_COMPLETE=bash_complete" in ok(cli.memcg("completion", "bash"))
    assert "#compdef memcg" in ok(cli.memcg("completion", "zsh"))


def test_without_click_the_verbs_say_what_to_install(cli):
    cli.write({"click.py": "raise ImportError('not here')"})
    cli.env["PYTHONPATH"] = f"{cli.directory}:{cli.env['PYTHONPATH']}"
    for verb in VERBS:
        assert failed(cli.memcg(verb)) == (
            f"memcg {verb}: needs click, which is not installed; pip install 'memcg[cli]'\n"
        )
    assert "memcg run" in ok(cli.memcg("--help"))


def test_the_help_names_each_verb(cli):
    shown = ok(cli.memcg("--help"))
    for verb, text in VERBS.items():
        assert verb in shown
        assert " ".join(text.split()[:3]) in shown
        assert "Usage: memcg" in ok(cli.memcg(verb, "--help"))
