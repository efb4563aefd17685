# SPDX-License-Identifier: Apache-2.0
"""`make wheels` builds for every version, and its check refuses a wheel that does not work."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]


@pytest.fixture
def wheels(monkeypatch):
    monkeypatch.syspath_prepend(str(PROJECT / "tools"))
    spec = importlib.util.spec_from_file_location("wheels", PROJECT / "tools" / "wheels.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def environment(place: Path, core: str, run: str, doctor: str, malloc: str = "True") -> Path:
    """Make an environment whose memcg says what a test wants."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", place], check=True)
    python = place / "bin" / "python"
    (site,) = place.glob("lib/python3.*/site-packages")
    (site / "memcg").mkdir()
    (site / "memcg" / "__init__.py").touch()
    (site / "memcg" / "core.py").write_text(f"name = {core!r}\n")
    script = place / "bin" / "memcg"
    script.write_text(
        f"#!/bin/sh\ncase $1$2 in run-c) echo {malloc};; run*) {run};; *) {doctor};; esac\n"
    )
    script.chmod(0o755)
    return python


STOPS = "echo 'memcg: over memory.max'; exit 137"
AGREES = "echo 'verdict: memcg can run here'"


def test_a_wheel_that_works_passes(wheels, tmp_path):
    wheels.check(environment(tmp_path, "native", STOPS, AGREES))


@pytest.mark.parametrize(("core", "run", "doctor", "said"), [
    ("model", STOPS, AGREES, "whether it is the installed one: model True"),
    ("native", "exit 0", AGREES, "ended with 0 in place of 137"),
    ("native", "echo Killed; exit 137", AGREES, "the hog was not ended by its limit: Killed"),
    ("native", STOPS, "exit 1", "ended with 1 in place of 0"),
    ("native", STOPS, "echo 'memcg cannot run here'", "memcg doctor says"),
])  # fmt: skip
def test_a_wheel_that_does_not_work_is_refused(wheels, tmp_path, core, run, doctor, said):
    with pytest.raises(wheels.Failed, match=said):
        wheels.check(environment(tmp_path, core, run, doctor))


def test_a_wheel_that_does_not_charge_malloc_is_refused(wheels, tmp_path):
    with pytest.raises(wheels.Failed, match="malloc is not charged under memcg run: False"):
        wheels.check(environment(tmp_path, "native", STOPS, AGREES, malloc="False"))


def test_the_versions_are_those_of_the_hosted_wheels(wheels):
    assert wheels.versions() == ["3.11", "3.12", "3.13", "3.14", "3.15"]


def test_a_version_that_is_not_here_is_said_in_one_line_and_fails_if_strict(
    wheels, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(wheels.pythons, "where", lambda version: None)
    for strict in ([], ["--strict"]):
        assert wheels.main([*strict, "--folder", str(tmp_path), "3.14", "3.15"]) == len(strict)
        said = capsys.readouterr().out
        assert said == "no wheel, because these are not on this machine: 3.14, 3.15\n"


@pytest.fixture
def trials(wheels):
    return wheels.wheel_trials


def test_every_extra_of_a_user_has_a_trial(trials):
    assert set(trials.TRIALS) == trials.extras()
    assert {"cli", "top", "prometheus"} <= trials.extras()


def test_an_extra_that_shows_something_else_is_refused(trials):
    assert trials.is_shown("jupyter", "a\nMemcgOOM\n")
    assert not trials.is_shown("jupyter", "MemcgOOM\nstarted anyway\n")
    assert not trials.is_shown("jupyter", "")


def test_the_tests_of_a_wheel_are_all_but_those_of_the_tree(trials):
    found = trials.tests(PROJECT)
    assert {"tests/test_door.py", "tests/programs", "tests/cli", "tests/verify"} <= set(found)
    assert not any(name in test for test in found for name in trials.NOT_OF_A_WHEEL)
