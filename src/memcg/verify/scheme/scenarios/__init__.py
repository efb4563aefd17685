# SPDX-License-Identifier: Apache-2.0
"""Scenarios on the control plane that ships: operations that run at the same time.

Each is a program for `explore`. It sets up a system, starts tasks on it, and checks at the end
what must hold. The registry is checked at every release of ``memcg_slab_mutex`` too. `SCENARIOS`
has all of them by name. In a title, ``x`` stands between operations that run at the same time.
"""

from __future__ import annotations

from . import (
    charging,
    creation,
    crowds,
    destruction,
    faults,
    forking,
    interruption,
    shares,
    spares,
    working,
)  # fmt: skip
from .system import SCENARIOS, Scenario, System, scenario

__all__ = [
    "SCENARIOS", "Scenario", "System", "charging", "creation", "crowds", "destruction", "faults",
    "forking", "interruption", "scenario", "shares", "spares", "working",
]  # fmt: skip
