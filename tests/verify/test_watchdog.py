# SPDX-License-Identifier: Apache-2.0
"""A task that does not come back to the seam is named, and Ctrl-C gives what was found."""

from __future__ import annotations

import _thread
import threading

import pytest

from memcg.verify import errors, explore, seam

SOON = {"patience_s": 0.5, "minimise": 0}


def test_a_task_that_waits_for_a_plain_lock_held_over_a_step_is_named_with_its_stack():
    def program():
        lock, cell = threading.Lock(), seam.Published(0)

        def hold():
            with lock:
                cell.load()

        def want():
            cell.store(1)
            with lock:
                cell.load()

        seam.parallel(hold, want)

    failure = explore(program, **SOON).failure
    assert isinstance(failure.exception, errors.Stalled)
    assert "want waits for something that is not on the seam" in str(failure.exception)
    assert "test_watchdog.py" in str(failure.exception)
    assert "with lock:" in str(failure.exception)
    assert "store published" in failure.timeline


@pytest.mark.parametrize("stop", [True, False])
def test_a_task_that_polls_a_plain_attribute_is_named_with_its_stack(stop):
    def program():
        done = []

        def poll():
            while not done:
                pass

        def finish():
            done.append(1)

        seam.parallel(poll, finish)

    before = threading.active_count()
    result = explore(program, stop=stop, **SOON)
    assert not result.exhausted
    (problem,) = result.failures
    assert isinstance(problem, errors.Livelock)
    assert "poll runs without an operation of the seam" in str(problem)
    assert any(line in str(problem) for line in ("while not done:", "    pass"))  # one of the loop
    assert threading.active_count() == before


def test_an_interrupt_gives_what_was_found_so_far():
    runs = []

    def program():
        cell = seam.Published(0)
        runs.append(1)
        if len(runs) == 10:
            _thread.interrupt_main()
        seam.parallel(*(lambda i=i: cell.store(i) for i in range(6)))

    result = explore(program)
    assert 1 <= result.schedules < 720
    assert not result.exhausted
    assert result.why == "interrupted"
    with pytest.raises(AssertionError, match="interrupted"):
        result.check()
    assert explore(program).schedules == 720, "the explorer can be used again"
