# SPDX-License-Identifier: Apache-2.0
"""Every program and command of the pages is run by a test, or stands here with the reason."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
DOCS = sorted(str(page.relative_to(PROJECT)) for page in (PROJECT / "docs").rglob("*.md"))
PAGES = ["README.md", "SECURITY.md", "CONTRIBUTING.md", "native/README.md", *DOCS]
FENCED = r"^```(\S*).*\n([\s\S]*?)^```$"
INDENTED = r"(?<=\n\n)( {4}\S.*\n(?: {4}.*\n|\n(?= {4}))*)"
BLOCK = re.compile(f"{FENCED}|{INDENTED}", re.M)
SHOWN = ("text", "", "{toctree}", "{include}", "{eval-rst}")  # output, figures, parts of the site

RUN = {  # page: the test that runs its programs and commands
    "README.md": "house/test_setup.py",
    "docs/tutorial.md": "programs/test_pages.py",
    "docs/cli.md": "programs/test_pages.py",
    "docs/debug.md": "programs/test_pages.py",
    "docs/faults.md": "programs/test_pages.py",
    "docs/page.md": "programs/test_pages.py",
    "docs/verify.md": "verify/test_docs.py",
    "docs/howto/at-the-limit.md": "programs/test_pages.py",
    "docs/howto/dask.md": "hosts/test_jobs.py",
    "docs/howto/generated-code.md": "programs/test_pages.py",
    "docs/howto/give-back.md": "programs/test_pages.py",
    "docs/howto/jobs.md": "hosts/test_jobs.py",
    "docs/howto/leak.md": "programs/test_pages.py",
    "docs/howto/metrics.md": "hosts/test_metrics.py",
    "docs/howto/notebooks.md": "hosts/test_jupyter.py",
    "docs/howto/outside.md": "programs/test_pages.py",
    "docs/howto/pytest.md": "programs/test_pytest_plugin.py",
    "docs/howto/shared-data.md": "programs/test_pages.py",
    "docs/howto/trace.md": "programs/test_pages.py",
    "docs/howto/web.md": "hosts/test_howto_web.py",
}
NOT_RUN = {  # page and how a block begins: why no test runs it
    ("README.md", "make demo "): "tests/house/test_demo.py runs both demos, without the set-up",
    ("CONTRIBUTING.md", "make help "): "it would run this suite",
    ("CONTRIBUTING.md", "build/venv-3.11/bin/python -m pytest "): "it would run this suite",
}


def blocks(text: str) -> list[tuple[str, str]]:
    """Return the language and the first line of each block. A block that is indented has none."""
    return [
        ("indented" if indented else kind, (indented or body).strip().split("\n")[0])
        for kind, body, indented in BLOCK.findall(text)
    ]


def left_out(page: str, text: str) -> list[str]:
    return [
        first
        for kind, first in blocks(text)
        if kind not in SHOWN
        and not any(page == known and first.startswith(start) for known, start in NOT_RUN)
        and (page not in RUN or kind == "indented")
    ]


@pytest.mark.parametrize("page", PAGES)
def test_no_block_of_a_page_is_left_out(page):
    assert left_out(page, (PROJECT / page).read_text()) == []


@pytest.mark.parametrize(("page", "test"), RUN.items(), ids=RUN)
def test_the_test_of_a_page_reads_it(page, test):
    assert Path(page).name in (PROJECT / "tests" / test).read_text()


def test_what_is_not_run_is_still_there():
    for page, start in NOT_RUN:
        assert any(first.startswith(start) for _, first in blocks((PROJECT / page).read_text()))
    assert set(RUN) <= set(PAGES)


def test_a_block_that_no_test_runs_is_found():
    text = (
        "\n\n    indented 1\n\n    indented 2\n\n```python\nfenced\n```\n\n```text\noutput\n```\n"
    )
    assert left_out("docs/new.md", text) == ["indented 1", "fenced"]
    assert left_out("docs/tutorial.md", text) == ["indented 1"]
