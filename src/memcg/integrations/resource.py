# SPDX-License-Identifier: Apache-2.0
"""A program that limits its own address space after `install`.

``RLIMIT_AS`` counts what memcg has reserved and not used. So what the limit would leave no room
for is given back first.
"""

from __future__ import annotations

import functools

from .. import core

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any


def hook(module: ModuleType) -> None:
    """Have ``resource.setrlimit`` leave room for others. A limit that is set otherwise does not."""
    setrlimit, address_space = module.setrlimit, module.RLIMIT_AS

    @functools.wraps(setrlimit)
    def set_and_fit(resource: int, limits: Any, /) -> None:
        setrlimit(resource, limits)
        soft = module.getrlimit(address_space)[0]
        if soft >= 0:  # -1: RLIM_INFINITY
            core.fit(soft)

    module.setrlimit = set_and_fit  # type: ignore[attr-defined]
