from __future__ import annotations

import pytest
from world import World

import memcg


@pytest.fixture
def native():
    """Tests of what the model core does not have: charging Python's own allocations."""
    if memcg.core.name != "native":
        pytest.skip("the native core is not built or MEMCG_CORE=model")


@pytest.fixture
def world():
    w = World()
    yield w
    w.check_invariants()
    w.close()
