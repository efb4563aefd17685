# SPDX-License-Identifier: Apache-2.0
"""The programs of docs/howto/web.md run as the page says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from serving import serving

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "web.md"
PROGRAMS = {
    re.match(r"# (\w+\.py)", text)[1]: text
    for text in re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.M | re.S)
}


@pytest.mark.parametrize("command", [
    ("uvicorn", "fastapi_example:app", "--fd", "{fd}"),
    ("gunicorn", "-c", "gunicorn_example.py", "-b", "fd://{fd}", "flask_example:app"),
], ids=["fastapi", "flask"])  # fmt: skip
def test_a_program_of_the_page_limits_its_tenants(command, tmp_path):
    for name, text in PROGRAMS.items():
        (tmp_path / name).write_text(text)
    log = tmp_path / "log"
    with serving(log, *command, path="/rows/1", folder=tmp_path) as server:
        assert server.ask("/rows/10", "a").json == {"group": "tenants/a", "rows": 10}
        assert server.ask("/rows/10").json == {"group": "", "rows": 10}
        assert server.ask("/rows/100000000", "a").status == 507
        assert server.ask("/rows/10", "b").status == 200


def test_the_page_has_the_programs_that_are_tested():
    assert sorted(PROGRAMS) == ["fastapi_example.py", "flask_example.py", "gunicorn_example.py"]
