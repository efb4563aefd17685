# SPDX-License-Identifier: Apache-2.0
"""The tables have the text of their sources, and the page of one screen has their figures."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "benchmarks"
PAGE = (ROOT / "docs" / "benchmark-tables.md").read_text()
SCREEN = (ROOT / "docs" / "benchmarks.md").read_text()
QUESTIONS = re.findall(r"^`benchmarks/(\w+)\.py`\.", PAGE, re.M)


def section(question: str) -> str:
    """Return what benchmarks/page.py makes of a question's docstring: a heading and a paragraph."""
    tree = ast.parse((BENCHMARKS / f"{question}.py").read_text())
    head, *rest = (ast.get_docstring(tree) or "").split("\n\n")
    text = "".join(f" {' '.join(part.split())}" for part in rest)
    return f"\n## {head}\n\n`benchmarks/{question}.py`.{text}\n"


def head_is_in(page: str, source: str) -> bool:
    """Tell whether the page begins with the text of page.py; a run may have filled in anything."""
    (head,) = re.findall(r'^HEAD = """(.*?)"""', source, re.M | re.S)
    pattern = "".join(
        ".*?" if part.startswith("{") else re.escape(part) for part in re.split(r"(\{\w+\})", head)
    )
    return re.match(pattern, page, re.S) is not None


def test_the_page_ends_with_the_notes():
    assert PAGE.endswith("\n" + (BENCHMARKS / "notes.md").read_text())


def test_the_page_begins_with_the_text_of_its_writer():
    assert head_is_in(PAGE, (BENCHMARKS / "page.py").read_text())


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_section_begins_with_the_words_of_its_question(question):
    assert section(question) in PAGE


def test_a_page_of_other_words_is_noticed():
    assert len(QUESTIONS) > 10
    source = (BENCHMARKS / "page.py").read_text()
    assert not head_is_in(PAGE.replace("A ratio is", "A ratio was", 1), source)
    assert section(QUESTIONS[0]) not in PAGE.replace(section(QUESTIONS[0]).split("\n")[3], "x")


def test_a_summary_counts_the_rows_and_names_what_was_missed_the_furthest_first():
    program = """
import harness

def row(work, ratio, at_least=False):
    return harness.Row(work, "glibc", 1.0, ratio, at_least=at_least)

rows = [row("near", 1.1), row("met", 1.0), row("far", 0.5, True), harness.Row("none", "x", None, 9)]
print(harness.summary(rows))
print(harness.summary(rows[1:2]))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=BENCHMARKS, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [
        "1 of 3 rows met their target",
        "  missed: far, glibc: 0.500 for 1",
        "  missed: near, glibc: 1.100 for 1",
        "1 of 1 rows met their target",
    ]


def test_only_a_full_run_writes_the_page():
    for target, pages in {"bench": 1, "bench-quick": 0}.items():
        done = subprocess.run(
            ["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert len(re.findall(r"benchmarks/run\.py (.*)--page", done.stdout)) == pages
        assert len(re.findall(r"benchmarks/run\.py (--quick)?\s*$", done.stdout, re.M)) == 1


def ratios(question: str) -> set[str]:
    """Return the ratios in a question's table."""
    rows = PAGE.partition(f"`benchmarks/{question}.py`.")[2].partition("\n## ")[0].splitlines()
    return {row.split("|")[4].strip() for row in rows if row.startswith("| ")}


def not_measured(screen: str) -> list[str]:
    """Return the figures of the page of one screen that its question's table has not got."""
    rows = re.findall(r"^\|.*\| ([\d.; ]+) \| `(\w+)` \|$", screen, re.M)
    assert len(rows) == 10
    return [n for numbers, name in rows for n in numbers.split("; ") if n not in ratios(name)]


def test_the_figures_of_the_screen_are_in_the_tables():
    assert not_measured(SCREEN) == []
    assert re.search(r"\d+ of \d+ rows with a target meet it", SCREEN).group() in PAGE


def test_a_figure_that_was_not_measured_is_noticed():
    assert not_measured(SCREEN.replace("| 0.60 |", "| 0.61 |")) == ["0.61"]
