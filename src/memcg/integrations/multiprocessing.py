# SPDX-License-Identifier: Apache-2.0
"""Children of pools, and servers of managers, begin in the root: they serve every caller.

A forked child is in the context of the thread that started it, which is the one that submitted the
first job.
"""

from __future__ import annotations

import functools

from .. import core
from .threading import serves_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any


def hook(module: ModuleType) -> None:
    """Have processes that serve everybody begin in the root. `module`: multiprocessing.process."""
    start = module.BaseProcess.start

    @functools.wraps(start)
    def start_process(self: Any) -> None:
        begin = start
        if core.current_entry() is not None and serves_all(self, getattr(self, "_target", None)):
            begin = core.Bound(None, start)
        begin(self)

    module.BaseProcess.start = start_process
