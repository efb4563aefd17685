# SPDX-License-Identifier: Apache-2.0
"""A pipelined request starts in the group of its connection.

The end of the response before it starts it, inside the task of the request before. Without this
file it would start in that task's group, if the application enters one around ``send``.
"""

from __future__ import annotations

from .asyncio import keep_group

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType

_PROTOCOLS = {
    "uvicorn.protocols.http.h11_impl": "H11Protocol",
    "uvicorn.protocols.http.httptools_impl": "HttpToolsProtocol",
}


def hook(module: ModuleType) -> None:
    """Make the module's protocol keep its group. Context: the module has just run."""
    protocol = getattr(module, _PROTOCOLS[module.__name__])
    keep_group(protocol, ("__init__", "on_response_complete"))
