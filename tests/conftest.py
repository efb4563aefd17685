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
