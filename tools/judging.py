# SPDX-License-Identifier: Apache-2.0
"""Judge mutants and report what became of them: what `mutants.py` and `native_mutants.py` share."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple


class ToolError(Exception):
    """The tool cannot tell whether a mutant is killed."""


class Verdict(NamedTuple):
    """What became of a mutant.

    Attributes
    ----------
    by : str
        What killed it, ``scenario`` or ``test``, say; ``nobody``; ``listed`` if nobody did and
        the reason is known; ``error`` if the tool cannot tell.
    what : str
        The scenario or test, and what it noticed, or the reason.
    """

    name: str
    by: str
    what: str
    seconds: float


def reasons(path: Path) -> dict[str, str]:
    """Return the mutants that a file lists as equivalent: name -> reason."""
    lines = path.read_text().splitlines()
    pairs = [line.split(None, 1) for line in lines if line and not line.startswith("#")]
    return {name: reason for name, reason in pairs}


def report(
    names: Sequence[str],
    judge: Callable[[str], Verdict],
    jobs: int,
    *,
    killers: Sequence[str],
    excused: dict[str, str],
    known: Collection[str],
) -> int:
    """Judge the named mutants and print each verdict.

    Returns
    -------
    int
        1 if a mutant survives unexplained or an excuse is wrong, 2 if the tool cannot tell.
    """
    began = time.monotonic()
    verdicts = []
    with ThreadPoolExecutor(jobs) as pool:
        for v in pool.map(judge, names):
            verdicts.append(v)
            print(f"{v.name:60} {v.by:8} {v.what:60} {v.seconds:5.1f} s", flush=True)
    found = {
        by: [v for v in verdicts if v.by == by] for by in (*killers, "nobody", "listed", "error")
    }
    survivors = [v for v in found["nobody"] if v.name not in excused]
    wrong = [v for by in killers for v in found[by] if v.name in excused]
    equal = len(found["listed"]) + len(found["nobody"]) - len(survivors)
    killed = ", ".join(
        f"{len(found[by])} {'' if i else 'killed '}by {by}s" for i, by in enumerate(killers)
    )
    print(f"{len(names)} mutants: {killed}, {equal} listed as equivalent, "
          f"{len(survivors)} survive, {len(found['error'])} errors of the tool; "
          f"{time.monotonic() - began:.0f} s")  # fmt: skip
    unknown = [f"{name}: listed, but there is no such mutant" for name in set(excused) - set(known)]
    lines = [f"{v.name}: survives" for v in survivors] + sorted(unknown)
    lines += [f"{v.name}: listed as equivalent, but killed by {v.what}" for v in wrong]
    lines += [f"{v.name}: {v.what}" for v in found["error"]]
    for line in lines:
        print(line)
    return 2 if found["error"] else 1 if lines else 0


def arguments(about: str) -> argparse.ArgumentParser:
    """Return a parser of the options that both tools have."""
    parser = argparse.ArgumentParser(description=about.split("\n", 1)[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="default: all")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--show", metavar="NAME")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), metavar="N")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    return parser


def run_in_a_copy(tool: Path, copy_tree: Callable[[Path], None]) -> int:
    """Run a tool of ``tools/`` in a copy of the tree, which is not edited meanwhile."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as directory:
        copy_tree(Path(directory))
        copied = Path(directory) / "tools" / tool.name
        command = [sys.executable, str(copied), "--here", *sys.argv[1:]]
        return subprocess.run(command, check=False).returncode
