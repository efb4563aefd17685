"""`memcg verify`: what it says of the shipped scheme, of flaws, and of programs of one's own."""

from __future__ import annotations

import pytest

from memcg.cli import main
from memcg.verify import scenarios

PROGRAM = """
from memcg.verify import seam
def lost_update():
    n = seam.Published(0)
    def add():
        n.store(n.load() + 1)
    seam.parallel(add, add)
    assert n.load() == 2
def sound():
    n = seam.Atomic(0)
    seam.parallel(lambda: n.add(1), lambda: n.add(1))
    assert n.get() == 2
"""


def test_a_flaw_is_shown_as_a_timeline_and_replayed(capsys):
    assert main(["verify", "D2"]) == 1
    shown = capsys.readouterr().out
    assert "destroy_root freed it" in shown
    assert "replay '0.2*12.1*2'" in shown
    assert main(["verify", "D2", "--replay", "0.2*12.1*2"]) == 1
    assert "destroy_root freed it" in capsys.readouterr().out


def test_a_scenario_that_holds_says_exhausted(capsys):
    assert main(["verify", "creation_offline"]) == 0
    assert capsys.readouterr().out == "exhausted\n"


def test_a_program_of_ones_own(tmp_path, capsys):
    path = tmp_path / "mine.py"
    path.write_text(PROGRAM)
    assert main(["verify", f"{path}:lost_update"]) == 1
    assert "load published" in capsys.readouterr().out
    assert main(["verify", f"{path}:sound"]) == 0


def test_the_table_names_every_flaw_and_a_violation_gives_status_1(capsys, monkeypatch):
    few = {name: scenarios.SCENARIOS[name] for name in ("creation_offline", "close_close")}
    monkeypatch.setattr(scenarios, "SCENARIOS", few)
    assert main(["verify"]) == 0
    shown = capsys.readouterr().out
    assert [f"{flaw}," in shown for flaw in ("F1", "F2", "D1", "D7")] == [True] * 4
    assert "0 not as they should be" in shown

    def broken():
        raise AssertionError("broken")

    monkeypatch.setitem(few, "broken", scenarios.system.Scenario("broken on purpose", broken))
    assert main(["verify"]) == 1
    assert "AssertionError at run 1: broken" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["nope", "nope.py:f.x:", "nope.py"])
def test_an_unknown_name_is_said_to_be_unknown(name, capsys):
    assert main(["verify", name]) == 2
    assert "--list names them" in capsys.readouterr().err
