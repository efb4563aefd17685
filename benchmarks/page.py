# SPDX-License-Identifier: Apache-2.0
"""Write docs/benchmark-tables.md from the JSON of the last run."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import harness
import plot
import run

HEAD = """# All rows of the benchmarks

Written by `python benchmarks/run.py --page` from the JSON of a {kind} run.

A ratio is ours / theirs, so smaller is better unless a target says ≥. It is taken within a round,
in which all contenders do the same work one after the other (the order turns; pyperformance: at
once). The table has the median of the rounds and the quartiles. Contenders are processes that
live beside each other and are replaced a few times; two turns of each work are not counted.
One-thread works are measured in processor time of the process (user and system, all threads, so
our worker counts), the others in wall time. The results of each work are compared among the
contenders. Python works run after `memcg.install()` in a group with `max="4GiB"`. C works run in
a group with a limit and in a shared library, called through the PLT as `malloc` is. Where a row
says "the best of them", the peer with the lowest median has the target; the other peers are shown
without one.

Between two turns of one contender the others work, so each turn begins after a second or so of
idling. An allocator that returns memory to the system when idle pays for getting it back in these
figures.

The machine has {processor}, and is shared. Absolute times are worth little, ratios
more, and a wide spread says that the machine was busy.

{machine}

{met} of {total} rows with a target meet it.
"""


def figure(row: dict[str, Any]) -> str:
    if row["ratio"] is None:
        return "| | "
    number = "{:.0f}" if abs(row["ratio"]) >= 100 else "{:.2f}" if row["ratio"] >= 0.1 else "{:.3f}"
    spread = f"{number} to {number}".format(row["low"], row["high"])
    return f"| {number.format(row['ratio'])} | {spread} "


def table(rows: list[dict[str, Any]]) -> str:
    head = ("work", "against", "target", "ratio", "spread", "met?", "")
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for r in rows:
        target = "" if r["target"] is None else f"{'≥' if r['at_least'] else '≤'} {r['target']:g}"
        met = {True: "yes", False: "**no**", None: ""}[r["met"]]
        name = f"| {r['work']} | {r['against']} | {target} "
        lines.append(f"{name}{figure(r)}| {met} | {r['note']} |")
    return "\n".join(lines)


def write(results: Path) -> None:
    found = {}
    for name in run.QUESTIONS:
        path = results / f"{name}.json"
        if path.exists():
            found[name] = json.loads(path.read_text())
    if not found:
        raise SystemExit(f"no results in {results}; run `make bench` first")
    (harness.HERE / "plots").mkdir(exist_ok=True)
    last = list(found.values())[-1]
    commits = sorted({r["machine"]["commit"] for r in found.values()})
    facts = last["machine"] | {"commit": ", ".join(commits)}
    targets = [r for q in found.values() for r in q["rows"] if r["met"] is not None]
    text = HEAD.format(
        kind="quick" if results.name == "quick" else "full", processor=facts["processor"],
        machine="| | |\n|---|---|\n" + "\n".join(f"| {k} | {v} |" for k, v in facts.items()),
        met=sum(r["met"] for r in targets), total=len(targets),
    )  # fmt: skip
    for name, question in found.items():
        doc = (importlib.import_module(name).__doc__ or "").strip().split("\n\n")
        text += f"\n## {doc[0]}\n\n`benchmarks/{name}.py`."
        text += "".join(f" {' '.join(part.split())}" for part in doc[1:]) + "\n\n"
        drawn = plot.svg("ratio / target; left of 1 meets it", question["rows"])
        if drawn:
            (harness.HERE / "plots" / f"{name}.svg").write_text(drawn)
            text += f"![ratios](../benchmarks/plots/{name}.svg)\n\n"
        text += table(question["rows"]) + "\n"
    absent = [name for name in run.QUESTIONS if name not in found]
    if absent:
        text += f"\nNot run: {', '.join(absent)}.\n"
    notes = harness.HERE / "notes.md"
    if notes.exists():
        text += "\n" + notes.read_text()
    (harness.HERE.parent / "docs" / "benchmark-tables.md").write_text(text)
