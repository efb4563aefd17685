"""Other people's test suites, with memcg and without: the same outcome, test by test.

    python tools/foreign.py [--limit SIZE] [--timeout S] SUITE [tests ...]

With: the hooks are in from the start of every process, and the whole run is inside a group.
Without: the same modules are imported, nothing is installed. Prints each test whose outcome
differs, and exits with 1 if there is one. With --limit the group has a limit that the suite does
not fit into: then tests may fail with MemoryError, and only a crash or a hang counts.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

SOURCE = Path(__file__).parent.parent / "src"
# Subinterpreters run it too; there memcg is not, and neither is what it would import.
SITE = """
import sys
def in_main_interpreter():
    for name in ("_xxsubinterpreters", "_interpreters"):
        try:
            interpreters = __import__(name)
        except ImportError:
            continue
        ids = [interpreters.get_current(), interpreters.get_main()]
        ids = [int(i[0] if isinstance(i, tuple) else i) for i in ids]
        return ids[0] == ids[1]
    return True
if in_main_interpreter():
    import os, memcg
    if os.environ["MEMCG_FOREIGN"] == "with":
        memcg.install()
        memcg.group("foreign", max=os.environ["MEMCG_FOREIGN_MAX"]).__enter__()
"""
# Need the network, a display, another Python's sources, or more than our time limit.
NOT_HERE = [
    "test_gdb", "test_tools", "test_idle", "test_tkinter", "test_ttk", "test_peg_generator",
    "test_venv", "test_ensurepip", "test_urllib2net", "test_urllibnet", "test_regrtest",
    "test_faulthandler",
]  # fmt: skip


# A package's tests, as it installs them: arrays, tables, a parser, an async web server, graphs.
PACKAGES = {
    "numpy": ["numpy"],
    "pandas": ["pandas.tests.groupby", "pandas.tests.io.json"],
    "simplejson": ["simplejson"],
    "tornado": ["tornado.test"],
    "networkx": ["networkx"],
}


def commands(suite: str, tests: list[str], timeout: int) -> list[str]:
    """The command line of a suite."""
    if suite == "cpython":
        # waits for ever, without memcg too, where the machine is a guest that has vsock
        run = ["-m", "test", "-j2", "--timeout", str(timeout), "-i", "ThreadedVSOCKSocket*"]
        return [*run, *tests] if tests else [*run, "-x", *NOT_HERE]
    wanted = tests or PACKAGES[suite]
    return ["-m", "pytest", "-q", "-rA", "--tb=no", "-p", "no:cacheprovider", "--pyargs", *wanted]


def outcomes(suite: str, text: str) -> dict[str, str]:
    """Test -> how it ended."""
    if suite == "cpython":
        how = "passed|skipped|failed|timed out|worker.*?|crashed"
        pattern = rf"\[ *\d+/\d+(?:/\d+)?\] (\S+) ({how})"
    else:
        pattern = r"^(?P<how>PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS) (?P<test>\S+)"
        return {m["test"]: m["how"] for m in re.finditer(pattern, text, re.M)}
    return {m[1]: m[2] for m in re.finditer(pattern, text)}


def run(suite: str, tests: list[str], timeout: int, how: str, limit: str) -> dict[str, str]:
    """Run a suite ``with`` or ``without``; its output goes to build/foreign-*.log."""
    with tempfile.TemporaryDirectory() as site:
        (Path(site) / "sitecustomize.py").write_text(SITE)
        environment = {
            **os.environ, "PYTHONPATH": f"{site}{os.pathsep}{SOURCE}",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "MEMCG_FOREIGN": how, "MEMCG_FOREIGN_MAX": limit,
        }  # fmt: skip
        shown = subprocess.run(
            [sys.executable, "-X", "faulthandler", *commands(suite, tests, timeout)],
            env=environment, cwd=site, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            errors="replace", check=False,
        )  # fmt: skip
    version = ".".join(map(str, sys.version_info[:2]))
    log = Path("build") / f"foreign-{suite}-{version}-{how}.log"
    log.parent.mkdir(exist_ok=True)
    log.write_text(shown.stdout)
    found = outcomes(suite, shown.stdout)
    print(f"{suite} {how}: {len(found)} outcomes, status {shown.returncode}, see {log}", flush=True)
    if not found or (suite != "cpython" and limit == "max" and shown.returncode not in (0, 1)):
        raise SystemExit(f"{suite}: did not run to its end, see {log}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("suite", choices=("cpython", *PACKAGES))
    parser.add_argument("tests", nargs="*")
    parser.add_argument("--limit", default="max")
    parser.add_argument("--timeout", type=int, default=600, help="seconds for one test file")
    options = parser.parse_args()
    ours = run(options.suite, options.tests, options.timeout, "with", options.limit)
    if options.limit != "max":
        bad = {t: how for t, how in ours.items() if re.search("crash|timed|worker", how)}
        print("\n".join(f"{how}: {test}" for test, how in bad.items()) or "no crash, no hang")
        return bool(bad)
    theirs = run(options.suite, options.tests, options.timeout, "without", "max")
    differ = sorted(t for t in ours.keys() | theirs.keys() if ours.get(t) != theirs.get(t))
    for test in differ:
        print(f"{test}: {ours.get(test, 'absent')} with, {theirs.get(test, 'absent')} without")
    print(f"{len(differ)} of {len(ours.keys() | theirs.keys())} differ")
    return bool(differ)


if __name__ == "__main__":
    sys.exit(main())
