# SPDX-License-Identifier: Apache-2.0
"""`memcg run`: its options and limits, the exit status 137, and the account at the end."""

from __future__ import annotations

import json
import os
import re
from contextlib import contextmanager

import pytest

import memcg
from memcg.cli import report, run
from memcg.cli._execute import Target
from memcg.cli._system import System, parse_slabinfo

from .conftest import BARE

OOM = "import memcg\nraise memcg.MemcgOOM(\"group 'a': charge of 8.0 MiB is over memory.max; go\")"
LINE = "memcg: group 'a': charge of 8.0 MiB is over memory.max; go\n"


# -- the command line


@pytest.mark.parametrize(
    ("args", "target", "rest"),
    [
        (["a.py", "--max", "1"], Target("script", "a.py"), ["--max", "1"]),
        (["--report", "-m", "a.b", "-c"], Target("module", "a.b"), ["-c"]),
        (["-ma"], Target("module", "a"), []),
        (["-c", "1", "2"], Target("command", "1"), ["2"]),
        (["-", "x"], Target("stdin", "-"), ["x"]),
        (["--", "a.py", "--"], Target("script", "a.py"), ["--"]),
        (["--", "-m", "x"], Target("script", "-m"), ["x"]),
    ],
)
def test_what_follows_the_program_is_the_programs(args, target, rest):
    options = run.parse(args)
    assert (options.target, options.args) == (target, rest)


def test_limits_are_read():
    options = run.parse(["--max", "64MiB", "--high=75%", "a"])
    assert (options.max, options.high) == (64 << 20, 48 << 20)
    assert run.parse(["--max", "4096", "a"]).max == 4096
    assert run.parse(["a"]).max is None


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--max", "512M", "a"], "ambiguous: write 512MiB (binary) or 512MB (decimal)"),
        (["--max", "12QB", "a"], "'12QB' is not a size"),
        (["--max", "-1", "a"], "'-1' is not a size"),
        (["--max=", "a"], "'' is not a size"),
        (["--max", "50%", "a"], "share of nothing"),
        (["--high", "50%", "a"], "give --max too"),
        (["--high"], "--high: expected one argument"),
        (["-m"], "-m: expected one argument"),
        (["--maxx", "1", "a"], "unrecognized argument '--maxx'"),
        (["-X", "dev", "a"], "write options of python before"),
        ([], "nothing to run"),
        (["--report"], "nothing to run"),
    ],
)
def test_bad_usage_says_what_and_ends_with_2(cli, args, said):
    shown = cli.memcg("run", *args)
    assert (shown.status, shown.out) == (2, "")
    assert said in shown.err
    assert shown.err.startswith("usage: memcg run")


def test_help_has_examples(cli):
    assert "memcg run --max" in cli.memcg("run", "--help").out
    shown = cli.memcg("--help")
    assert "examples:" in shown.out
    assert "doctor" in shown.out


def test_version_is_the_packages(cli):
    assert cli.memcg("--version").out == f"memcg {memcg.__version__}\n"


def test_no_verb_is_wrong_usage(cli):
    assert (cli.memcg().status, cli.memcg("nonsense").status) == (2, 2)


def test_a_new_file_is_a_new_verb(cli):
    cli.write(
        {
            "verb/hello.py": "def add_parser(s): s.add_parser('hello').add_argument('n')\n"
            "def main(args): print('hello', args.n); return 5\n"
        }
    )
    code = (
        "import memcg.cli as c; c.__path__.append('verb'); raise SystemExit(c.main(['hello', 'x']))"
    )
    shown = cli.python("-c", code)
    assert (shown.out, shown.status) == ("hello x\n", 5)


def test_a_missing_script_is_reported_before_anything_is_installed(cli):
    shown = cli.memcg("run", "--report", "nothing.py")
    assert shown == cli.python("nothing.py")
    assert shown.status == 2


def test_where_it_cannot_install_it_says_so(cli):
    cli.write({"none.py": "import sys, memcg\nfrom memcg.cli import run, _system\n"
               "class S(_system.System):\n  def install(self): raise memcg.MemcgError('why')\n"
               "sys.exit(run.start(['-c', 'print(1)'], S()))"})  # fmt: skip
    shown = cli.python("none.py")
    assert (shown.out, shown.err, shown.status) == ("", "memcg run: cannot run here: why\n", 125)


def test_the_roots_limits_are_set(cli):
    code = "import memcg; print(memcg.root.max, memcg.root.high)"
    shown = cli.bare("--max", "64MiB", "--high", "32MiB", "-c", code)
    assert shown.out == f"{64 << 20} {32 << 20}\n"


# -- 137


def test_a_memcg_failure_ends_with_a_traceback_one_line_and_137(cli):
    cli.write({"prog.py": OOM})
    shown, plain = cli.bare("prog.py"), cli.python("prog.py")
    assert (shown.err, shown.status) == (plain.err + LINE, 137)


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("import memcg\nraise ExceptionGroup('g', [memcg.MemcgOOM('x'), memcg.MemcgOOM(1)])", 137),
        ("import memcg\nraise ExceptionGroup('g', [memcg.MemcgOOM('x'), ValueError('y')])", 1),
        ("import memcg\nraise memcg.MemcgOOM", 137),
        ("import memcg\nmemcg.core.last_failure = lambda: 'group x: y'\n[0] * (2**63 - 1)", 137),
        ("import memcg\nmemcg.core.last_failure = lambda: 'group x: y'\nraise MemoryError", 1),
        ("import memcg\nmemcg.core.last_failure = lambda: None\nraise MemoryError", 1),
        ("e = MemoryError()\ne.add_note(\"group 'a': is over memory.max\")\nraise e", 137),
        ("import memcg\nmemcg.core.last_failure = lambda: None\nraise memcg.OfflineError('x')", 1),
        ("import memcg\ntry: raise memcg.MemcgOOM('x')\nexcept MemoryError: raise ValueError", 1),
        ("import memcg, sys\ntry: raise memcg.MemcgOOM('x')\nexcept MemoryError: sys.exit(3)", 3),
        ("import memcg, threading\ndef f(): raise memcg.MemcgOOM('x')\n"
         "threading.Thread(target=f).start()", 0),
    ],
)  # fmt: skip
def test_137_is_for_a_memcg_failure_that_ends_the_main_thread(cli, code, status):
    cli.write({"prog.py": code})
    shown, plain = cli.bare("prog.py"), cli.python("prog.py")
    assert shown.status == status
    added = shown.err.removeprefix(plain.err)
    assert bool(re.fullmatch(r"memcg: group .*\n|memcg: x\n", added)) == (status == 137)
    assert shown.err.startswith(plain.err)


def test_an_alarm_without_text_is_described_by_the_groups_values(cli):
    shown = cli.bare("--max", "64MiB", "-c", "import memcg; raise memcg.MemcgOOM")
    line = shown.err.splitlines()[-1]
    assert line.startswith("memcg: group '/': charges passed memory.max (current ")
    assert "max 64.0 MiB); raise memory.max or free memory" in line


def test_a_hook_that_fails_does_not_swallow_the_line(cli):
    cli.write({"prog.py": "import sys\nsys.excepthook = None\n" + OOM})
    assert LINE in cli.bare("prog.py").err


def test_the_line_is_printed_when_stderr_is_closed_or_replaced(cli):
    cli.write({"prog.py": "import sys, io\nsys.stderr = io.StringIO()\nsys.stderr.close()\n" + OOM})
    shown = cli.bare("prog.py")
    assert (shown.err.endswith(LINE), shown.status) == (True, 137)


def test_atexit_runs_after_137_and_the_limit_is_back(cli):
    text = "import atexit, memcg\natexit.register(lambda: print(memcg.root.max))\n" + OOM
    cli.write({"prog.py": text})
    shown = cli.bare("--max", "64MiB", "prog.py")
    assert (shown.out, shown.status) == (f"{64 << 20}\n", 137)


# -- the account

TREE = (
    "import memcg\n"
    "memcg.group('tenants/a', max='1MiB'); memcg.group('tenants/b')\n"
    "c = memcg.KmemCache('frame', size=4096); kept = [c.alloc() for _ in range(3)]\n"
)

ENDINGS = {
    "end": ("", 0),
    "exit": ("raise SystemExit(3)", 3),
    "exception": ("1/0", 1),
    "oom": ("raise memcg.MemcgOOM('x')", 137),
    "interrupt": ("raise KeyboardInterrupt", -2),
    "thread": ("import threading; threading.Thread(target=print).start()", 0),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_account_is_printed_however_the_program_ends(cli, ending):
    code, status = ENDINGS[ending]
    cli.write({"prog.py": TREE + code})
    shown = cli.bare("--max", "64MiB", "--report", "--json", "a.json", "prog.py", "x")
    assert shown.status == status
    assert shown.err.count("memcg: charged ") == 1
    text = shown.err[shown.err.index("memcg: charged ") :]
    assert re.search(r"^  tenants +", text, re.M)
    assert re.search(r"^    a .* 1\.0 MiB ", text, re.M)
    assert re.search(r"^frame +[\d.]+ [KM]iB +3/", text, re.M)
    account = json.loads((cli.directory / "a.json").read_text())
    assert account["program"] == ["prog.py", "x"]
    assert account["groups"][0]["path"] == ""
    assert {g["path"] for g in account["groups"]} == {"", "tenants", "tenants/a", "tenants/b"}
    assert account["groups"][0]["max"] == 64 << 20
    assert account["rss"] > 0


def test_the_account_is_printed_after_the_programs_atexit_handlers(cli):
    code = "import atexit, sys\natexit.register(lambda: print('handler', file=sys.stderr))"
    shown = cli.bare("--report", "-c", code)
    assert shown.err.startswith("handler\nmemcg: charged")


def test_a_forked_child_gives_no_account(cli):
    code = "import os\npid = os.fork()\nif pid: os.wait()"
    shown = cli.bare("--report", "--json", "a.json", "-c", code)
    assert shown.err.count("memcg: charged") == 1
    assert os.listdir(cli.directory) == ["a.json"]


def test_os_exit_gives_no_account(cli):
    shown = cli.bare("--report", "--json", "a.json", "-c", "import os; os._exit(0)")
    assert (shown.err, os.listdir(cli.directory)) == ("", [])


def test_nothing_is_printed_without_a_request(cli):
    shown = cli.bare("--max", "64MiB", "-c", "pass")
    assert (shown.out, shown.err, shown.status) == ("", "", 0)


def test_a_program_that_took_stderr_away_still_gets_its_account(cli):
    shown = cli.bare("--report", "-c", "import sys; sys.stderr = None; sys.__stderr__ = None")
    assert "memcg: charged" in shown.err


@pytest.mark.parametrize("path", ["no/such/dir/a.json", ".", "prog.py/a.json", ""])
def test_a_path_that_cannot_be_written_is_refused_before_the_program(cli, path):
    cli.write({"prog.py": "print('ran')"})
    shown = cli.bare("--json", path, "prog.py")
    assert (shown.out, shown.status) == ("", 2)
    assert f"cannot write {path!r}" in shown.err
    assert os.listdir(cli.directory) == ["prog.py"]


def test_json_is_written_where_it_was_asked_for_when_the_program_changes_directory(cli):
    cli.bare("--json", "a.json", "-c", "import os; os.chdir('/')")
    assert json.loads((cli.directory / "a.json").read_text())["memcg"] == memcg.__version__


def test_json_is_written_through_a_link_and_keeps_the_files_mode(cli):
    cli.write({"real.json": "old"})
    (cli.directory / "real.json").chmod(0o640)
    (cli.directory / "link.json").symlink_to("real.json")
    cli.bare("--json", "link.json", "-c", "pass")
    assert (cli.directory / "link.json").is_symlink()
    assert (cli.directory / "real.json").stat().st_mode & 0o777 == 0o640
    assert json.loads((cli.directory / "real.json").read_text())


def test_json_is_written_directly_to_what_is_no_file(cli):
    shown = cli.bare("--json", "/dev/stderr", "-c", "pass")
    assert json.loads(shown.err)["groups"]


def test_json_to_a_redirected_stream_keeps_what_is_there(cli):
    with open(cli.directory / "log", "wb") as log:
        cli.popen(BARE, "--json", "/dev/stdout", "-c", "print('mine')", stdout=log).communicate()
    text = (cli.directory / "log").read_text()
    assert text.startswith("mine\n{")


def test_json_that_fails_midway_leaves_the_old_file_whole(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    path.write_text("old")

    def fails(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(OSError, match="No space"):
        report.write_json(str(path), {"a": 1})
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.json"]


def test_many_groups_are_cut_with_a_count():
    group = {"path": "g", "current": 1, "peak": 1, "max": None, "high": None, "events": {}}
    account = {
        "charged": 5, "charged_peak": 9, "rss": 10, "rss_peak": 10,
        "groups": [group] * 50, "caches": [],
    }  # fmt: skip
    text = report.render(account)
    assert text.startswith("memcg: charged 5 B of 10 B resident (50 %)")
    assert "... and 10 more groups" in text


def test_more_charged_than_resident_is_explained():
    account = {
        "charged": 20, "charged_peak": 20, "rss": 10, "rss_peak": 10, "groups": [], "caches": [],
    }  # fmt: skip
    assert "charged 20 B, resident 10 B (pages that are not touched" in report.render(account)


def test_an_alarm_held_back_while_the_account_is_printed_is_dropped(monkeypatch):
    @contextmanager
    def shield():
        yield
        raise memcg.MemcgOOM("late")

    monkeypatch.setattr(memcg, "shield", shield, raising=False)
    system, before = System(), (memcg.root.max, memcg.root.high)
    with system.room():
        assert memcg.root.max > 1 << 60
    assert (memcg.root.max, memcg.root.high) == before
    with pytest.raises(memcg.MemcgOOM, match="early"), system.room():
        raise memcg.MemcgOOM("early")


def test_slabinfo_is_read_back():
    with memcg.KmemCache("read-back", size=1000) as cache:
        kept = cache.alloc()
        found = {line.name: line for line in parse_slabinfo("", memcg.slabinfo())}
        assert found["read-back"].active_objs == 1
        assert found["read-back"].size >= found["read-back"].num_objs * 1000
        cache.free(kept)


def test_the_biggest_caches_come_first():
    with memcg.KmemCache("small", size=64) as a, memcg.KmemCache("large", size=4096) as b:
        kept_a, kept_b = [a.alloc()], [b.alloc() for _ in range(20)]
        sizes = [line.size for line in System().caches()]
        assert sizes == sorted(sizes, reverse=True)
        for buf in kept_a:
            a.free(buf)
        for buf in kept_b:
            b.free(buf)
