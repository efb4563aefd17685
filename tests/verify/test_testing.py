# SPDX-License-Identifier: Apache-2.0
"""A test with the marker `explore` runs under every schedule, and its failure can be replayed."""

from __future__ import annotations

import subprocess
import sys
from xml.etree import ElementTree

import pytest
from environment import environment

TESTS = """
import threading
import pytest

class Account:
    def __init__(self):
        self.balance, self.lock = 100, threading.Lock()
    def withdraw(self, n):
        if self.balance >= n:
            with self.lock:
                self.balance -= n
    def withdraw_safely(self, n):
        with self.lock:
            if self.balance >= n:
                self.balance -= n

def both(account, how):
    threads = [threading.Thread(target=how, args=(80,)) for _ in range(2)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    assert account.balance >= 0, f"overdrawn: {account.balance}"

@pytest.fixture
def amount():
    return 80

@pytest.mark.explore(patch=[__name__], track=[Account])
def test_withdraw(amount):
    account = Account()
    both(account, account.withdraw)

@pytest.mark.explore(patch=[__name__], track=[Account])
def test_safely(amount):
    assert amount == 80
    account = Account()
    both(account, account.withdraw_safely)

@pytest.mark.explore(patch=[__name__], track=[Account], max_schedules=1)
def test_bounded():
    account = Account()
    both(account, account.withdraw_safely)

@pytest.mark.explore(patch=[__name__])
def test_blind():
    found = {"n": 0}
    def add():
        found["n"] += 1
    threads = [threading.Thread(target=add) for _ in range(2)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()

def test_ordinary():
    pass
"""


def run(folder, *arguments):
    """Run the tests; return the output, and each test's outcome and properties."""
    (folder / "test_account.py").write_text(TESTS)
    plugin = ["-p", "memcg.pytest_plugin", "-p", "no:cacheprovider"]
    report = ["--junitxml=junit.xml", "-o", "junit_family=xunit1"]
    command = [sys.executable, "-m", "pytest", "-q", *plugin, *report, *arguments]
    done = subprocess.run(command, cwd=folder, env=environment(), text=True, capture_output=True,
                          check=False)  # fmt: skip
    cases = {}
    for case in ElementTree.parse(folder / "junit.xml").getroot().iter("testcase"):
        properties = {p.get("name"): p.get("value") for p in case.iter("property")}
        cases[case.get("name")] = (case.find("failure") is None, properties)
    return done.stdout + done.stderr, cases


@pytest.fixture(scope="module")
def explored(tmp_path_factory):
    return run(tmp_path_factory.mktemp("explored"))


def test_a_failure_shows_the_timeline_and_its_schedule_is_in_the_report(explored, tmp_path):
    text, cases = explored
    passed, properties = cases["test_withdraw"]
    assert not passed
    assert "overdrawn: -60" in text
    assert "| 1: withdraw" in text
    assert "store Account.balance" in text
    schedule = properties["explore_replay"]
    assert f"pytest 'test_account.py::test_withdraw' --explore-replay '{schedule}'" in text
    again, cases = run(tmp_path, "--explore-replay", schedule, "-k", "withdraw")
    assert cases["test_withdraw"] == (False, {"explore_replay": schedule})
    assert "overdrawn: -60" in again


def test_a_test_that_holds_passes_and_says_how_many_schedules_it_has_seen(explored):
    passed, properties = explored[1]["test_safely"]
    assert passed
    assert properties == {"explore_schedules": "2", "explore_exhausted": "True"}
    assert explored[1]["test_bounded"] == (
        True, {"explore_schedules": "1", "explore_exhausted": "False"},
    )  # fmt: skip


def test_a_test_that_shares_what_is_not_explored_fails(explored):
    text, cases = explored
    assert not cases["test_blind"][0]
    assert "not exhausted after" in text
    assert "the dict found is" in text


def test_a_schedule_that_a_test_cannot_follow_is_an_error_of_that_test(tmp_path):
    text, cases = run(tmp_path, "--explore-replay", "0*90", "-k", "safely")
    assert not cases["test_safely"][0]
    assert "NondeterminismError" in text


def test_a_test_without_the_marker_does_not_load_the_explorer(explored):
    assert explored[1]["test_ordinary"] == (True, {})
    code = "import sys, pytest_memcg; assert 'memcg.verify' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], env=environment(), check=True)
