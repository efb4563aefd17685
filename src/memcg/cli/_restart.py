# SPDX-License-Identifier: Apache-2.0
"""``memcg run`` starts its process again with libmemcg_malloc preloaded, so that C code is charged.

A library that replaces malloc must be loaded before all others, so only a new start can do it. The
process keeps its number, files and arguments. Everything that is imported until then is imported
twice, which takes about 30 ms.

The preloaded library takes its own entry out of ``LD_PRELOAD`` before Python reads the environment.
So the program and its children have the environment that they were given.
"""

from __future__ import annotations

import os
import sys

from memcg import core

MARK = "MEMCG_RESTARTED"  # in the environment, from the restart until this module has seen it


def restart() -> str | None:
    """Start this process again with malloc served. Return why not; None: it is served already.

    Notes
    -----
    Context: before the program starts, in a process whose command line is that of memcg.
    """
    restarted = os.environ.pop(MARK, None)
    if core.name != "native" or core.malloc_served():
        return None
    reason = core.why_malloc_not_served()
    if reason is not None:
        return reason
    if restarted is not None:
        return "the system has ignored LD_PRELOAD"
    if not sys.executable or not sys.orig_argv:
        return "Python does not know how it was started"
    library = core.malloc_library()
    assert library is not None
    before = os.environ.get("LD_PRELOAD")
    environment = {
        **os.environ,
        MARK: "1",
        "LD_PRELOAD": f"{library}:{before}" if before else library,
    }
    os.execve(sys.executable, sys.orig_argv, environment)
