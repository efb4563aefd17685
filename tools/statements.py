# SPDX-License-Identifier: Apache-2.0
"""Break each statement of docs/statements.md in the source: a test that has its number must fail.

The breaks are in ``tools/breaks.toml``: for each statement one text or more of the control plane or
of the model core, and what it becomes. The tests whose names have the statement's number run on the
broken source. If they pass, the scenarios that the page names for it are explored. A break that
neither notices survives, and then the statement is only said to be tested.

    python tools/statements.py            all of them; status 1 if one survives
    python tools/statements.py S20 S61    the breaks of these statements
    python tools/statements.py --list     say how many breaks each statement has
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import mutants
import statements_doc
import watching

BREAKS = Path(__file__).resolve().parent / "breaks.toml"
SOURCE = mutants.ROOT / "src" / "memcg"
LIMIT_S = 120  # of processor time, for one break's tests and again for its scenarios
SCENARIO = """\
import sys
from memcg.verify.scheme.scenarios import SCENARIOS
for name in sys.argv[1:]:
    result = SCENARIOS[name].explore(minimise=0, max_schedules=3000)
    if result.failure is not None:
        sys.exit(f"noticed {name} ({type(result.failure.exception).__name__})")
"""


class Break(NamedTuple):
    """A change that breaks a statement."""

    statement: str
    module: str  # below src/memcg, without .py
    text: str
    becomes: str

    @property
    def path(self) -> Path:
        return SOURCE / f"{self.module}.py"

    def applies(self) -> bool:
        """Tell whether the source has the text exactly once."""
        return self.path.read_text().count(self.text) == 1


def breaks() -> list[Break]:
    """Return all breaks, in the order of the file."""
    data = tomllib.loads(BREAKS.read_text())
    return [Break(number, one["module"], one["text"], one["becomes"])
            for number, ones in data.items() for one in ones]  # fmt: skip


def notices(broken: Break) -> str:
    """Return what notices a break: a test, or a scenario of the statement; else nothing."""
    number = broken.statement
    with tempfile.TemporaryDirectory(prefix="statement-") as directory:
        copy = Path(directory)
        mutants.copy_tree(copy)
        target = copy / "src" / "memcg" / f"{broken.module}.py"
        target.write_text(target.read_text().replace(broken.text, broken.becomes))
        command = [sys.executable, "-m", "pytest", "-x", "-vv", "-p", "no:cacheprovider",
                   "-k", f"_{number.lower()}_", "tests/control"]  # fmt: skip
        ended = watching.watch(command, copy, LIMIT_S)
        if ended.how == "status 5":
            raise mutants.ToolError(f"no test in tests/control has the number {number}")
        if by := mutants.failing_test(ended):
            return by
        named = [name for name, text in statements_doc.SHOWN.items() if number in text.split()]
        if not named:
            return ""
        ended = watching.watch([sys.executable, "-c", SCENARIO, *named], copy, LIMIT_S)
        return "" if ended.how == "status 0" else f"scenario: {ended.shown.strip()[-80:]}"


def run(chosen: list[Break], jobs: int) -> int:
    """Apply each break and say what notices it. Return 1 if one survives."""
    began, survivors = time.monotonic(), 0
    with ThreadPoolExecutor(jobs) as pool:
        for broken, by in zip(chosen, pool.map(notices, chosen), strict=True):
            survivors += not by
            first = broken.becomes.strip().split("\n")[0][:50]
            print(f"{broken.statement:4} {first:50} {by or 'SURVIVES'}", flush=True)
    statements = {b.statement for b in chosen}
    print(f"{len(chosen)} breaks of {len(statements)} statements: {survivors} survive; "
          f"{time.monotonic() - began:.0f} s")  # fmt: skip
    return 1 if survivors else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("statements", nargs="*", metavar="S20", help="default: all")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), metavar="N")
    args = parser.parse_args()
    known = breaks()
    if args.list:
        for number in (n for n in statements_doc.NUMBERS if n.startswith("S")):
            print(number, sum(b.statement == number for b in known))
        return 0
    wrong = [f"{b.statement}: {b.text!r} is not there once" for b in known if not b.applies()]
    if wrong:
        print(*wrong, sep="\n")
        return 2
    return run([b for b in known if not args.statements or b.statement in args.statements],
               args.jobs)  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
