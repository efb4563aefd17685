"""Writes the generated parts of docs/locking.md: the order of locks, and who shows what.

    python tools/locking_doc.py           write them
    python tools/locking_doc.py --check   status 1 if the page differs from the code

The order is that of `memcg.locking.lockdep.LOCKS`. Statements are those of the tests' names in
tests/scheme and of `SHOWN`, by the flaws' and scenarios' names.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "src"))

from memcg.locking.lockdep import LOCKS  # noqa: E402
from memcg.verify.scheme.scenarios import SCENARIOS  # noqa: E402
from memcg.verify.scheme.schemes import FLAWS  # noqa: E402

PAGE = ROOT / "docs" / "locking.md"
SCHEME = ROOT / "tests" / "scheme"
STATEMENTS = [f"S{n}" for n in range(1, 77)] + ["F1", "F2"] + [f"D{n}" for n in range(1, 8)]

# Scenario -> the statements it explores.
SHOWN = {
    "concurrent_creators": "S13 S14 S23 S25",
    "three_creators": "S14",
    "four_creators": "S14",
    "concurrent_allocations": "S12 S14",
    "creation_offline": "S26 S27 S60 D1 F1",
    "creation_offline_worker": "S26",
    "creation_root_destruction": "S62 S70 D2 D5 S11",
    "creation_offline_root_destruction": "S69 S70 F2",
    "creation_offline_root_destruction_slabinfo": "S9 S75",
    "failing_creation_offline": "S15 S17 S18 S19 S74",
    "failing_creation_again": "S15 S16",
    "failing_growth_creation": "S41 S43 S44",
    "failing_pages_offline": "S74",
    "growth_lookup": "S33 S36",
    "growth_creation": "S8 S46",
    "growth_creation_lookup": "S24 S36 S46",
    "root_creation_growth": "S47",
    "concurrent_activations": "S41 S42",
    "concurrent_reactivation": "S40",
    "reactivation_creation": "S40 S42 S46",
    "offline_root_destruction": "S54 S61 S69 F2",
    "two_offlines_root_destruction": "S55 S69",
    "busy_root_slabinfo": "S61 S63 S64 S67 S75 D3",
    "allocation_offline": "S52 S71 D4",
    "allocation_root_destruction": "S50 S52 S71 D4",
    "allocation_offline_shrink": "S54",
    "last_free_root_destruction": "S56 S57",
    "last_free_worker_root_destruction": "S57",
    "id_reuse": "S51 S57",
    "last_free_id_reuse_slabinfo": "S57 S75",
    "root_destruction_root_creation": "S65 S68 D7",
    "destroy_destroy": "S67",
    "charge_offline": "S58 S59",
    "reparenting_charges": "S58 S73",
    "charge_limit_offline": "S58 S59 S74",
    "charges_at_the_limit": "S74",
    "worker_offline": "S12 S27 S29",
    "fork_mkdir": "D6",
    "fork_close": "D6",
    "fork_destroy": "D6",
    "fork_growth": "D6",
}
FLAW_TEST = "a_flaw_is_found_within_fifty_executions_at_its_pinned_schedule"
# What every scenario checks.
EVERY = {
    "S1": "every one, by lockdep",
    "S7": "every one: a mutex taken twice is reported",
    "S10": "every one, by lockdep",
    "S37": "every one, at each release of `memcg_slab_mutex`",
}


def order() -> str:
    """The locks, outermost first."""
    rows = ["| lock | where | protects | in a finalizer |", "| --- | --- | --- | --- |"]
    rows += [
        f"| `{lock.name}` | {lock.where} | {lock.protects} | {'yes' if lock.anywhere else 'no'} |"
        for lock in LOCKS
    ]
    return "\n".join(rows)


def tests() -> dict[str, list[str]]:
    """Statement -> tests that name it: ``test_s13_d1_words``."""
    found: dict[str, list[str]] = {}
    for path in sorted(SCHEME.glob("test_*.py")):
        for name in re.findall(r"^def test_(\w+)", path.read_text(), re.M):
            for statement in re.findall(r"(?:^|_)([sd]\d+)(?=_)", name):
                found.setdefault(statement.upper(), []).append(f"{path.stem}: {words(name)}")
    return found


def words(name: str) -> str:
    """A test's name without its statements."""
    return re.sub(r"^(?:[a-z]\d+_)+", "", name).replace("_", " ")


def statements() -> str:
    """Who shows what."""
    named = tests()
    rows = ["| statement | tests in `tests/scheme`, `tests/verify` | scenarios of `memcg verify` |",
            "| --- | --- | --- |"]  # fmt: skip
    for statement in STATEMENTS:
        cells = named.get(statement, [])
        shown = [f"`{name}`" for name, text in SHOWN.items() if statement in text.split()]
        if statement in EVERY:
            shown.append(EVERY[statement])
        if statement in FLAWS:
            flaw = FLAWS[statement]
            cells = [*cells, f"test_schemes: {FLAW_TEST.replace('_', ' ')}"]
            shown.insert(0, f"`{statement}` on the {flaw.scheme} scheme ({flaw.title})")
        rows.append(f"| {statement} | {'; '.join(cells)} | {', '.join(shown)} |")
    return "\n".join(rows)


def problems() -> list[str]:
    """What is wrong with the table: names that are not there, statements that nothing shows."""
    found = [f"{name}: no such scenario" for name in SHOWN if name not in SCENARIOS]
    known = set(STATEMENTS)
    found += [
        f"{name}: no statement {s}"
        for name, text in SHOWN.items()
        for s in set(text.split()) - known
    ]
    if FLAW_TEST not in (ROOT / "tests" / "verify" / "test_schemes.py").read_text():
        found.append(f"test_schemes.py: no test_{FLAW_TEST}")
    covered = set(tests()) | set(FLAWS)
    found += [f"{s}: no test names it" for s in STATEMENTS if s not in covered]
    return found


def generated(page: str) -> str:
    """The page with its generated parts made anew."""
    for name, text in (("order", order()), ("statements", statements())):
        begin, end = f"<!-- generated: {name} -->", "<!-- end -->"
        if begin not in page:
            raise LookupError(f"docs/locking.md has no {begin}")
        head, rest = page.split(begin, 1)
        page = f"{head}{begin}\n{text}\n{end}{rest.split(end, 1)[1]}"
    return page


def main() -> int:
    page = PAGE.read_text()
    wrong = problems()
    new = generated(page)
    if sys.argv[1:] == ["--check"]:
        if new != page:
            wrong.append("docs/locking.md is not what tools/locking_doc.py makes; run it")
    else:
        PAGE.write_text(new)
    print(*wrong, sep="\n", end="\n" if wrong else "")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
