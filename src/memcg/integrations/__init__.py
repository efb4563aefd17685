"""What other libraries need so that the group is right inside them; one library per file.

`install` puts them in. A library that is not imported yet is met when it is.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

from .. import core

_waiting: dict[str, Callable[[ModuleType], None]] = {}


def _find_spec(
    name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
) -> ModuleSpec | None:
    """Have what waits for the module called, once, right after the module ran."""
    then = _waiting.pop(name)
    for finder in sys.meta_path:
        if finder is not _finder and (spec := finder.find_spec(name, path, target)):
            break
    else:
        _waiting[name] = then
        return None
    loader = spec.loader
    assert loader is not None
    execute = loader.exec_module

    def exec_module(module: ModuleType) -> None:
        execute(module)
        then(module)

    loader.exec_module = exec_module  # type: ignore[method-assign]
    return spec


class _Finder(core.ModuleFinder):
    """Has the `__module__` by which programs tell finders apart."""


_finder = _Finder(_waiting, _find_spec)


def when_imported(name: str, then: Callable[[ModuleType], None]) -> None:
    """Call `then` with the module `name`: now if it is imported, else when it is."""
    module = sys.modules.get(name)
    if module is not None:
        then(module)
        return
    _waiting[name] = then
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)
