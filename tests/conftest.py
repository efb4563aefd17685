# SPDX-License-Identifier: Apache-2.0
"""The folders mirror those of ``src/memcg``; a file here tests the module of its name.

control/    the scheme: groups, child caches, the mutexes, statement by statement
core/       the data planes: the model against the native one
locking/    mutexes and events; the order of locks
programs/   whole programs, each in a process of its own: charging, alarms, threads, forks
cli/        ``memcg run`` and the other verbs, beside plain Python
faults/     every request of an operation refused in turn
hostile/    an extension in C that breaks the rules
litmus/     the lock-free protocols under every execution of the memory model
verify/     the explorer, its scenarios and the mutants
house/      the rules of the tree: layers, documents, examples, installation, tools
hosts/      memcg in web servers, test runners, notebooks and clusters, apart from ``make test``
long/       the soak, which runs for an hour, apart from ``make test``

The marker ``alone`` is for tests that measure time: no other worker of pytest-xdist runs a test
meanwhile. The marker ``long`` is for tests of which ``make test`` runs a shorter form.
``make test-long`` runs them whole.
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

# A background job of a shell ignores SIGINT. The programs that tests start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items):
    """Run tests that need the machine alone last, so that workers seldom wait for each other."""
    items.sort(key=lambda item: item.get_closest_marker("alone") is not None)


def pytest_collection_finish():
    """Freeze what pytest and its plugins hold to the end: tests collect garbage often."""
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
    """Check that a test, and the processes it starts, take locks in the documented order."""
    with lockdep.watching(locking):
        yield
    check_reports()


@pytest.fixture
def native():
    """Skip what needs the native core: the model core does not charge Python's own allocations."""
    if memcg.core.name != "native":
        pytest.skip("the native core is not built or MEMCG_CORE=model")


@pytest.fixture(params=["model", "native"])
def world(request):
    """Give the test a control plane of its own, over each data plane in turn."""
    if request.param == "native":
        request.getfixturevalue("native")
    w = World(core=request.param)
    with lockdep.watching(w.locking):
        yield w
        w.check_invariants()
        w.close()
