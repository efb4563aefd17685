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
"""

from __future__ import annotations

import signal

import pytest
from environment import check_reports
from world import World

import memcg
from memcg import locking
from memcg.locking import lockdep

# A shell's background job ignores it, and so would the programs that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)


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
