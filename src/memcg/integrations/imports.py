# SPDX-License-Identifier: Apache-2.0
"""Modules that are imported inside a group are charged to the root.

A module stays for the whole process, so the test or cell that happens to import it first must not
pay for it. CPython: ``importlib._bootstrap._find_and_load``, which the import statement and
`importlib.import_module` look up with each import of a module that is not loaded yet.
"""

from __future__ import annotations

import sys

from .. import core

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def charge_to_root() -> None:
    """Charge modules that are imported from now on to the root. A second call does nothing."""
    bootstrap: Any = sys.modules["_frozen_importlib"]
    if type(bootstrap._find_and_load) is not core.Bound:
        # `Bound` has no frame, so tracebacks of imports look as before
        bootstrap._find_and_load = core.Bound(None, bootstrap._find_and_load)
