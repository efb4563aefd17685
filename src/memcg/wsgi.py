# SPDX-License-Identifier: Apache-2.0
"""A group for each tenant of a WSGI application: ``app = MemcgMiddleware(app)``."""

from .integrations.wsgi import MemcgMiddleware, header

__all__ = ["MemcgMiddleware", "header"]
