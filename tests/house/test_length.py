# SPDX-License-Identifier: Apache-2.0
"""No source file is longer than a reader holds in mind."""

from __future__ import annotations

from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
FOLDERS = ("src", "native", "tests", "tools", "benchmarks", "examples")
SUFFIXES = {".py", ".pyi", ".pyx", ".pxd", ".c", ".h"}
MOST = 600
# The model core is one specification, and a reader of one alarm test needs the others beside it.
MAY_BE_LONGER = {"src/memcg/core/model.py", "tests/programs/test_alarm.py"}


def too_long(project: Path) -> dict[str, int]:
    """Return the lines of each source file that has more than `MOST`."""
    found = {}
    for folder in FOLDERS:
        for file in sorted((project / folder).rglob("*")):
            path = file.relative_to(project)
            if file.suffix in SUFFIXES and "build" not in path.parts:
                lines = len(file.read_text().splitlines())
                if lines > MOST and path.as_posix() not in MAY_BE_LONGER:
                    found[path.as_posix()] = lines
    return found


def test_no_source_file_is_longer_than_600_lines():
    assert too_long(PROJECT) == {}


def test_the_files_that_may_be_longer_exist():
    assert [path for path in MAY_BE_LONGER if not (PROJECT / path).is_file()] == []


def test_a_file_that_is_too_long_is_found(tmp_path):
    for path, lines in {
        "src/a/full.py": 600,
        "src/a/long.pyx": 601,
        "native/long.c": 700,
        "native/build/made.c": 700,
        "tests/long.h": 601,
        "tests/long.md": 700,
        "tests/programs/test_alarm.py": 700,
    }.items():
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("x\n" * lines)
    assert too_long(tmp_path) == {"src/a/long.pyx": 601, "native/long.c": 700, "tests/long.h": 601}
