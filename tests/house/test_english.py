# SPDX-License-Identifier: Apache-2.0
"""The habits of CONTRIBUTING.md's English that a pattern can find. The list is short on purpose."""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MARK = "<!-- bad -->"  # on a line that quotes a bad example

# The files that are held, one pattern to a line.
GLOBS = [
    "*.md",
    "docs/**/*.md",
    "native/*.md",
    "native/**/*.[ch]",
    "src/memcg/**/*.py",
    "src/memcg/core/*.py[ix]",
    "src/memcg/core/*.pxd",
    "src/memcg/core/binding/*",
    "examples/*.py",
    "tests/**/*.py",
    "tests/**/*.c",
    "tools/*.py",
    "benchmarks/**/*.py",
    "benchmarks/native/*.[ch]",
    ".ci/*",
    ".github/**/*.yml",
    "Makefile",
]
PAGES = sorted({path for glob in GLOBS for path in ROOT.glob(glob)} - {Path(__file__).resolve()})

# A sentence begins after a full stop, at the start of a line, of a table cell or of a list item.
# `prose` puts a bar before each comment and string of a source.
START = r"(?:(?<=[.!?] )|(?<=[.!?]\n)|(?<=\n\n)|(?<=\| )|(?<=\n- )|(?<=\A))"
HABITS = {
    "whoever": re.compile(r"\bwho(?:m?ever)\b", re.I),
    "is told": re.compile(r"\b(?:is|are|was|were|be|been)\s+told\b"),
    "Again is nothing": re.compile(r"\bagain\s+is\s+nothing\b", re.I),
    "a sentence that begins with Of": re.compile(START + r"Of\s(?!course)"),
    "a sentence that begins with Who": re.compile(START + r"Who(?:m|se)?\s[^.?|]*\."),
}


def python_pieces(text: str) -> Iterator[tuple[int, str, bool]]:
    """Yield a Python source's comments and strings: line, text, whether it continues a comment."""
    strings = {tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}
    before = 0  # the line of the last comment that had a line to itself
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        row, column = token.start
        if token.type == tokenize.COMMENT:
            alone = not token.line[:column].strip()
            yield row, token.string.lstrip("# "), alone and before == row - 1
            before = row if alone else 0
        elif token.type in strings:
            yield (
                row,
                re.sub(r"^\w{,2}(\"{3}|'{3}|[\"'])(.*)\1$", r"\2", token.string, flags=re.S),
                False,
            )
    for name in re.finditer(r"^def test_(?:[a-z]\d+_)*(\w+)", text, re.M):
        words = name[1].replace("_", " ").capitalize()
        yield text.count("\n", 0, name.start()) + 1, f"{words}.", False


def c_pieces(text: str) -> Iterator[tuple[int, str, bool]]:
    for comment in re.finditer(r"/\*+(.*?)\*/|//([^\n]*)", text, re.S):
        said = re.sub(r"\n[ \t]*\*?[ \t]*", "\n", comment[1] or comment[2] or "").strip(" \t")
        yield text.count("\n", 0, comment.start()) + 1, said, False


def other_pieces(text: str) -> Iterator[tuple[int, str, bool]]:
    """Yield comments from `#` on, and strings in three quotes: Cython, shell, make, YAML."""
    before = 0
    for found in re.finditer(r'(?m)"""(.*?)"""|(^[ \t]*)?(?<![^\s])#+[ \t]*([^\n]*)', text, re.S):
        row = text.count("\n", 0, found.start()) + 1
        alone = found[1] is None and found[2] is not None
        said = found[1] if found[1] is not None else found[3]
        yield row, said, alone and before == row - 1
        before = row if alone else 0


def prose(path: Path, text: str) -> str:
    """Return what a file says in English, each piece on the line where the file has it."""
    if path.suffix == ".md":
        return text
    pieces = {".py": python_pieces, ".c": c_pieces, ".h": c_pieces}.get(path.suffix, other_pieces)
    lines = [""] * (text.count("\n") + 2)
    for row, said, goes_on in pieces(text):
        for n, line in enumerate(said.split("\n")):
            lines[row - 1 + n] += line if goes_on or n else f"| {line}"
    return "\n".join(line.strip() for line in lines)


def habits(text: str) -> list[str]:
    """Return each bad habit in a text, with its line, outside code blocks and names of tests."""
    text = re.sub(
        r"^```.*?^```", lambda block: "\n" * block[0].count("\n"), text, flags=re.M | re.S
    )
    text = "\n".join("" if MARK in line else line for line in text.split("\n"))
    text = re.sub(r"\btest_\w+: [^|;\n]*", "", text)
    return [
        f"line {text.count(chr(10), 0, match.start()) + 1}: {habit}: {match[0]!r}"
        for habit, pattern in HABITS.items()
        for match in pattern.finditer(text)
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_has_none_of_the_habits(page):
    assert habits(prose(page, page.read_text())) == []


@pytest.mark.parametrize(
    ("bad", "habit"),
    [
        ("Whoever frees, pays.", "whoever"),
        ("It is charged to whomever it serves.", "whoever"),
        ("Its neighbours are\ntold.", "is told"),
        ("Closes the group. Again is nothing.", "Again is nothing"),
        ("It ends. Of these, one is kept.", "a sentence that begins with Of"),
        ("It ends.\nOf a class a heap keeps one, as here.", "a sentence that begins with Of"),
        ("| a cell | Of these, one is kept |", "a sentence that begins with Of"),
        ("- Who waits holds nothing.", "a sentence that begins with Who"),
        ("Locks.\n\nWho holds one\nis slow.", "a sentence that begins with Who"),
    ],
)
def test_a_habit_is_found(bad, habit):
    (found,) = habits(f"# Page\n\n{bad}\n")
    assert f": {habit}: " in found


@pytest.mark.parametrize(
    ("name", "source", "found"),
    [
        ("a.py", '"""Do it.\n\nWho waits holds\nnothing."""\n', 3),
        ("a.py", "n = 1  # whoever asks\n", 1),
        ("a.py", "# One is kept. Of\n# these, it is the last.\n", 1),
        ("a.py", "n = 1\n# Who waits\n# holds nothing.\n", 2),
        ("a.py", 'raise E("the caller is told")\n', 1),
        ("a.py", 'def f(n):\n    raise E(f"{n} was told")\n', 2),
        ("a.py", "import re\n\n\ndef test_s12_who_waits_holds_nothing():\n    pass\n", 4),
        ("a.c", "int n; /* a.c - it.\n * Who waits\n * holds nothing. */\n", 2),
        ("a.h", "int n; // whoever asks\n", 1),
        ("a.pyx", 'cdef int n\n"""Who waits\nholds nothing."""\n', 2),
        ("a.yml", "a: 1\nb: 2  # whoever asks\n", 2),
        ("Makefile", "a:\n\n# Who waits\n# holds nothing.\n", 3),
    ],
)
def test_a_habit_is_found_in_a_source(name, source, found):
    (habit,) = habits(prose(Path(name), source))
    assert habit.startswith(f"line {found}: ")


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("a.py", "whoever = told = 1\n"),
        ("a.py", "# The lock of the thread. It says\n# who has it.\n"),
        ("a.c", 'int whoever; char *a = "x"; /* the thread that asks */\n'),
        ("a.pyx", "whoever = 1  # the thread that asks\n"),
        ("Makefile", "whoever:\n\tis told\n"),
    ],
)
def test_code_is_not_read_as_english(name, source):
    assert habits(prose(Path(name), source)) == []


def test_sources_are_held_too():
    assert {path.suffix for path in PAGES} >= {".md", ".c", ".h", ".py", ".pyx", ".pyi"}
    assert len(PAGES) > 150


@pytest.mark.parametrize(
    "good",
    [
        "The thread that frees it pays.",
        "It tells who holds the lock.",
        "Who is right, the reviewer or the mutex?",
        "Two of them, and one of those, are kept.",
        f"| Whoever frees, pays. {MARK} | The owner pays. |",
        "```\nwhoever is told\n```",
        "| test_errors: whoever fails is told |",
    ],
)
def test_what_is_no_habit_passes(good):
    assert habits(f"# Page\n\n{good}\n") == []


def test_only_contributing_quotes_bad_examples():
    assert [page.name for page in PAGES if MARK in page.read_text()] == ["CONTRIBUTING.md"]


def test_contributing_names_the_folders_of_the_tests():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    folders = {path.parent.name for path in (ROOT / "tests").glob("*/*.py")}
    assert set(re.findall(r"^\| `tests/(\w+)`", text, re.M)) == folders
