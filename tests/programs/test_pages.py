# SPDX-License-Identifier: Apache-2.0
"""The programs of the tutorial and of other pages run, and print what the pages say.

The programs of a page make up one program, or are the files that its commands run. A block of text
behind a program, or behind a command, is what it prints; ``...`` stands for anything. Pages whose
programs need other people's libraries have their tests in tests/hosts.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from environment import environment
from serving import serving

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = (
    "howto/leak.md", "howto/trace.md", "howto/give-back.md", "howto/outside.md",
    "howto/at-the-limit.md", "howto/shared-data.md", "howto/generated-code.md", "page.md",
    "faults.md",
)  # fmt: skip
BLOCK = re.compile(r"^```(python|console|text)\n(.*?)^```$", re.M | re.S)
MARK = "---- block "


def blocks(page: str) -> list[tuple[str, str]]:
    return BLOCK.findall((DOCS / page).read_text())


def is_as_shown(shown: str, printed: str) -> bool:
    pattern = ".*".join(re.escape(part) for part in shown.strip().split("..."))
    return re.fullmatch(pattern, printed.strip(), re.S) is not None


def commands(page: str) -> list[str]:
    """Return the commands of a page's blocks, without their comments."""
    texts = [text for kind, text in blocks(page) if kind == "console"]
    return [
        line.partition(" #")[0].strip() for line in re.findall(r"^\$ (.*)", "\n".join(texts), re.M)
    ]


@pytest.mark.parametrize("page", PAGES)
def test_the_programs_of_a_page_print_what_it_shows(tmp_path, page):
    found = blocks(page)
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
    # but for its first commands, which make an environment
    found = blocks("tutorial.md")
    ran = []
    for i, (kind, text) in enumerate(found):
        if kind == "python":
            name = re.match(r"# file: (\S+)\n", text)
            assert name, f"a program of the tutorial is a file: {text}"
            (tmp_path / name[1]).write_text(text)
        lines = re.findall(r"^\$ (python|memcg) (.*)", text, re.M) if kind == "console" else ()
        for tool, command in lines:
            status = 137 if "--max" in command else 0
            module = ["-m", "memcg"] if tool == "memcg" else []
            printed = run(command, tmp_path, *module, status=status)
            ran.append(command)
            assert is_as_shown(found[i + 1][1], printed), printed
    assert ran == [
        "doctor", "run --max 64MiB --report rows.py", "run rows.py", "two.py", "requests.py",
    ]  # fmt: skip
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
    text = "".join(text for kind, text in found if kind == "console")
    command = re.search(r"^\$ (uvicorn .*)", text, re.M)
    assert command
    served = command[1].replace("--port 8765", "--fd {fd}").split()
    with serving(folder / "log", *served, path="/", folder=folder) as server:
        requests = re.findall(r"x-tenant: (\w+)' \S+:8765(\S+)", text)
        return [server.ask(path, tenant).status for tenant, path in requests]


SERVER = """
import memcg
with memcg.group("tenants/a", max="16MiB"):
    kept = bytes(4 << 20)
    try:
        rows = [bytes(1000) for _ in range(1_000_000)]
    except MemoryError:
        pass
print("ready", flush=True)
input()
"""
SHOWN = {  # what a command shows of that server
    "top": "4.0 MiB  16.0 MiB", "ls": "tenants/a", "events": "tenants/a",
    "cat": "page_runs 41",
}  # fmt: skip


def memcg(command: str, env: dict[str, str]) -> list[str]:
    """Return the arguments of a command that a page shows as ``NAME=VALUE memcg ...``."""
    settings, _, words = command.partition("memcg ")
    env.update(word.split("=", 1) for word in settings.split())
    return [sys.executable, "-m", "memcg", *shlex.split(words)]


@pytest.mark.parametrize(("page", "ran"), [
    ("howto/outside.md", ["ps", "top", "ls", "events", "cat"]),
    ("cli.md", ["top", "run", "html"]),
])  # fmt: skip
def test_the_commands_of_a_page_show_the_process_that_its_first_one_starts(tmp_path, page, ran):
    pytest.importorskip("click")
    (tmp_path / "server.py").write_text(SERVER)
    (tmp_path / "train.py").write_text("rows = [bytes(1000) for _ in range(10_000)]")
    env = environment(tmp_path, MEMCG_RUNTIME_DIR=str(tmp_path / "run"))
    first, *others = commands(page)
    assert [command.split()[1] for command in others] == ran
    server = subprocess.Popen(memcg(first, env), cwd=tmp_path, env=env, text=True,
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip
    try:
        assert server.stdout.readline() == "ready\n"
        shown = SHOWN | {"ps": f"{server.pid} "}
        for command in others:
            once = {"memcg top": "memcg top -n 1", "memcg events -f": "memcg events"}
            done = subprocess.run(
                memcg(once.get(command, command), env), cwd=tmp_path, env=env,
                capture_output=True, text=True, timeout=60,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
            assert shown.get(command.split()[1], "") in done.stdout
    finally:
        server.kill()
        server.communicate()
    for command in others:
        if "html" in command:
            (name,) = re.findall(r"\S+\.html", command)
            assert "<svg" in (tmp_path / name).read_text()


def test_a_write_behind_a_block_is_reported_as_the_page_shows(tmp_path):
    (command,) = commands("debug.md")
    texts = [text for kind, text in blocks("debug.md") if kind != "console"]
    (tmp_path / "overrun.py").write_text(texts[0])
    env = environment(tmp_path)
    done = subprocess.run(
        memcg(command, env), cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert done.returncode == -signal.SIGABRT
    shown = re.sub(r"\n +(?=instead)", " ", texts[1])  # the page has it in two lines
    assert is_as_shown(shown, done.stderr.replace(f"{tmp_path}{os.sep}", "")), done.stderr


def test_the_third_request_fails_as_the_page_says(tmp_path):
    (tmp_path / "train.py").write_text("""
for n in range(5):
    try:
        bytearray(2 << 20)
    except MemoryError:
        print("failed:", n)
""")
    (command,) = commands("faults.md")
    env = environment(tmp_path)
    done = subprocess.run(
        memcg(command, env), cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "failed: 2\n"), done.stderr


def test_other_output_than_shown_is_noticed():
    assert is_as_shown("a\n...\nd", "a\nb\nc\nd\n")
    assert not is_as_shown("a has 5 MB", "a has 6 MB\n")
    assert not is_as_shown("a\n...\nd", "a\nb\n")
