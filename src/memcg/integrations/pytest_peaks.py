# SPDX-License-Identifier: Apache-2.0
"""The figures of all tests at the end of a run of pytest: a table, and a file for machines.

The figures arrive as properties of pytest's reports, which xdist's workers send home.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..sizes import format_size

if TYPE_CHECKING:
    import pytest

_NAMES = {"memcg_peak_bytes": "peak", "memcg_max_bytes": "max", "memcg_held_bytes": "held"}


class Peaks:
    """Collect the figures.

    Parameters
    ----------
    top : int
        How many tests the table has.
    file : str or None
        The path of a file for a JSON object: ``tests`` is a list with an object per test, with
        ``nodeid``, ``outcome``, ``peak``, ``max`` and ``held``. Sizes are in bytes; null stands for
        no limit, and for tests whose leaks were not looked at.

    Raises
    ------
    ValueError
        The table cannot have so many lines, or the file cannot be written.
    """

    def __init__(self, top: int, file: str | None) -> None:
        if top < 0:
            raise ValueError(f"--memcg-top: {top} tests cannot be shown; 0 shows none")
        self.top = top
        self.file = None if file is None else Path(file)
        if self.file is not None:
            try:
                self.file.touch()
            except OSError as error:
                raise ValueError(f"--memcg-json: cannot write {file!r}: {error.strerror}") from None
        self.tests: dict[str, dict[str, Any]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take a report's figures. A later run of the same test replaces them."""
        found = {_NAMES[k]: v for k, v in report.user_properties if k in _NAMES}
        if not found:
            return
        none = dict.fromkeys(_NAMES.values())
        test = self.tests.setdefault(report.nodeid, {"outcome": "passed", **none})
        test.update(found)
        if report.when == "call" or report.failed:
            test["outcome"] = report.outcome

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Show the table."""
        largest = sorted(self.tests.items(), key=lambda test: -test[1]["peak"])[: self.top]
        if not largest:
            return
        terminalreporter.write_sep("=", f"memcg: the {len(largest)} largest peaks")
        terminalreporter.write_line(f"{'peak':>10}  {'limit':>10}  test")
        for nodeid, test in largest:
            limit = "none" if test["max"] is None else format_size(test["max"])
            terminalreporter.write_line(f"{format_size(test['peak']):>10}  {limit:>10}  {nodeid}")

    def pytest_sessionfinish(self) -> None:
        """Write the file."""
        if self.file is not None:
            tests = [{"nodeid": nodeid, **test} for nodeid, test in self.tests.items()]
            self.file.write_text(json.dumps({"tests": tests}, indent=1) + "\n")
