# SPDX-License-Identifier: Apache-2.0
"""Write docs/statements.md: what the kernel's scheme states, what memcg does, which test shows it.

    python tools/statements_doc.py           write it
    python tools/statements_doc.py --check   status 1 if the page differs from the code

The statements are in tools/statements.toml. The tests are found anywhere below tests/ by the
numbers in their names (``test_s13_d1_words``). The scenarios are those of `SHOWN`.
"""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "src"))

from memcg.verify.scheme.scenarios import SCENARIOS  # noqa: E402
from memcg.verify.scheme.schemes import FLAWS  # noqa: E402

PAGE = ROOT / "docs" / "statements.md"
DATA = tomllib.loads((ROOT / "tools" / "statements.toml").read_text())
SECTIONS: dict[str, str] = DATA.pop("sections")
FUNCTIONS: dict[str, dict[str, str]] = DATA.pop("functions")
STATEMENTS: dict[str, dict[str, str]] = DATA
WORDS = ("must", "differs", "must not", "flaw")
NUMBERS = [f"S{n}" for n in range(1, 77)] + ["F1", "F2"] + [f"D{n}" for n in range(1, 8)]

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
    "second_creation_offline": "S59 S60",
    "charges_at_the_limit": "S74",
    "worker_offline": "S12 S27 S29",
    "fork_mkdir": "D6",
    "fork_close": "D6",
    "fork_destroy": "D6",
    "fork_growth": "D6",
}
FLAW_TEST = "test_a_flaw_is_found_within_fifty_executions_at_its_pinned_schedule"
# What every scenario checks.
EVERY = {
    "S1": "every one, by lockdep",
    "S7": "every one: a mutex taken twice is reported",
    "S10": "every one, by lockdep",
    "S37": "every one, at each release of `memcg_slab_mutex`",
}

HEAD = """\
# Statements

The control plane of memcg follows a patch of the Linux kernel of 2014, which put the life of child
caches under one mutex. This page says what that scheme states, in our words, what memcg does, and
which test shows it. It is made from `tools/statements.toml` and from the names of the tests by
`tools/statements_doc.py`; a test fails if the page, the tests and the scenarios do not agree.

- *must*: memcg keeps the statement, and the test checks it.
- *differs*: memcg does something else. The test in bold shows the difference.
- *must not*: the statement is a defect of the patch. The test shows that memcg does not have it.

The tests are in `tests/`; `memcg verify NAME` explores a scenario under every schedule
([verify](verify.md)).
"""
FUNCTIONS_HEAD = """\
## The functions of the patch

These are the functions that the patch adds, changes, removes or relies on, and where they are here.

| function of the patch | here |
| --- | --- |
"""


def tests() -> dict[str, list[str]]:
    """Statement -> tests whose names have its number, each as ``file: words``."""
    found: dict[str, list[str]] = {}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                for number in re.findall(r"(?<=_)([sd]\d+)(?=_)", node.name):
                    found.setdefault(number.upper(), []).append(f"{path.stem}: {words(node.name)}")
                if node.name == FLAW_TEST:
                    for flaw in FLAWS:
                        found.setdefault(flaw, []).append(f"{path.stem}: {words(node.name)}")
    return found


def words(name: str) -> str:
    """Return the words of a test's name, without ``test`` and its numbers."""
    return re.sub(r"^test_(?:[a-z]\d+_)*", "", name).replace("_", " ")


def shows(number: str, test: str) -> bool:
    """Tell whether `test` is the one that the data file names for the statement."""
    return test.split(": ", 1)[1] == STATEMENTS[number].get("shown")


def defined() -> dict[str, str]:
    """Function -> the file of memcg that defines it."""
    return {
        name: path.name
        for path in sorted((ROOT / "src" / "memcg").rglob("*.py"), reverse=True)
        if "verify" not in path.parts
        for name in re.findall(r"^def (\w+)\(", path.read_text(), re.M)
    }


def row(number: str, named: dict[str, list[str]]) -> str:
    """Return one statement's line of its table."""
    entry = STATEMENTS[number]
    cells = sorted(named.get(number, []), key=lambda test: not shows(number, test))
    cells = [f"**{cell}**" if shows(number, cell) else cell for cell in cells]
    shown = [f"`{name}`" for name, text in SHOWN.items() if number in text.split()]
    if number in EVERY:
        shown.append(EVERY[number])
    if number in FLAWS:
        shown.insert(0, f"`{number}` on the {FLAWS[number].scheme} scheme ({FLAWS[number].title})")
    says = entry["says"] if entry["word"] == "flaw" else f"*{entry['word']}*: {entry['says']}"
    columns = [number, says, entry.get("ours", ""), "; ".join(cells), ", ".join(shown)]
    return f"| {' | '.join(columns)} |"


def page() -> str:
    """Return the whole page."""
    named, where = tests(), defined()
    parts = [HEAD]
    for number in NUMBERS:
        if number in SECTIONS:
            parts.append(f"\n## {SECTIONS[number]}\n\n"
                         "| | statement | memcg | tests | scenarios |\n"
                         "| --- | --- | --- | --- | --- |\n")  # fmt: skip
        parts.append(row(number, named) + "\n")
    parts.append("\n" + FUNCTIONS_HEAD)
    for name, entry in FUNCTIONS.items():
        here = entry.get("here", "")
        cell = f"`{here}` in `{where.get(here)}`" if here else f"none. {entry['gone']}"
        parts.append(f"| `{name}` | {cell} |\n")
    return "".join(parts)


def problems() -> list[str]:
    """Return what does not agree. Each line names the statement or function, and what is wrong."""
    return [*wrong_statements(), *wrong_scenarios(), *wrong_functions()]


def wrong_statements() -> list[str]:
    """Return the statements that are missing, that say too little, or that no test shows."""
    named = tests()
    found = [f"{n}: not in tools/statements.toml" for n in NUMBERS if n not in STATEMENTS]
    found += [f"{n}: no such statement" for n in STATEMENTS if n not in NUMBERS]
    found += [f"{n}: no such statement, but {named[n]} has its number"
              for n in sorted(named) if n not in NUMBERS]  # fmt: skip
    for number, entry in STATEMENTS.items():
        if entry["word"] not in WORDS:
            found.append(f"{number}: {entry['word']!r} is none of {WORDS}")
        if entry["word"] != "must" and not entry.get("ours"):
            found.append(f"{number}: does not say what memcg does instead")
        if not named.get(number):
            found.append(f"{number}: no test names it")
        if (entry["word"] == "differs") != ("shown" in entry):
            found.append(f"{number}: a statement has `shown` if and only if it differs")
        elif "shown" in entry and not any(shows(number, test) for test in named.get(number, [])):
            found.append(f"{number}: differs, but no test 'test_{number.lower()}_..."
                         f"{entry['shown'].replace(' ', '_')}' shows it")  # fmt: skip
    return found


def wrong_scenarios() -> list[str]:
    """Return the names in `SHOWN` and `EVERY` that do not exist."""
    found = [f"{name}: no such scenario" for name in SHOWN if name not in SCENARIOS]
    numbers = [(name, n) for name, text in SHOWN.items() for n in text.split()]
    numbers += [("EVERY", n) for n in EVERY]
    return found + [f"{name}: no statement {n}" for name, n in numbers if n not in NUMBERS]


def wrong_functions() -> list[str]:
    """Return the functions that the page says are here and that are not, or the other way round."""
    where = defined()
    return [f"{name}: no function {entry['here']} in memcg"
            for name, entry in FUNCTIONS.items()
            if "here" in entry and entry["here"] not in where] + [
            f"{name}: said to be gone, and is in {where[name]}"
            for name, entry in FUNCTIONS.items()
            if "gone" in entry and name in where]  # fmt: skip


def main() -> int:
    wrong = problems()
    new = page()
    if sys.argv[1:] == ["--check"]:
        if not PAGE.exists() or new != PAGE.read_text():
            wrong.append("docs/statements.md is not what tools/statements_doc.py makes; run it")
    else:
        PAGE.write_text(new)
    print(*wrong, sep="\n", end="\n" if wrong else "")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
