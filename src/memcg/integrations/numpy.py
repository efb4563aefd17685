# SPDX-License-Identifier: Apache-2.0
"""NumPy's arrays are charged.

Since NumPy 2.5 an array is allocated by ``PyMem_RawMalloc``, which is hooked. Before, a handler
(NEP 49) allocates it, whose default is plain ``malloc``.
"""

from __future__ import annotations

import sys

from .. import core

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType


def hook(module: ModuleType) -> None:
    """Put in memcg's handler. Context: `module` is ``_multiarray_umath``, which has just run."""
    version = tuple(map(int, sys.modules["numpy.version"].version.split(".")[:2]))
    is_alias = version >= (2, 0) and module.__name__.startswith("numpy.core")
    if version < (2, 5) and not is_alias:
        core.install_numpy(module._ARRAY_API)
