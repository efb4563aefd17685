# SPDX-License-Identifier: Apache-2.0
"""What does ``pytest --memcg`` cost on other packages' suites, in processor time?

``build/hosts-3.11/bin/python benchmarks/pytest_suites.py`` needs what ``make test-hosts`` installs,
and gets the sources of two packages from PyPI. A turn runs a suite in each way, in an order that
alternates, and a ratio is that of two runs of one turn. Shown is the median of all turns, with the
quartiles. An outcome that differs between two ways is an error.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

SOURCE = Path(__file__).resolve().parents[1] / "src"
PLUGIN = ("-p", "pytest_memcg")  # as its entry point loads it
WAYS = {"without": (), "nothing asks": PLUGIN, "--memcg": (*PLUGIN, "--memcg")}
TARGET = 1.05  # of --memcg
# Packages whose sdists have their tests, and pytest's arguments for them.
SUITES = {
    "more-itertools": ("more-itertools==10.8.0", ("tests",)),
    "attrs": ("attrs==25.4.0", ("--ignore=tests/test_mypy.yml", "tests")),
}
# Each run does the same: no order, no examples and no threads by chance.
BASE = ("-q", "-p", "no:cacheprovider", "-p", "no:randomly", "-p", "no:run-parallel",
        "--hypothesis-seed=0")  # fmt: skip


@dataclass(frozen=True)
class Run:
    """A run of a suite: seconds of processor time, each test's outcome, and peaks in bytes."""

    processor: float
    outcomes: dict[str, str]
    peaks: list[int]


def unpack(requirement: str, folder: Path) -> Path:
    """Get a package's sdist from PyPI, and return the folder with its sources."""
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps",
         "--no-binary=:all:", "--no-build-isolation", "-d", folder, requirement],
        check=True, timeout=300,
        env=os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
    )  # fmt: skip
    (file,) = folder.glob("*.tar.gz")
    with tarfile.open(file) as tar:
        tar.extractall(folder, filter="data")
    (root,) = (path for path in folder.iterdir() if path.is_dir())
    return root


def measure(root: Path, *args: str) -> Run:
    """Run a suite in a process of its own.

    Raises
    ------
    ChildProcessError
        pytest has run no test; the text is its output.
    """
    inner = root / "src"
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "MEMCG"))}
    env |= {
        "PYTHONPATH": os.pathsep.join(map(str, (SOURCE, inner if inner.exists() else root))),
        "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1",
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        env["HYPOTHESIS_STORAGE_DIRECTORY"] = folder  # what a run has learnt is not the next one's
        junit, shown = Path(folder, "junit.xml"), Path(folder, "shown")
        with shown.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "pytest", *BASE, f"--junitxml={junit}",
                 "-o", "junit_family=xunit1", *args],
                cwd=root, env=env, stdout=output, stderr=output,
            )  # fmt: skip
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode not in (0, 1) or not junit.exists():
            raise ChildProcessError(f"status {process.returncode}:\n{shown.read_text()[-4000:]}")
        outcomes, peaks = {}, []
        for case in ElementTree.parse(junit).getroot().iter("testcase"):
            kinds = {c.tag for c in case} & {"error", "failure", "skipped"}
            outcomes[f"{case.get('classname')}::{case.get('name')}"] = "+".join(sorted(kinds))
            peaks += [int(p.get("value", 0)) for p in case.iter("property")
                      if p.get("name") == "memcg_peak_bytes"]  # fmt: skip
    return Run(usage.ru_utime + usage.ru_stime, outcomes, peaks)


def compare(
    root: Path, args: tuple[str, ...], turns: int, ways: tuple[str, ...] = tuple(WAYS)
) -> dict[str, list[Run]]:
    """Run a suite in each way, `turns` times. The runs of one turn are beside each other in time.

    Raises
    ------
    AssertionError
        A test's outcome differs; the text names it.
    """
    runs: dict[str, list[Run]] = {way: [] for way in ways}
    for turn in range(turns):
        for way in ways[:: 1 if turn % 2 == 0 else -1]:
            runs[way].append(measure(root, *WAYS[way], *args))
        plain = runs["without"][-1].outcomes
        for way, found in runs.items():
            differ = {name for name, _ in plain.items() ^ found[-1].outcomes.items()}
            if differ:
                raise AssertionError(f"{way}: the outcome differs for {', '.join(sorted(differ))}")
    return runs


def ratios(runs: dict[str, list[Run]], way: str) -> list[float]:
    """Return the processor time of each run over that of the same turn's run without memcg."""
    return [a.processor / b.processor for a, b in zip(runs[way], runs["without"], strict=True)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=9, help="9 by default; 2 at least")
    parser.add_argument("--suite", choices=list(SUITES), help="this one alone")
    args = parser.parse_args()
    missed = 0
    for name, (requirement, options) in SUITES.items():
        if args.suite in (None, name):
            with tempfile.TemporaryDirectory() as folder:
                root = unpack(requirement, Path(folder))
                measure(root, *options)  # files are in the system's cache for all ways
                runs = compare(root, options, max(args.turns, 2))
            plain = statistics.median(run.processor for run in runs["without"])
            tests = len(runs["without"][0].outcomes)
            print(f"{name}: {tests} tests, {plain:.2f} s without memcg; no outcome differs")
            for way in list(WAYS)[1:]:
                found = ratios(runs, way)
                low, median, high = statistics.quantiles(found, n=4)
                print(f"  {way}: {median:.3f} ({low:.3f} to {high:.3f})", flush=True)
            missed += median > TARGET
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
