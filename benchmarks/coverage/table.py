# SPDX-License-Identifier: Apache-2.0
"""How much of what libraries hold is charged, and does half of that as limit stop them?

    make coverage-table               # measures all workloads, writes the table of docs/coverage.md
    make coverage-table ONLY="lxml_trees polars_frame"    # prints the lines of these

Each line is two runs of benchmarks/coverage/measure.py, each in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import workloads

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs/coverage.md"
BEGIN, END = "<!-- make coverage-table writes from here -->\n", "<!-- to here -->\n"
TIMEOUT_S = 300
ENOUGH, TOO_MUCH = 0.95, 1.30  # charged / RSS
MB = 1_000_000


def measure(name: str, *limit: str) -> dict[str, Any]:
    """Run a workload. How its process ended is under "died" if it did not end by itself."""
    command = [
        sys.executable,
        "-m",
        "memcg",
        "run",
        "--pools",
        str(HERE / "measure.py"),
        name,
        *limit,
    ]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return {"died": f"not at its end after {TIMEOUT_S} s"}
    lines = done.stdout.splitlines()
    found: dict[str, Any] = json.loads(lines[-1]) if lines and lines[-1][:1] == "{" else {}
    if done.returncode:
        last = (done.stderr.splitlines() or [""])[-1]
        found["died"] = f"exit status {done.returncode}: {last}"
    return found


def share(w: workloads.Workload, found: dict[str, Any]) -> tuple[int, int, float]:
    """Return (charged, RSS, the quotient), in bytes."""
    keys = ("peak", "peak_rss") if w.by_peak else ("charged", "rss")
    charged, rss = (found[key] for key in keys)
    return charged, rss, charged / rss


def stopped(found: dict[str, Any]) -> tuple[str, bool]:
    """Say how a run at half the limit ended, and whether that is as it should be."""
    if "died" in found:
        return f"the process died: {found['died']}", False
    if "error" not in found:
        return "not stopped", False
    name = found["error"].removeprefix("builtins.").removeprefix("memcg.errors.")
    if found["cause"] not in ("NoneType", "MemoryError"):
        name += f" from {found['cause']}"
    return name, found["is_memory_error"]


def library(w: workloads.Workload) -> str:
    if w.library:
        return f"{w.library} {version(w.library)}"
    return f"CPython {platform.python_version()}"


def line(name: str) -> tuple[str, bool, bool]:
    """Measure a workload. Return its line, and whether each of its two runs was as it should be."""
    w = workloads.WORKLOADS[name]
    found = measure(name)
    if "charged" not in found:
        text = found.get("died") or found.get("error")
        return f"| {w.name} | {library(w)} | failed: {text} | | | |", False, False
    charged, rss, quotient = share(w, found)
    end, good_end = stopped(measure(name, str(rss // 2)))
    elsewhere = found["with_root"] - found["charged"]
    text = (
        f"| {w.name} | {library(w)} | {charged / MB:.1f} | {rss / MB:.1f} | "
        f"{100 * quotient:.0f} % | {end} |"
    )
    if elsewhere > rss // 20:
        text = text[:-1] + f"({elsewhere / MB:.1f} more in the root) |"
    return text, ENOUGH <= quotient <= TOO_MUCH, good_end


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--page", action="store_true", help="write docs/coverage.md")
    parser.add_argument("names", nargs="*", help="workloads; all if none is given")
    args = parser.parse_args()
    lines = [
        "| held | library | charged, MB | RSS, MB | charged / RSS | half as limit |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    print(*lines, sep="\n")
    covered = ended = 0
    names = args.names or list(workloads.WORKLOADS)
    for name in names:
        text, is_covered, is_ended = line(name)
        print(text, flush=True)
        lines.append(text)
        covered += is_covered
        ended += is_ended
    total = (
        f"{covered} of {len(names)} are charged at 95 to 130 %; half of what they hold as limit "
        f"ends {ended} with a `MemoryError` that leaves the group."
    )
    print(total)
    if args.page:
        page = PAGE.read_text()
        before, _, rest = page.partition(BEGIN)
        after = rest.partition(END)[2]
        PAGE.write_text(before + BEGIN + "\n".join([*lines, "", total]) + "\n" + END + after)
    return 0


if __name__ == "__main__":
    sys.exit(main())
