# SPDX-License-Identifier: Apache-2.0
"""The versions of CPython: every file names the same ones, and the tool that gets them."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from memcg import core, hooks

PROJECT = Path(__file__).parents[2]
FIRST, LAST = core.PYTHONS
VERSIONS = [f"3.{minor}" for minor in range(FIRST[1], LAST[1] + 1)]
HERE = "{}.{}".format(*sys.version_info[:2])

spec = importlib.util.spec_from_file_location("pythons", PROJECT / "tools" / "pythons.py")
pythons = importlib.util.module_from_spec(spec)
spec.loader.exec_module(pythons)


def text(file: str) -> str:
    return (PROJECT / file).read_text()


def test_each_file_that_names_versions_of_cpython_names_those_of_the_core():
    project = tomllib.loads(text("pyproject.toml"))
    classifiers = " ".join(project["project"]["classifiers"])
    assert re.findall(r"Python :: (\d\.\d+)", classifiers) == VERSIONS
    wheels = project["tool"]["cibuildwheel"]["build"].split()
    assert wheels == [f"cp{version.replace('.', '')}-*" for version in VERSIONS]
    (matrix,) = re.findall(r"python: \[(.*)\]", text(".github/workflows/test.yml"))
    assert re.findall(r"[\d.]+", matrix) == VERSIONS
    (tested,) = re.findall(r"for v in (.*?);.*\\$", text("Makefile"), re.M)
    assert tested.split() == VERSIONS
    assert f"version_compare('<3.{LAST[1] + 1}')" in text("meson.build")
    span = f"3.{FIRST[1]} to 3.{LAST[1]}"
    for page in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/coverage.md"):
        assert f"CPython {span}" in text(page), page
    compat = text("src/memcg/core/binding/compat.h")
    assert f"Versions: {span}" in compat
    assert f"PY_VERSION_HEX >= 0x03{LAST[1] + 1:02x}0000" in compat


@pytest.mark.parametrize(
    "version", [(3, 15, 0, "final", 0), (3, 15, 0, "candidate", 1), (3, 15, 1)]
)
def test_a_release_that_crashes_by_itself_is_named(version):
    assert "update to 3.15.2" in hooks.trouble_with(version)


@pytest.mark.parametrize("version", [(3, 11, 7), (3, 14, 10), (3, 15, 2), (3, 16, 0)])
def test_a_release_that_bears_a_refusal_is_not_named(version):
    assert hooks.trouble_with(version) is None


def test_install_and_doctor_tell_it_and_go_on():
    if core.name != "native":
        pytest.skip("the hooks need the native core")
    code = (
        "import sys, memcg, memcg.hooks as hooks\n"
        "hooks.trouble_with = lambda version: 'it can crash'\n"
        "from memcg.cli import doctor\n"
        "assert 'it can crash' in doctor.python()\n"
        "memcg.install()\n"
        "assert hooks.installed()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(PROJECT / "src")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "RuntimeWarning: memcg.install(): it can crash" in done.stderr


# -- the tool


@pytest.fixture(autouse=True)
def no_pyenv(monkeypatch, tmp_path):
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "no pyenv"))


def script(file: Path, body: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"#!/bin/sh\n{body}\n")
    file.chmod(0o755)
    return file


def test_the_first_interpreter_that_runs_is_taken(tmp_path):
    script(
        tmp_path / "shims" / "python3.15", "exit 127"
    )  # as pyenv's for a version that is not set
    script(tmp_path / "other" / "python3.15", "echo 3.14")
    right = script(tmp_path / "right" / "python3.15", "echo 3.15")
    path = os.pathsep.join(str(tmp_path / place) for place in ("none", "shims", "other", "right"))
    assert pythons.where("3.15", tmp_path, path) == right
    assert pythons.where("3.15", tmp_path, "") is None
    ours = script(pythons.unpacked("3.15", tmp_path), "echo 3.15")
    assert pythons.where("3.15", tmp_path, "") == ours


def test_one_of_pyenvs_that_its_shim_does_not_run_is_taken(tmp_path, monkeypatch):
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    script(tmp_path / "shims" / "python3.15", "exit 127")
    right = script(tmp_path / "versions" / "3.15.2" / "bin" / "python3.15", "echo 3.15")
    assert pythons.where("3.15", tmp_path, str(tmp_path / "shims")) == right


def test_an_interpreter_of_the_machine_is_not_fetched(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    there = script(tmp_path / f"python{HERE}", f"echo {HERE}")
    assert pythons.main(["--folder", str(tmp_path / "new"), HERE]) == 0
    assert capsys.readouterr().out == f"{HERE}: {there}\n"
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("apt", "why"),
    [
        (None, "there is no apt-get"),
        ("echo http://mirror.example/ubuntu/", "name no mirror of Debian"),
        ("echo 'E: the network is down' >&2; exit 100", "apt-get failed: E: the network is down"),
    ],
)
def test_where_none_can_be_had_one_line_says_why(tmp_path, capsys, monkeypatch, apt, why):
    monkeypatch.setenv("PATH", str(tmp_path))
    if apt:
        script(tmp_path / "apt-get", apt).write_text(f"#!{os.path.realpath('/bin/sh')}\n{apt}\n")
    folder = tmp_path / "pythons"
    for strict in ([], ["--strict"]):
        assert pythons.main([*strict, "--folder", str(folder), "3.14", "3.15"]) == len(strict)
        line = capsys.readouterr().out
        assert line.startswith("3.14, 3.15: not to be had here: ")
        assert line.endswith(f"{why}\n")
        assert line.count("\n") == 1
    assert list(folder.iterdir()) == []


def test_what_is_half_unpacked_does_not_stay(tmp_path, monkeypatch):
    class Apt:
        def __init__(self, folder: Path) -> None:
            pass

        def fetch(self, version: str) -> list[Path]:
            script(pythons.unpacked(version, tmp_path), "echo 3.15")
            return []

    def fail(*_: object) -> None:
        raise pythons.Unavailable("libc6 has no loader")

    monkeypatch.setattr(pythons, "Apt", Apt)
    monkeypatch.setattr(pythons, "run", lambda *_, **__: "")
    monkeypatch.setattr(pythons, "settle", fail)
    with pytest.raises(pythons.Unavailable):
        pythons.get(["3.15"], tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def apt_with_tests(tmp_path, monkeypatch):
    """Have an interpreter 3.15.2, and an apt whose tests are of a release."""

    def make(release: str) -> None:
        class Apt:
            def __init__(self, folder: Path) -> None:
                pass

            def fetch_tests(self, version: str) -> Path:
                return tmp_path / "package"

        def run(*command: object) -> str:
            if command[:2] == ("dpkg-deb", "--extract"):
                file = pythons.tests_of("3.15", tmp_path)
                file.parent.mkdir(parents=True)
                file.touch()
            return f"{release}-1" if command[0] == "dpkg-deb" else "3.15.2"

        script(pythons.unpacked("3.15", tmp_path), "echo 3.15")
        monkeypatch.setattr(pythons, "Apt", Apt)
        monkeypatch.setattr(pythons, "run", run)

    return make


def test_the_tests_are_those_of_the_interpreter(tmp_path, apt_with_tests):
    apt_with_tests("3.15.3")
    with pytest.raises(pythons.Unavailable, match=r"the tests are not those of 3\.15\.2; remove"):
        pythons.get_tests(["3.15"], tmp_path)
    assert not pythons.tests_of("3.15", tmp_path).exists()
    apt_with_tests("3.15.2")
    pythons.get_tests(["3.15"], tmp_path)
    assert pythons.tests_of("3.15", tmp_path).exists()


def test_an_interpreter_of_the_machine_gets_no_tests(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    script(tmp_path / f"python{HERE}", f"echo {HERE}")
    assert pythons.main(["--tests", "--folder", str(tmp_path / "new"), HERE]) == 0
    assert not (tmp_path / "new").exists()


def test_headers_of_the_machine_are_not_hidden_by_those_of_another_suite():
    assert pythons.is_run_with("libc6")
    assert pythons.is_run_with("zlib1g")
    assert pythons.is_run_with("libpython3.15-dev")
    assert not pythons.is_run_with("libc6-dev")
    assert not pythons.is_run_with("debconf")
