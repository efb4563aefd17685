# SPDX-License-Identifier: Apache-2.0
"""tools/mutants.py makes mutants, and tells a killed mutant from one that survives."""

from __future__ import annotations

import ast
import shutil
import sys

import pytest
from scripts import TOOLS, load

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


@pytest.fixture
def tool(monkeypatch):
    monkeypatch.syspath_prepend(TOOLS)
    return load(TOOLS / "mutants.py")


@pytest.fixture
def watch(tool, monkeypatch):
    monkeypatch.setattr(tool.watching, "ASLEEP_S", 2.0)
    return tool.watching.watch


def test_each_lock_check_store_call_and_finally_is_mutated(tool):
    made = {m.name: m.source for m in tool.mutations.mutants_of("m", SOURCE)}
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
    made = [m.source for m in tool.mutations.mutants_of("workqueue", text)]
    assert len(set(made)) == len(made)
    assert ast.unparse(ast.parse(text)) not in made


def test_what_is_listed_as_equivalent_exists_and_has_a_reason(tool):
    excused = tool.equivalents()
    assert set(excused) <= set(tool.all_mutants())
    assert all(len(reason) > 20 for reason in excused.values())


@pytest.mark.parametrize(
    ("excuses", "status"),
    [({}, 1), ({"two": "same"}, 0), ({"one": "same", "two": "same"}, 1)],
)
def test_a_mutant_that_survives_unexplained_and_a_wrong_excuse_give_status_1(
    tool, monkeypatch, capsys, excuses, status
):
    answers = {"one": ("scenario", "creation_offline"), "two": ("nobody", "")}
    monkeypatch.setattr(tool, "calibrate", tool.Limits)
    monkeypatch.setattr(tool, "judge", lambda name, limits: tool.Verdict(name, *answers[name], 0.0))
    monkeypatch.setattr(tool, "all_mutants", lambda: {name: name for name in answers})
    monkeypatch.setattr(tool, "equivalents", lambda: excuses)
    assert tool.run(["one", "two"], 1) == status
    shown = capsys.readouterr().out
    assert ("two: survives" in shown) == ("two" not in excuses)
    assert ("one: listed as equivalent, but killed" in shown) == ("one" in excuses)


# A tree with a control plane of one function, a scenario and a test.
TREE = {
    "pyproject.toml": '[tool.pytest.ini_options]\naddopts = "-q -ra"\npythonpath = ["src"]\n',
    "tools/mutants.txt": "",
    "src/memcg/__init__.py": "",
    "src/memcg/control/memcontrol.py": """
import os
def work(group, done):
    group.by_scenario = 1
    group.by_test = 2
    group.by_nobody = 3
    while group.n > 0:
        group.n -= 1
    if group.n < 0:
        os._exit(7)
    done.set()
""",
    "src/memcg/control/slab_common.py": "",
    "src/memcg/control/cgroup.py": "",
    "src/memcg/control/vmscan.py": "",
    "src/memcg/control/fork.py": "",
    "src/memcg/control/workqueue.py": "",
    "src/memcg/verify/__init__.py": "",
    "src/memcg/verify/scheme/world.py": """
from contextlib import contextmanager
source = {}
@contextmanager
def other_source(noun, text):
    source[noun] = text
    yield
""",
    "src/memcg/verify/scheme/scenarios.py": """
from types import SimpleNamespace
from . import world
def explore(minimise, max_schedules):
    scope, group = {}, SimpleNamespace(n=3)
    exec(world.source["memcontrol"], scope)
    scope["work"](group, SimpleNamespace(set=lambda: None))
    assert hasattr(group, 'by_scenario')
    return SimpleNamespace(failure=None, schedules=2)
SCENARIOS = {"scenario": SimpleNamespace(long=False, explore=explore)}
""",
    "tests/verify/test_control_plane.py": """
import threading
from types import SimpleNamespace
from memcg.control.memcontrol import work
def test_first(): pass
def test_work():
    group, done = SimpleNamespace(n=3), threading.Event()
    work(group, done)
    assert hasattr(group, 'by_test')
    done.wait()
""",
}


def test_each_kill_has_a_name_and_without_one_it_is_an_error_of_the_tool(
    tool, watch, tmp_path, capsys
):
    for name, text in {**dict.fromkeys(tool.test_files(), ""), **TREE}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    for noun in ("judging", "mutants", "mutations", "watching"):
        shutil.copy(TOOLS / f"{noun}.py", tmp_path / "tools")
    tool = load(tmp_path / "tools" / "mutants.py")
    limits = tool.calibrate()
    test = "tests/verify/test_control_plane.py::test_work"
    for what, expected in {
        "drop:1": ("scenario", "scenario (AssertionError)"),
        "drop:2": ("test", test),
        "drop:3": ("nobody", ""),
        "drop:4": ("scenario", "scenario (endless)"),
        "drop:6": ("test", f"{test} (hangs)"),
        "negate:1": ("error", "no scenario named, status 7: 'scenario scenario\\n'"),
    }.items():
        verdict = tool.judge(tool.all_mutants()[f"memcontrol.work:{what}"], limits)
        assert (verdict.by, verdict.what) == expected
    assert tool.run(["memcontrol.work:drop:3", "memcontrol.work:negate:1"], 2) == 2
    assert "1 survive, 1 errors of the tool" in capsys.readouterr().out
    (tmp_path / "tests/test_group.py").write_text("def test_it(): raise ValueError\n")
    assert tool.run([], 1) == 2
    assert "does not pass: tests/test_group.py::test_it" in capsys.readouterr().out


STARVED = """
import os, time
cpu = min(os.sched_getaffinity(0))
os.sched_setaffinity(0, {cpu})
began = time.monotonic()
if not os.fork():
    while time.monotonic() < began + 5: pass
    os._exit(0)
os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
x = 0
for i in range(3_000_000): x += i
print(time.monotonic() - began)
"""


def test_a_process_that_waits_for_a_processor_is_slow_and_one_that_sleeps_hangs(watch):
    slow = watch([sys.executable, "-c", STARVED], TOOLS)
    assert slow.how == "status 0"
    assert float(slow.shown) > 2.5, "it was not starved for longer than a sleeper may sleep"
    sleeper = [sys.executable, "-uc", "print('begun'); import threading; threading.Event().wait()"]
    assert watch(sleeper, TOOLS)[:2] == ("hangs", "begun\n")
    spinner = [sys.executable, "-c", "while True: pass"]
    assert watch(spinner, TOOLS, limit_s=1).how == "endless"
