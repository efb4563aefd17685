# SPDX-License-Identifier: Apache-2.0
"""A program may limit its own address space after `install`.

``RLIMIT_AS`` also counts the addresses that memcg has reserved and does not use. They are given
back as far as the limit leaves no room for them.
"""

from __future__ import annotations

import functools

from .. import core

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any


def hook(module: ModuleType) -> None:
    """Make ``resource.setrlimit`` give back what the new limit leaves no room for.

    A limit that is set in another way, by ``prlimit`` for example, does not.
    """
    setrlimit, address_space = module.setrlimit, module.RLIMIT_AS

    @functools.wraps(setrlimit)
    def set_and_fit(resource: int, limits: Any, /) -> None:
        setrlimit(resource, limits)
        soft = module.getrlimit(address_space)[0]
        if soft >= 0:  # -1: RLIM_INFINITY
            core.fit(soft)

    module.setrlimit = set_and_fit  # type: ignore[attr-defined]
