# SPDX-License-Identifier: Apache-2.0
"""A test here starts the real program, which `make test-hosts` installs, in its own process."""

import pathlib

import pytest


def pytest_collection_modifyitems(items):
    here = pathlib.Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.hosts)
