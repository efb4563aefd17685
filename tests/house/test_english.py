# SPDX-License-Identifier: Apache-2.0
"""The habits of CONTRIBUTING.md's English that a pattern can find. The list is short on purpose."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
MARK = "<!-- bad -->"  # on a line that quotes a bad example

# A sentence begins after a full stop, at the start of a line, of a table cell or of a list item.
START = r"(?:(?<=[.!?] )|(?<=[.!?]\n)|(?<=\n\n)|(?<=\| )|(?<=\n- )|(?<=\A))"
HABITS = {
    "whoever": re.compile(r"\bwho(?:m?ever)\b", re.I),
    "is told": re.compile(r"\b(?:is|are|was|were|be|been)\s+told\b"),
    "Again is nothing": re.compile(r"\bagain\s+is\s+nothing\b", re.I),
    "a sentence that begins with Of": re.compile(START + r"Of\s[^.|]*,"),
    "a sentence that begins with Who": re.compile(START + r"Who(?:m|se)?\s[^.?|]*\."),
}


def habits(text: str) -> list[str]:
    """Each bad habit in a page, with its line. Code blocks and names of tests are left out."""
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
    assert habits(page.read_text()) == []


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
