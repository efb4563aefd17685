# SPDX-License-Identifier: Apache-2.0
"""A group for each tenant of a Flask application: ``Memcg(app)``."""

from .integrations.flask import Memcg
from .integrations.wsgi import header

__all__ = ["Memcg", "header"]
