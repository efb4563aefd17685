# SPDX-License-Identifier: Apache-2.0
"""The checker of the instruction budget in benchmarks/instructions.py notices three percent."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
PROGRAM = BENCHMARKS / "instructions.py"
FIGURE = "native: malloc and free of 64 bytes"


@pytest.fixture
def instructions(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    spec = importlib.util.spec_from_file_location("instructions", PROGRAM)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "instructions", module)
    spec.loader.exec_module(module)
    return module


def check(budget, *arguments, only=FIGURE, **more):
    return subprocess.run(
        [sys.executable, PROGRAM, "--only", only, "--budget", budget, *arguments],
        text=True, capture_output=True, check=False, **more,
    )  # fmt: skip


@pytest.mark.skipif(not shutil.which("valgrind"), reason="valgrind is not installed")
@pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler")
def test_a_figure_three_percent_above_its_budget_fails(tmp_path):
    budget = tmp_path / "budget.toml"
    nothing = check(budget)
    assert nothing.returncode == 3, nothing
    assert "nothing was compared" in nothing.stdout
    assert not budget.exists()

    written = check(budget, "--update")
    assert written.returncode == 0, written
    name, _, figure = budget.read_text().splitlines()[-1].rpartition(" = ")

    again = check(budget)
    assert again.returncode == 0, again
    assert "+0.00%" in again.stdout

    budget.write_text(budget.read_text().replace(figure, str(float(figure) / 1.03)))
    above = check(budget)
    assert above.returncode == 1, (name, above)
    assert "TOO MANY" in above.stdout


@pytest.mark.skipif(not shutil.which("valgrind"), reason="valgrind is not installed")
@pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler")
def test_the_hooks_keep_the_budget_of_this_python_and_one_instruction_more_fails(
    instructions, tmp_path
):
    committed = instructions.read(instructions.BUDGET)
    if instructions.interpreter() not in committed:
        pytest.skip(f"no budget for {instructions.interpreter()}")
    kept = check(instructions.BUDGET, only="hook_malloc, for an int")
    assert kept.returncode == 0, kept

    budget = tmp_path / "budget.toml"
    committed[instructions.interpreter()]["hook_malloc, for an int"] -= 1
    instructions.write(budget, committed)
    above = check(budget, only="hook_malloc, for an int")
    assert above.returncode == 1, above
    assert "TOO MANY" in above.stdout


def compared(instructions, capsys, got, most):
    figure = instructions.FIGURES[0]
    status = instructions.compare(
        [figure], {figure.name: got}, {instructions.key(figure): {figure.name: most}}
    )
    return status, capsys.readouterr().out


@pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler")
def test_a_figure_that_fell_asks_for_a_new_budget_and_one_near_it_for_nothing(instructions, capsys):
    status, said = compared(instructions, capsys, 96.0, 100.0)
    assert (status, "--update" in said) == (0, True)
    for near in (98.5, 101.9):
        status, said = compared(instructions, capsys, near, 100.0)
        assert (status, "--update" in said) == (0, False)
    assert compared(instructions, capsys, 102.1, 100.0)[0] == 1


@pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler")
def test_a_budget_of_another_machine_is_not_taken_for_ours(instructions, capsys):
    figure = instructions.FIGURES[0]
    status = instructions.compare([figure], {figure.name: 1.0}, {"other": {figure.name: 1.0}})
    assert status == 3
    assert f"no budget for {instructions.machine()}" in capsys.readouterr().out


def test_without_valgrind_the_message_names_what_to_install(tmp_path):
    empty = check(tmp_path / "budget.toml", env={"PATH": str(tmp_path)})
    assert empty.returncode == 2
    assert "apt-get install valgrind" in empty.stderr


def test_the_cost_of_a_function_leaves_out_its_callees(instructions):
    profile = """
fn=(1) outer
10 5
cfn=(2) inner
calls=1 20
11 100
12 7
fn=(2)
20 100
fn=(1)
+1 3
totals: 115
"""
    assert instructions.self_cost(profile, "outer") == 15
    assert instructions.self_cost(profile, "inner") == 100
    assert instructions.total_cost(profile) == 115
    with pytest.raises(instructions.Failed, match="renamed or inlined"):
        instructions.self_cost(profile, "gone")


def test_the_committed_budget_has_every_figure_and_no_other(instructions):
    budget = instructions.read(instructions.BUDGET)
    assert budget
    for machine, figures in budget.items():
        native = "CPython" not in machine
        assert set(figures) == {f.name for f in instructions.FIGURES if f.native == native}
