from __future__ import annotations

import pytest
from world import World


@pytest.fixture
def world():
    w = World()
    yield w
    w.check_invariants()
    w.close()
