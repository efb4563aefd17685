# SPDX-License-Identifier: Apache-2.0
"""Jobs of ``concurrent.futures``, APScheduler and other pools: decorate them with `limited`."""

from .hooks import install
from .integrations import jobs
from .integrations.jobs import limited

jobs.install = install

__all__ = ["limited"]
