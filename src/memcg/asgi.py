# SPDX-License-Identifier: Apache-2.0
"""A group for each tenant of an ASGI application: ``app.add_middleware(MemcgMiddleware)``."""

from .integrations.asgi import MemcgMiddleware, header

__all__ = ["MemcgMiddleware", "header"]
