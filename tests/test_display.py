# SPDX-License-Identifier: Apache-2.0
"""A group as HTML, which notebooks show."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
from environment import environment

EVIL = "<script>alert(1)<|script>&\"'"
PROGRAM = f"""
import json, memcg
memcg.install()
top = memcg.group("tenants", max="64MiB")
a, evil = memcg.group("tenants/a", max="16MiB"), memcg.group({"tenants/" + EVIL!r})
with a: kept = bytearray(12 << 20)
with evil: more = bytearray(4 << 20)
try:
    with a: bytearray(100 << 20)
except MemoryError: pass
many = [memcg.group(f"many/{{i}}") for i in range(60)]
before = a.current
html = [g._repr_html_() for g in (top, a, memcg.root, many[0].parent)]
with a: inside = a._repr_html_()
json.dump([html, inside == html[1], a.current - before], __import__("sys").stdout)
"""


@pytest.fixture(scope="module")
def shown():
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment(), text=True,
                          capture_output=True, timeout=60)  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


def rows(html: str) -> list[list[str]]:
    return [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in html.split("<tr>")[1:]]


def test_the_tree_has_a_row_and_a_bar_for_each_group(shown):
    tree = rows(shown[0][0])
    names = [re.sub(r"<[^>]*>", "", row[0]) for row in tree]
    assert names == ["tenants", "&lt;script&gt;alert(1)&lt;|script&gt;&amp;&quot;&#x27;", "a"]
    widths = [float(re.search(r"width:([\d.]+)%", row[1])[1]) for row in tree]
    assert widths == pytest.approx([100 * 16 / 64, 25, 75], abs=1)  # evil: of what tenants hold
    assert [row[2:4] for row in tree] == [
        ["16.0 MiB", "of 64.0 MiB"], ["4.0 MiB", ""], ["12.0 MiB", "of 16.0 MiB"],
    ]  # fmt: skip
    assert "fail 1" in tree[2][4]
    assert [row[0].count("0.0em") for row in tree] == [1, 0, 0]


def test_no_name_is_taken_for_markup(shown):
    assert not [html for html in shown[0] if "<script" in html]


def test_many_groups_are_cut_and_a_group_of_its_own_begins_at_itself(shown):
    _, (one,), _, many = map(rows, shown[0])
    assert re.sub(r"<[^>]*>", "", one[0]) == "tenants/a"
    assert len(many) == 51
    assert "... and 11 more" in many[-1][0]


def test_the_group_does_not_pay_for_it(shown):
    _, same, charged = shown
    assert same
    assert abs(charged) < 2000
