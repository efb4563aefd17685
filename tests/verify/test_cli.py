# SPDX-License-Identifier: Apache-2.0
"""`memcg verify` prints what is true, and its status shows whether the question's answer is yes."""

from __future__ import annotations

import subprocess
import sys

import pytest

from memcg import cli
from memcg.cli import verify
from memcg.verify import seam
from memcg.verify.scheme.schemes import FLAWS


def lost_update():
    cell = seam.Published(0)

    def increment():
        cell.store(cell.load() + 1)

    seam.parallel(increment, increment)
    assert cell.load() == 2, "an increment was lost"


def holds():
    mutex = seam.Mutex("mutex")

    def hold():
        with mutex:
            pass

    seam.parallel(hold, hold)


def lines_of(*items, **options):
    written = []
    status = verify.table(items, written.append, **options)
    return status, "".join(written).splitlines()[1:]


def item(program, **more):
    return verify.Item("name", "shipped", "title", program, {}, **more)


def test_a_row_that_holds_gives_status_0():
    status, (row, total) = lines_of(item(holds))
    assert status == 0
    assert row.split()[:3] == ["name", "shipped", "2"]
    assert row.endswith("holds, exhausted")
    assert total.endswith("; 0 of 1 outcomes are wrong")


def test_a_violated_row_gives_status_1_and_says_so_in_words():
    status, (row, _, total) = lines_of(item(lost_update), item(holds))
    assert status == 1
    assert row.endswith(": a rule is broken: an increment was lost")
    assert "violated at run" in row
    assert total.endswith("; 1 of 2 outcomes are wrong")


def test_a_row_that_is_not_exhausted_gives_status_1():
    status, (row, _) = lines_of(item(holds), max_schedules=1)
    assert status == 1
    assert row.endswith("NOT exhausted")


def test_a_flaw_that_is_found_gives_status_0_and_one_that_is_lost_status_1():
    assert lines_of(item(lost_update, flawed=True))[0] == 0
    status, (row, _) = lines_of(item(holds, flawed=True))
    assert status == 1
    assert row.endswith("the flaw was not found")


def test_a_violation_of_what_is_sound_gives_status_1():
    status, (row, _) = lines_of(item(lost_update))
    assert status == 1
    assert "violated at run" in row


@pytest.mark.parametrize("scheme", ["old", "patch"])
def test_the_flawed_schemes_are_violated_in_every_row(scheme, capsys):
    assert cli.main(["verify", "--scheme", scheme]) == 1
    out = capsys.readouterr().out
    assert out.count("violated at run") == sum(f.scheme == scheme for f in FLAWS.values())
    assert "holds" not in out


def test_a_flaw_is_shown_as_a_timeline_with_a_replay_string_that_replays_it(capsys):
    assert cli.main(["verify", "creation_offline", "--scheme", "patch"]) == 1
    out = capsys.readouterr().out
    assert "1: create_work" in out
    assert f"--replay '{FLAWS['D1'].replay}'" in out
    assert cli.main(["verify", "D1", "--replay", FLAWS["D1"].replay]) == 1
    assert capsys.readouterr().out.count("acquire memcg_slab_mutex") == 2


def test_the_same_scenario_holds_on_the_shipped_scheme(capsys):
    assert cli.main(["verify", "D1", "--scheme", "shipped"]) == 0
    assert capsys.readouterr().out.startswith("creation_offline shipped")


def test_a_replay_string_that_does_not_fit_is_refused(capsys):
    assert cli.main(["verify", "D1", "--replay", "7*3"]) == 1
    assert "replay string" in capsys.readouterr().err


def test_other_strategies_find_the_flaw_too():
    assert cli.main(["verify", "D1", "--strategy", "bounded", "--bound", "1"]) == 1
    assert cli.main(["verify", "D1", "--strategy", "random", "--seed", "3"]) == 1


def test_the_list_names_every_scenario_and_flaw(capsys):
    assert cli.main(["verify", "--list"]) == 0
    out = capsys.readouterr().out
    assert all(f"\n{name}, {flaw.scheme} scheme" in out for name, flaw in FLAWS.items())
    assert all(item.title in out for item in verify.scenarios())


@pytest.mark.parametrize(
    "args",
    [["nothing_like_it"], ["D1", "--scheme", "old"], ["/nowhere.py:f"], ["--replay", "0"],
     ["--strategy", "bounded"], [__file__ + ":nothing"]],
)  # fmt: skip
def test_what_cannot_be_explored_is_a_usage_error(args, capsys):
    assert cli.main(["verify", *args]) == 2
    assert capsys.readouterr().err.startswith("memcg verify: ")


def test_a_program_of_the_users_own_is_explored_without_a_compiler(tmp_path):
    program = tmp_path / "counter.py"
    program.write_text(
        "from memcg.verify import seam\n"
        "def program():\n"
        "    cell = seam.Published(0)\n"
        "    def increment():\n"
        "        cell.store(cell.load() + 1)\n"
        "    seam.parallel(increment, increment)\n"
        "    assert cell.load() == 2, 'lost'\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", "import sys; sys.modules['memcg.core._core'] = None\n"
         "from memcg import cli; sys.exit(cli.main(sys.argv[1:]))",
         "verify", f"{program}:program"],
        capture_output=True, text=True, check=False,
        env={"PYTHONPATH": ":".join(sys.path)},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (1, "")
    assert "counter.py:5 |" in done.stdout
    assert "a rule is broken: lost" in done.stdout


def test_an_interrupt_is_tried_at_every_point_of_a_users_task(tmp_path):
    program = tmp_path / "pair.py"
    program.write_text(
        "from memcg.verify import seam\n"
        "def program():\n"
        "    a, b = seam.Published(0), seam.Published(0)\n"
        "    def write():\n"
        "        a.store(1)\n"
        "        b.store(1)\n"
        "    seam.parallel(write)\n"
        "    assert a.load() == b.load()\n"
    )
    assert cli.main(["verify", f"{program}:program"]) == 0
    assert cli.main(["verify", f"{program}:program", "--interrupt", "write"]) == 1
