# SPDX-License-Identifier: Apache-2.0
"""A group for each tenant of a Django project: ``"memcg.django.MemcgMiddleware"`` comes first."""

from .integrations.django import MemcgMiddleware
from .integrations.wsgi import header

__all__ = ["MemcgMiddleware", "header"]
