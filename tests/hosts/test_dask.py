# SPDX-License-Identifier: Apache-2.0
"""Dask's tasks in groups, in real clusters of two workers with four threads each."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from environment import environment

HERE = Path(__file__).parent
MIB = 1 << 20


def run(program: str, *args: str, timeout: float = 240, **env: str) -> dict:
    """Run a function of `dask_programs.py` in a process of its own; return what it prints."""
    process = subprocess.Popen(
        [sys.executable, str(HERE / "dask_programs.py"), program, *args],
        env=environment(HERE) | env, start_new_session=True, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        out, errors = process.communicate(timeout=timeout)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    assert process.returncode == 0, errors[-4000:]
    return json.loads(out.splitlines()[-1])


@pytest.fixture(scope="module", params=["threads", "processes"])
def bombs(request):
    return run("bombs", request.param)


def test_a_bomb_is_a_memory_error_at_the_client_with_the_account_and_its_line(bombs):
    assert set(bombs["errors"]) == {"arrays", "objects", "at_once", "annotated"}
    for name, error in bombs["errors"].items():
        assert error["memory_error"], error
        assert error["type"] == "MemcgOOM"
        assert "is over memory.max" in error["text"]
        assert name in error["frames"]


def test_only_the_bombs_fail_and_the_workers_live(bombs):
    assert bombs["sum"] == sum(range(1, 61))
    assert bombs["workers_after"] == bombs["workers_before"]
    assert len(bombs["workers_after"]) == 2


def test_a_bomb_is_run_again_as_often_as_retries_say(bombs):
    assert bombs["runs"] == 3
    assert bombs["came_through"] == "the second time"


def test_a_task_and_a_coroutine_are_in_a_group_of_their_keys_prefix(bombs):
    assert bombs["where"].split("/")[2:] == ["where", "task"]
    assert bombs["where_async"].split("/")[2:] == ["where_async", "task"]
    assert bombs["tenant"].split("/")[2:] == ["acme%20corp", "eu", "where", "task"]


def test_the_peak_of_a_task_is_in_the_account(bombs):
    peaks = [a["prefixes"].get("peaks", {}).get("task_peak", 0) for a in bombs["account"].values()]
    assert 20 * MIB <= max(peaks) < 21 * MIB
    events = [a["prefixes"].get("arrays", {}).get("events", {}) for a in bombs["account"].values()]
    assert sum(e.get("fail", 0) + e.get("oom_kill", 0) for e in events) > 0  # refused, or an alarm
    assert {a["limit"] for a in bombs["account"].values()} == {1024 * MIB}
    assert all(p["task_limit"] == 64 * MIB
               for a in bombs["account"].values() for p in a["prefixes"].values())  # fmt: skip


def test_a_stored_result_is_charged_as_stored_and_uncharged_when_it_is_released(bombs):
    assert 30 * MIB <= sum(bombs["stored"]) < 31 * MIB
    assert sum(bombs["stored_after"]) < 1 * MIB
    assert sum(bombs["current_after"]) < 2 * MIB


def test_settings_come_from_the_environment_of_dask_and_an_argument_stands_above_them():
    found = run("settings", DASK_DISTRIBUTED__WORKER__MEMCG__MAX="48MiB",
                DASK_DISTRIBUTED__WORKER__MEMCG__WORKER_MAX="3GiB")  # fmt: skip
    assert found == {"task_limit": 48 * MIB, "limit": 3072 * MIB, "argument": 16 * MIB}


def test_another_distributed_is_refused_with_a_clear_error():
    said = run("unknown")["said"]
    assert "memcg.dask does not know distributed" in said
    assert "_run_task_simple takes ['task', 'more']" in said


@pytest.fixture(scope="module", params=["threads", "processes"])
def limited(request):
    return run("limited", request.param)


def test_a_limit_holds_over_all_workers(limited):
    assert limited["peak"] <= 96 * MIB  # what both workers used at the same time
    assert limited["peak"] > 10 * MIB
    assert limited["out"] <= 96 * MIB


def test_a_task_gets_the_share_that_another_worker_does_not_use(limited):
    assert limited["whole"] == [60, 60]  # on one worker after the other


def test_a_task_that_needs_more_than_the_limit_fails_and_says_so(limited):
    assert limited["too_much"]["type"] == "MemcgOOM"
    assert "tenant/a" in limited["too_much"]["text"]


def test_the_share_of_a_worker_that_dies_is_given_to_another_after_the_term(limited):
    assert limited["after_death"] == 60


def test_a_limit_can_be_taken_away(limited):
    assert limited["unlimited"] == 150


@pytest.mark.alone
def test_the_plugin_adds_at_most_a_tenth_to_a_tiny_tasks_processor_time(record_property):
    found = run("cost", MEMCG_LOCKDEP="")  # lockdep would be measured too
    record_property("microseconds_added", found["added"] * 1e6)
    record_property("microseconds_of_a_task", found["task"] * 1e6)
    assert found["added"] <= 0.1 * found["task"], found


def test_the_dashboard_has_a_page_with_each_prefix_and_each_share():
    found = run("dashboard")
    assert found["statuses"] == {"status": 200, "memcg": 200, "individual-memcg": 200}
    assert found["linked"], "the other pages have a link to it"
    assert any(name.endswith(": one") for name in found["groups"])
    assert found["shares"][0] == "tenant/a"
