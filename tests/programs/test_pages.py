# SPDX-License-Identifier: Apache-2.0
"""The programs of the tutorial and of the how-to pages run, and print what the pages say.

The programs of a page make up one program, or are the files that its commands run. A block of text
behind a program, or behind a command, is what it prints; ``...`` stands for anything.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from environment import environment
from serving import serving

DOCS = Path(__file__).resolve().parents[2] / "docs"
HOWTO = ("leak", "trace", "give-back", "outside", "at-the-limit", "shared-data", "generated-code")
BLOCK = re.compile(r"^```(python|console|text)\n(.*?)^```$", re.M | re.S)
MARK = "---- block "


def blocks(page: str) -> list[tuple[str, str]]:
    return BLOCK.findall((DOCS / page).read_text())


def is_as_shown(shown: str, printed: str) -> bool:
    pattern = ".*".join(re.escape(part) for part in shown.strip().split("..."))
    return re.fullmatch(pattern, printed.strip(), re.S) is not None


@pytest.mark.parametrize("name", HOWTO)
def test_the_programs_of_a_how_to_page_print_what_it_shows(tmp_path, name):
    found = blocks(f"howto/{name}.md")
    programs = [i for i, (kind, _) in enumerate(found) if kind == "python"]
    assert programs
    source = "\n".join(f"print({MARK + str(i)!r}, flush=True)\n{found[i][1]}" for i in programs)
    (tmp_path / "page.py").write_text(source)
    out = run("page.py", tmp_path)
    printed = dict(re.findall(rf"^{MARK}(\d+)\n(.*?)(?=^{MARK}|\Z)", out, re.M | re.S))
    for i in programs:
        if found[i + 1 : i + 2] and found[i + 1][0] == "text":
            assert is_as_shown(found[i + 1][1], printed[str(i)]), printed[str(i)]


def test_the_tutorial_runs_as_it_is_written(tmp_path):
    found = blocks("tutorial.md")
    ran = []
    for i, (kind, text) in enumerate(found):
        if kind == "python":
            name = re.match(r"# file: (\S+)\n", text)
            assert name, f"a program of the tutorial is a file: {text}"
            (tmp_path / name[1]).write_text(text)
        for tool, command in (
            re.findall(r"^\$ (python|memcg run) (.*)", text) if kind == "console" else ()
        ):
            limited = tool == "memcg run"
            printed = run(
                command,
                tmp_path,
                *(["-m", "memcg", "run"] if limited else []),
                status=137 * limited,
            )
            ran.append(command.split()[-1])
            assert is_as_shown(found[i + 1][1], printed), printed
    assert ran == ["rows.py", "two.py", "requests.py"]
    assert statuses(tmp_path, found) == [507, 200]


def run(command: str, folder: Path, *options: str, status: int = 0) -> str:
    """Run ``python`` as a line of a page says; return what it prints, the errors of a failure."""
    done = subprocess.run(
        [sys.executable, *options, *shlex.split(command)],
        cwd=folder, env=environment(folder), capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == status, done.stderr
    return done.stderr if status else done.stdout


def statuses(folder: Path, found: list[tuple[str, str]]) -> list[int]:
    """Serve the tutorial's application as it says, and ask it as it says."""
    texts = [text for kind, text in found if kind == "console" and "curl" in text]
    command = re.search(r"^\$ (uvicorn .*)", texts[0], re.M)
    assert command
    served = command[1].replace("--port 8765", "--fd {fd}").split()
    with serving(folder / "log", *served, path="/", folder=folder) as server:
        requests = re.findall(r"x-tenant: (\w+)' \S+:8765(\S+)", texts[0])
        return [server.ask(path, tenant).status for tenant, path in requests]


def test_other_output_than_shown_is_noticed():
    assert is_as_shown("a\n...\nd", "a\nb\nc\nd\n")
    assert not is_as_shown("a has 5 MB", "a has 6 MB\n")
    assert not is_as_shown("a\n...\nd", "a\nb\n")
