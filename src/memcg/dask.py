# SPDX-License-Identifier: Apache-2.0
"""Tasks of Dask in groups, and limits over all workers: register a `MemcgPlugin`."""

from .hooks import install
from .integrations.dask import MemcgPlugin, account, limit

MemcgPlugin.install = staticmethod(install)

__all__ = ["MemcgPlugin", "account", "limit"]
