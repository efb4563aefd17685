# SPDX-License-Identifier: Apache-2.0
"""Children of pools, and servers of managers, start in the root, because they serve every caller.

Without this, a forked child would be in the context of the thread that started it. That is the
thread that submitted the first job.
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
    """Make processes that serve every caller start in the root.

    Context: `module` is ``multiprocessing.process``, which has just run.
    """
    start = module.BaseProcess.start

    @functools.wraps(start)
    def start_process(self: Any) -> None:
        begin = start
        if core.current_entry() is not None and serves_all(self, getattr(self, "_target", None)):
            begin = core.Bound(None, start)
        begin(self)

    module.BaseProcess.start = start_process
