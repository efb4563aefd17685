"""tools/mutants.py: what it makes, and that it tells a killed mutant from one that survives."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

TOOL = Path(__file__).resolve().parents[2] / "tools" / "mutants.py"
SOURCE = """\
def work(group):
    \"\"\"Do it.\"\"\"
    with memcg_slab_mutex:
        if not group.online or group.dying:
            return
        group.ready = True
        group.publish(1)
    try:
        wake()
    finally:
        group.css_put()
"""


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("mutants", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_each_lock_check_store_call_and_finally_is_mutated(tool):
    made = {m.name: m.source for m in tool.mutants_of("m", SOURCE)}
    assert {name.split(":", 1)[1] for name in made} == {
        "unlock:1", "never:1", "negate:1", "without0:1", "without1:1", "drop:1", "drop:2",
        "swap:1", "forget-finally:1", "drop:3", "drop:4",
    }  # fmt: skip
    assert "if True:" in made["m.work:unlock:1"]
    assert "memcg_slab_mutex" not in made["m.work:unlock:1"]
    assert "if group.dying:" in made["m.work:without0:1"]
    swapped = made["m.work:swap:1"]
    assert swapped.index("publish") < swapped.index("ready")
    assert "css_put" not in made["m.work:forget-finally:1"]


def test_the_control_plane_has_more_than_two_hundred_mutants_that_differ_from_it(tool):
    known = tool.all_mutants()
    assert len(known) > 200
    text = (tool.SOURCE / "workqueue.py").read_text()
    made = [m.source for m in tool.mutants_of("workqueue", text)]
    assert len(set(made)) == len(made)
    assert tool.ast.unparse(tool.ast.parse(text)) not in made


def test_what_is_listed_as_equivalent_exists_and_has_a_reason(tool):
    excused = tool.equivalents()
    assert set(excused) <= set(tool.all_mutants())
    assert all(len(reason) > 20 for reason in excused.values())


def test_a_mutant_that_survives_unexplained_and_a_wrong_excuse_give_status_1(
    tool, monkeypatch, capsys
):
    answers = {tool.ORIGINAL: "", "one": "a scenario", "two": ""}
    monkeypatch.setattr(tool, "killer", lambda name: (name, answers[name], 0.0))
    monkeypatch.setattr(tool, "all_mutants", lambda: dict.fromkeys(answers))
    for excuses, status in (({}, 1), ({"two": "same"}, 0), ({"one": "same", "two": "same"}, 1)):
        monkeypatch.setattr(tool, "equivalents", lambda excuses=excuses: excuses)
        assert tool.run(["one", "two"]) == status
    assert "two: survives" in capsys.readouterr().out


def test_nothing_is_said_killed_if_the_source_itself_does_not_pass(tool, monkeypatch, capsys):
    monkeypatch.setattr(tool, "killer", lambda name: (name, "a scenario", 0.0))
    assert tool.run(["memcontrol.memcg_activate_kmem:unlock:1"]) == 2
    assert "does not pass" in capsys.readouterr().out
