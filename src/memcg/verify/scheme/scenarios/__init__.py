# SPDX-License-Identifier: Apache-2.0
"""Scenarios on the control plane that ships: what may get in the way of what.

Each is a program for `explore`. It sets a system up, lets two or more tasks loose on it, and
checks at the end what must hold; the registry is checked at every release of
``memcg_slab_mutex`` as well. `SCENARIOS` names them all.
"""

from __future__ import annotations

from . import charging, creation, crowds, destruction, faults, forking, interruption, working
from .system import SCENARIOS, Scenario, System, scenario

__all__ = [
    "SCENARIOS", "Scenario", "System", "charging", "creation", "crowds", "destruction", "faults",
    "forking", "interruption", "scenario", "working",
]  # fmt: skip
