# SPDX-License-Identifier: Apache-2.0
"""Run other people's test suites with memcg and without, and compare the outcome of each test.

    python tools/foreign.py [--limit SIZE] [--timeout S] SUITE [tests ...]

In the run with memcg the hooks are installed from the start of every process, and the whole run is
inside a group. In the run without it the same modules are imported and nothing is installed. The
tool prints each test, and each file of CPython, whose outcome differs. It exits with 1 if
`EXPLAINED` does not name one of them.

With --limit the group has a limit that is too small for the suite, and tests may fail with
MemoryError. If the suite runs under pytest, the limit holds for its tests only: what pytest keeps
is charged to another group. The tool then exits with 1 on a crash, a hang, an early end, an account
that does not add up at the end of a process, or a limit that was not reached. It prints the
failures whose text names no MemoryError.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

SOURCE = Path(__file__).parent.parent / "src"
# Subinterpreters run it too. memcg does not work there, and what it imports does not either.
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
        if "MEMCG_FOREIGN_ACCOUNTS" in os.environ:
            import atexit
            import foreign_account
            atexit.register(foreign_account.write)
"""
# At the end of a process this writes its figures, and those that do not add up.
ACCOUNT = """
import gc, json, os, memcg

def groups(group):
    yield group
    for child in list(group.children.values()):
        yield from groups(child)

def wrong():
    found = []
    for group in groups(memcg.root):
        current, parts = group.current, group.stat
        parts = [parts[k] for k in ("slab_private", "slab_shared", "page_runs", "external")]
        own = sum(parts)
        below = sum(child.current for child in group.children.values())
        live = sum(size for _, size, _ in memcg.core.live_blocks(group))
        if current != own + below or live > own or min(parts) < 0:
            found.append(f"{group.path or '/'}: current {current}, own {parts}, children {below}, "
                         f"live {live}")
    return found

def write():
    memcg.core.stop_account()
    gc.collect()
    memcg.root.reclaim()
    for _ in range(20):  # other threads may be at work
        bad = wrong()
        if not bad:
            break
    group = memcg.group("foreign")
    path = os.path.join(os.environ["MEMCG_FOREIGN_ACCOUNTS"], str(os.getpid()))
    with open(path, "w") as out:
        json.dump({"wrong": bad, "peak": group.peak, "events": dict(group.events)}, out)
    memcg.core.resume_account()
"""
# pytest keeps what it will report, and after a MemcgOOM in its own steps it fails all later tests.
# So pytest is in a group without a limit, and the calls of tests are in one with a limit.
CALLS = """
import memcg, os, pytest

limit = os.environ["MEMCG_FOREIGN_MAX"] = os.environ["MEMCG_FOREIGN_CALLS"]  # for children too
inner = memcg.group("foreign/tests", max=limit)

@pytest.hookimpl(wrapper=True)
def pytest_runtest_call():
    with inner:
        return (yield)
"""
REPORT = "outcomes.xml"
# CPython names its allocators only if they are its own. With -X tracemalloc both tests fail too.
NAME = "asks for the allocator's name, which CPython does not have for a hooked one"
EXPLAINED = {f"test.test_cmd_line.CmdLineTest.{test}": NAME
             for test in ("test_pythonmalloc", "test_xdev")}  # fmt: skip
# Since 3.14 a process can read the frames of another one.
EXPLAINED["test.test_external_inspection.TestGetStackTrace.test_remote_stack_trace"] = (
    "sees the frame that has a thread run in the group that started it"
)


# Packages that install their tests: arrays, tables, a parser, an async web server, graphs.
PACKAGES = {
    "numpy": ["numpy"],
    "pandas": ["pandas.tests.groupby", "pandas.tests.io.json"],
    "simplejson": ["simplejson"],
    "tornado": ["tornado.test"],
    "networkx": ["networkx"],
}


def commands(suite: str, tests: list[str], timeout: int, limited: bool = False) -> list[str]:
    """Return the command line of a suite, which leaves `REPORT` in its directory."""
    report = ["--junit-xml", REPORT]
    if suite == "cpython":
        # waits for ever, without memcg too, where the machine is a guest that has vsock
        run = ["-m", "test", "-j2", "--timeout", str(timeout), "-i", "ThreadedVSOCKSocket*"]
        return [*run, *report, *tests]
    wanted = tests or PACKAGES[suite]
    plugin = ["-p", "foreign_calls"] if limited else []
    return ["-m", "pytest", "-q", "-rfE", "--tb=no", "-p", "no:cacheprovider", *report, *plugin,
            "--pyargs", *wanted]  # fmt: skip


def ended(suite: str, status: int) -> bool:
    """Tell by the status of pytest or regrtest whether a run came to its end.

    A run with failures does. In regrtest 2, 3 and 5 mean: failed, environment changed, failed when
    run again.
    """
    return status in ((0, 2, 3, 5) if suite == "cpython" else (0, 1))


def breaches(
    suite: str, status: int | None, text: str, accounts: dict[int, dict], main: int
) -> list[str]:
    """Return what happened in a run with a limit and must not happen.

    The status is None if the run hung. There is an account for each process.
    """
    found = []
    if status is None:
        found.append("hung")
    elif status < 0 or "Fatal Python error" in text or re.search(r"crashed|timed out", text):
        found.append(f"crashed, status {status}")
    elif main not in accounts:
        found.append(f"no account at the end, status {status}")
    elif not ended(suite, status):
        found.append(f"ended early, status {status}")
    for process, account in accounts.items():
        found += [f"process {process}: {wrong}" for wrong in account["wrong"]]
    if not any(a["events"]["oom_kill"] + a["events"]["fail"] for a in accounts.values()):
        found.append("nothing met the limit")
    return found


def unexplained(text: str) -> list[str]:
    """Return the tests that failed for another reason than memory, by pytest's summary."""
    failed = re.findall(r"^(?:FAILED|ERROR) .*", text, re.M)
    return [line for line in failed if not re.search("Memory|OOM", line)]


def run_limited(suite: str, tests: list[str], timeout: int, limit: str) -> list[str]:
    """Run a suite in a group with a limit, print how it went, and return the breaches."""
    with tempfile.TemporaryDirectory() as site:
        more = {"MEMCG_FOREIGN_ACCOUNTS": f"{site}/accounts", "MEMCG_FOREIGN_CALLS": limit}
        environment = prepare(site, "with", limit if suite == "cpython" else "max", **more)
        process = subprocess.Popen(
            [sys.executable, "-X", "faulthandler", *commands(suite, tests, timeout, limited=True)],
            env=environment, cwd=site, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            errors="replace", start_new_session=True,
        )  # fmt: skip
        try:
            text, status = process.communicate(timeout=timeout)[0], process.returncode
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGABRT)  # faulthandler shows where it hangs
            text, status = process.communicate()[0], None
        files = Path(site, "accounts").iterdir()
        accounts = {int(path.name): json.loads(path.read_text()) for path in files}
        how = Counter(outcomes(suite, text, site).values())
    peak = max((a["peak"] for a in accounts.values()), default=0)
    events = Counter()
    for account in accounts.values():
        events.update(account["events"])
    print(f"{suite} in {limit}: {dict(how)}, status {status}, {len(accounts)} processes, "
          f"peak {peak / 2**20:.0f} MiB, alarms {events['oom_kill']}, refused {events['fail']}, "
          f"see {write_log(suite, f'in-{limit}', text)}")  # fmt: skip
    print(*unexplained(text), sep="\n")
    return breaches(suite, status, text, accounts, process.pid)


def write_log(suite: str, how: str, text: str) -> Path:
    version = ".".join(map(str, sys.version_info[:2]))
    log = Path("build") / f"foreign-{suite}-{version}-{how}.log"
    log.parent.mkdir(exist_ok=True)
    log.write_text(text)
    return log


def prepare(site: str, how: str, limit: str, **more: str) -> dict[str, str]:
    """Make the environment of a suite's processes, which have the directory `site`."""
    (Path(site) / "sitecustomize.py").write_text(SITE)
    (Path(site) / "foreign_account.py").write_text(ACCOUNT)
    (Path(site) / "foreign_calls.py").write_text(CALLS)
    (Path(site) / "accounts").mkdir()
    environment = {
        **os.environ, "PYTHONPATH": f"{site}{os.pathsep}{SOURCE}", "COLUMNS": "300",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "MEMCG_FOREIGN": how, "MEMCG_FOREIGN_MAX": limit, **more,
    }  # fmt: skip
    if how == "with":  # A sitecustomize that fails is only printed, and then nothing would differ.
        inside = "import memcg; raise SystemExit(memcg.current().path != 'foreign')"
        subprocess.run([sys.executable, "-c", inside], env=environment, check=True)
    return environment


def outcomes(suite: str, text: str, site: str) -> dict[str, str]:
    """Test -> how it ended, from the report of the run. The output has the ends of CPython's files.

    A file that crashes has no tests in the report. A test that fails in a subtest is not in it.
    """
    found: dict[str, str] = {}
    if suite == "cpython":
        how = r"passed|skipped|failed(?: \(env changed\))?|timed out|worker.*?|crashed|ran no tests"
        pattern = rf"\[ *\d+/\d+(?:/\d+)?\] (\S+) ({how}|interrupted)"
        found = {m[1]: m[2] for m in re.finditer(pattern, text)}
    report = Path(site, REPORT)
    for test in ElementTree.parse(report).iter("testcase") if report.exists() else ():
        name = "::".join(test.get(key, "") for key in ("classname", "name") if test.get(key))
        kinds = [part.get("type", part.tag) if part.tag == "skipped" else part.tag for part in test]
        how = "+".join(k for k in kinds if not k.startswith(("system-", "propert"))) or "passed"
        if name:
            found[name] = f"{found[name]}, {how}" if name in found else how
    return found


def run(suite: str, tests: list[str], timeout: int, how: str) -> dict[str, str]:
    """Run a suite ``with`` or ``without`` memcg, and write its output to build/foreign-*.log."""
    with tempfile.TemporaryDirectory() as site:
        shown = subprocess.run(
            [sys.executable, "-X", "faulthandler", *commands(suite, tests, timeout)],
            env=prepare(site, how, "max"), cwd=site, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, errors="replace", check=False,
        )  # fmt: skip
        found = outcomes(suite, shown.stdout, site)
    log = write_log(suite, how, shown.stdout)
    print(f"{suite} {how}: {len(found)} outcomes, status {shown.returncode}, see {log}", flush=True)
    if not found or not ended(suite, shown.returncode):
        raise SystemExit(f"{suite}: did not run to its end, see {log}")
    return found


def not_explained(differ: list[str], ours: dict[str, str]) -> set[str]:
    """Return what `EXPLAINED` does not. It explains a file of CPython that failed for its tests."""
    left = set(differ) - EXPLAINED.keys()
    explained = set(differ) - left

    def has(tests: set[str], file: str) -> bool:
        return any(test.startswith(f"test.{file}.") for test in tests)

    return {
        name
        for name in left
        if ours.get(name) != "failed" or not has(explained, name) or has(left, name)
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("suite", choices=("cpython", *PACKAGES))
    parser.add_argument("tests", nargs="*")
    parser.add_argument("--limit", default="max")
    parser.add_argument(
        "--timeout", type=int, default=600, help="seconds for one test file; with --limit, for all"
    )
    options = parser.parse_args()
    # A background job of a shell ignores SIGINT. The suites, which test it, would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if options.limit != "max":
        found = run_limited(options.suite, options.tests, options.timeout, options.limit)
        print("\n".join(found) or "no crash, no hang, the account adds up")
        return bool(found)
    ours = run(options.suite, options.tests, options.timeout, "with")
    theirs = run(options.suite, options.tests, options.timeout, "without")
    differ = sorted(t for t in ours.keys() | theirs.keys() if ours.get(t) != theirs.get(t))
    for test in differ:
        why = f" ({EXPLAINED[test]})" if test in EXPLAINED else ""
        print(f"{test}: {ours.get(test, 'absent')} with, {theirs.get(test, 'absent')} without{why}")
    print(f"{len(differ)} of {len(ours.keys() | theirs.keys())} differ")
    return bool(not_explained(differ, ours))


if __name__ == "__main__":
    sys.exit(main())
