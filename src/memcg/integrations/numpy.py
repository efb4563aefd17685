"""NumPy's arrays.

Since NumPy 2.5 they come from ``PyMem_RawMalloc``, which is hooked. Before, they come from a
handler (NEP 49) whose default is plain ``malloc``.
"""

from __future__ import annotations

import sys
from types import ModuleType

from .. import core
from . import when_imported


def _hook(module: ModuleType) -> None:
    version = tuple(map(int, sys.modules["numpy.version"].version.split(".")[:2]))
    is_alias = version >= (2, 0) and module.__name__.startswith("numpy.core")
    if version < (2, 5) and not is_alias:
        core.install_numpy(module._ARRAY_API)


def install() -> None:
    """Have arrays charged, now or when NumPy is imported."""
    for package in ("numpy._core", "numpy.core"):  # since 2.0, before
        when_imported(f"{package}._multiarray_umath", _hook)
