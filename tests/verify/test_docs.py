# SPDX-License-Identifier: Apache-2.0
"""docs/verify.md and docs/locking.md say what is true."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from environment import environment
from scripts import TOOLS, load

from memcg import cli

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "verify.md").read_text()
BLOCKS = re.findall(r"^```(python|console)\n(.*?)^```", PAGE, re.M | re.S)
FILES = {
    text.split("\n", 1)[0].removeprefix("# "): text for kind, text in BLOCKS if kind == "python"
}
COMMANDS = [text.split("\n", 1) for kind, text in BLOCKS if kind == "console"]


@pytest.mark.parametrize(("command", "output"), COMMANDS, ids=[c for c, _ in COMMANDS])
def test_a_command_of_the_page_prints_what_the_page_shows(
    command, output, tmp_path, monkeypatch, capsys
):
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    status = cli.main(shlex.split(command.removeprefix("$ memcg ")))
    shown = capsys.readouterr().out.strip()
    assert shown == output.strip()
    assert status == (1 if "violated" in shown else 3 if "NOT exhausted" in shown else 0)


def test_the_page_has_a_bug_its_timeline_and_its_cure():
    outputs = [output for _, output in COMMANDS]
    assert any("overdrawn" in o and " | 1: withdraw" in o for o in outputs)
    assert any(o.startswith("fixed.py:program\nholds, exhausted") for o in outputs)
    assert len(FILES["account.py"].split("class Account")[1].splitlines()) <= 16


def test_the_test_of_the_page_fails_with_its_timeline(tmp_path):
    (tmp_path / "test_pool.py").write_text(FILES["test_pool.py"])
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "memcg.pytest_plugin",
        "-p",
        "no:cacheprovider",
    ]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), text=True, capture_output=True,
                          check=False)  # fmt: skip
    assert done.returncode == 1
    assert "2 were made" in done.stdout
    assert "store Pool.made" in done.stdout
    assert "--explore-replay" in done.stdout


def test_the_same_test_fails_outside_of_pytest(tmp_path):
    for name in ("test_pool.py", "explored.py"):
        (tmp_path / name).write_text(FILES[name])
    done = subprocess.run([sys.executable, "explored.py"], cwd=tmp_path, env=environment(tmp_path),
                          text=True, capture_output=True, check=True)  # fmt: skip
    assert "2 were made" in done.stdout
    assert "store Pool.made" in done.stdout


@pytest.fixture
def tool():
    return load(TOOLS / "locking_doc.py")


def test_the_order_of_locking_md_is_that_of_the_code(tool, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["locking_doc", "--check"])
    assert tool.main() == 0, "run tools/locking_doc.py"


def test_a_page_that_differs_from_the_code_is_noticed(tool, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["locking_doc", "--check"])
    monkeypatch.setattr(tool, "LOCKS", tool.LOCKS[::-1])
    assert tool.main() == 1
    assert "is not what tools/locking_doc.py makes" in capsys.readouterr().out
