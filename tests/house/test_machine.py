# SPDX-License-Identifier: Apache-2.0
"""Tests run beside each other, and a test that measures time has the machine alone."""

from __future__ import annotations

import threading

import pytest
from machine import machine


@pytest.fixture
def files(tmp_path):
    names = {"gate": tmp_path / "gate", "room": tmp_path / "room"}
    for path in names.values():
        path.touch()
    return names


def enter(files, alone):
    """Start a thread that enters, sets `inside`, and leaves when `leave` is set."""
    inside, leave = threading.Event(), threading.Event()

    def work():
        with machine(alone=alone, **files):
            inside.set()
            leave.wait(20)

    thread = threading.Thread(target=work)
    thread.start()
    return inside, leave, thread


def test_tests_run_beside_each_other(files):
    with machine(alone=False, **files):
        inside, leave, thread = enter(files, alone=False)
        assert inside.wait(20)
        leave.set()
        thread.join(20)


@pytest.mark.parametrize(("first", "second"), [(False, True), (True, False), (True, True)])
def test_a_test_that_needs_the_machine_alone_has_it_alone(files, first, second):
    with machine(alone=first, **files):
        inside, leave, thread = enter(files, alone=second)
        assert not inside.wait(0.1)
    assert inside.wait(20)
    leave.set()
    thread.join(20)


def test_a_test_that_waits_to_be_alone_is_not_overtaken(files):
    with machine(alone=False, **files):
        inside, leave, thread = enter(files, alone=True)
        assert not inside.wait(0.1)
        late, late_leaves, late_thread = enter(files, alone=False)
        assert not late.wait(0.1)
    assert inside.wait(20)
    assert not late.wait(0.1)
    leave.set()
    assert late.wait(20)
    late_leaves.set()
    for each in (thread, late_thread):
        each.join(20)
