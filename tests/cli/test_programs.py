# SPDX-License-Identifier: Apache-2.0
"""Programs that many people run do the same under `memcg run` as without it."""

from __future__ import annotations

import marshal
import re
import shutil
import sysconfig
from pathlib import Path

import pytest

pytestmark = pytest.mark.usefixtures("native")
RUN = ("run", "--max", "512MiB")


def test_pytest_passes_a_packages_own_suite(cli):
    pytest.importorskip("numpy.lib.tests.test_histograms")
    suite = (
        "-m", "pytest", "-v", "-p", "no:cacheprovider", "--pyargs",
        "numpy.lib.tests.test_histograms", "numpy.lib.tests.test_stride_tricks",
    )  # fmt: skip
    plain, ours = cli.python(*suite), cli.memcg(*RUN, *suite)
    for shown in (plain, ours):
        shown.out = re.sub(r"in [\d.]+s", "in SECONDS", shown.out)
    assert ours == plain
    assert plain.status == 0
    assert re.search(r"\d\d passed", plain.out)


def test_compileall_compiles_the_standard_library_to_the_same_code(cli):
    sources = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    assert len(sources) > 100
    (cli.directory / "lib").mkdir()
    for source in sources:
        shutil.copy(source, cli.directory / "lib")
    compiled = []
    for command in (cli.python, lambda *args: cli.memcg(*RUN, *args)):
        shown = command("-m", "compileall", "-f", "-o", "0", "-o", "2", "lib")
        files = [(file.name, file.read_bytes()) for file in sorted(cli.directory.rglob("*.pyc"))]
        # The bytes may differ: marshal writes an object in another way if it has other references.
        code = [(name, data[:16], marshal.loads(data[16:])) for name, data in files]
        compiled.append((shown, code))
    assert compiled[0] == compiled[1]
    assert compiled[0][0].status == 0
    assert len(compiled[0][1]) == 2 * len(sources)


def test_json_tool_prints_the_same_for_a_large_file(cli):
    rows = ",".join(
        f'{{"id": {n}, "text": "ünï {n}", "list": [{n}.5, null]}}' for n in range(20000)
    )
    cli.write({"rows.json": f"[{rows}]"})
    plain = cli.python("-m", "json.tool", "--sort-keys", "rows.json")
    assert cli.memcg(*RUN, "-m", "json.tool", "--sort-keys", "rows.json") == plain
    assert (plain.status, plain.err) == (0, "")
    assert plain.out.count('"id"') == 20000
