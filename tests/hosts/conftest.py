# SPDX-License-Identifier: Apache-2.0
"""A test here starts the real program, which `make test-hosts` installs, in its own process."""

import pathlib

import pytest

HERE = pathlib.Path(__file__).parent
# Modules that import a foreign library. Their examples run where it is installed.
EXTRAS = {"prometheus.py", "opentelemetry.py"}


def pytest_ignore_collect(collection_path):
    """Look for examples in tests only: the programs beside them install memcg when imported."""
    if collection_path.suffix == ".py" and not collection_path.name.startswith("test_"):
        return True
    return None


def pytest_collection_modifyitems(items):
    for item in items:
        if HERE in item.path.parents or item.path.name in EXTRAS:
            item.add_marker(pytest.mark.hosts)
