# SPDX-License-Identifier: Apache-2.0
"""The folders mirror those of ``src/memcg``; a file here tests the module of its name.

control/    the scheme: groups, child caches, the mutexes, statement by statement
core/       the data planes: the model against the native one
locking/    mutexes and events; the order of locks
programs/   whole programs, each in a process of its own: charging, alarms, threads, forks
cli/        ``memcg run`` beside plain Python
faults/     every request of an operation refused in turn
hostile/    an extension in C that breaks the rules
litmus/     the lock-free protocols under every execution of the memory model
verify/     the explorer, its scenarios and the mutants
house/      what holds of the tree: layers, documents, examples, installation, tools
long/       what runs for an hour, apart from ``make test``

The marker ``alone`` is for tests that measure time: no other worker of pytest-xdist runs a test
meanwhile. The marker ``long`` is for what ``make test`` has a shorter form of; ``make test-long``
runs it.
"""

from __future__ import annotations

import gc
import os
import signal

import pytest
from environment import check_reports
from machine import machine
from world import World

import memcg
from memcg import locking
from memcg.locking import lockdep

# A shell's background job ignores it, and so would the programs that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items):
    """Run those that need the machine alone last: so workers seldom wait for each other."""
    items.sort(key=lambda item: item.get_closest_marker("alone") is not None)


def pytest_collection_finish():
    """Spare collections what pytest and its plugins hold to the end: tests collect often."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return (yield)
    with machine(alone=item.get_closest_marker("alone") is not None):
        return (yield)


@pytest.fixture(autouse=True)
def order_of_locks():
    """Whatever a test does, and the processes it starts, takes locks in the documented order."""
    with lockdep.watching(locking):
        yield
    check_reports()


@pytest.fixture
def native():
    """Tests of what the model core does not have: charging Python's own allocations."""
    if memcg.core.name != "native":
        pytest.skip("the native core is not built or MEMCG_CORE=model")


@pytest.fixture(params=["model", "native"])
def world(request):
    """A control plane of its own over each data plane: both stand under the same tests."""
    if request.param == "native":
        request.getfixturevalue("native")
    w = World(core=request.param)
    with lockdep.watching(w.locking):
        yield w
        w.check_invariants()
        w.close()
