# SPDX-License-Identifier: Apache-2.0
"""``pytest -p memcg.pytest_plugin`` loads the plugin where memcg is not installed but on the path.

An installed memcg needs no ``-p``: its entry point loads the same plugin.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import pytest


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    """Load the plugin under the name of its entry point, which then does not load it again."""
    import pytest_memcg

    if not pluginmanager.has_plugin("memcg"):
        pluginmanager.register(pytest_memcg, "memcg")
