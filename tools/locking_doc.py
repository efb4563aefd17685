# SPDX-License-Identifier: Apache-2.0
"""Write the generated part of docs/locking.md: the order of locks.

    python tools/locking_doc.py           write it
    python tools/locking_doc.py --check   status 1 if the page differs from the code

The order is that of `memcg.locking.lockdep.LOCKS`.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "src"))

from memcg.locking.lockdep import LOCKS  # noqa: E402

PAGE = ROOT / "docs" / "locking.md"


def order() -> str:
    """Return the locks, outermost first."""
    rows = ["| lock | where | protects | in a finalizer |", "| --- | --- | --- | --- |"]
    rows += [
        f"| `{lock.name}` | {lock.where} | {lock.protects} | {'yes' if lock.anywhere else 'no'} |"
        for lock in LOCKS
    ]
    return "\n".join(rows)


def generated(page: str) -> str:
    """Return the page with its generated part as the code has it."""
    begin, end = "<!-- generated: order -->", "<!-- end -->"
    if begin not in page:
        raise LookupError(f"docs/locking.md has no {begin}")
    head, rest = page.split(begin, 1)
    return f"{head}{begin}\n{order()}\n{end}{rest.split(end, 1)[1]}"


def main() -> int:
    page = PAGE.read_text()
    new = generated(page)
    if sys.argv[1:] != ["--check"]:
        PAGE.write_text(new)
    elif new != page:
        print("docs/locking.md is not what tools/locking_doc.py makes; run it")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
