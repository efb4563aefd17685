# SPDX-License-Identifier: Apache-2.0
"""Load a script of ``tools/`` as a module, so that a test can call and change its parts."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

TOOLS = Path(__file__).resolve().parents[1] / "tools"


def load(path: Path) -> ModuleType:
    """Make a module from the file, without putting it into `sys.modules`."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
