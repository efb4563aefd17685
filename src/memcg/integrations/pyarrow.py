# SPDX-License-Identifier: Apache-2.0
"""Arrow has mimalloc in it, and takes the system's malloc if it is asked to when it is loaded.

That is what ``ARROW_DEFAULT_MEMORY_POOL=system`` is for. It is in the environment while pyarrow is
imported and not longer, so that children of the program do not see it. A program that sets the
variable itself keeps what it asked for.
"""

from __future__ import annotations

import os

from .allocators import covered, left_alone
from .relocations import loaded

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType

VARIABLE = "ARROW_DEFAULT_MEMORY_POOL"


def prepare() -> None:
    """Ask for the system's malloc, before pyarrow is loaded."""
    os.environ.setdefault(VARIABLE, "system")


def hook(module: ModuleType) -> None:
    """Ask pyarrow, which has just been imported, for its pool: it decides at the first call."""
    pool = module.default_memory_pool().backend_name
    if os.environ.get(VARIABLE) == "system":
        del os.environ[VARIABLE]
    for path in loaded():
        if os.path.basename(path).startswith("libarrow.so"):
            if pool == "system":
                covered.add(path)
            else:
                left_alone[path] = f"its memory pool is {pool}"
