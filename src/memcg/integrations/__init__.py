"""What other libraries need so that the group is right inside them; one library per file.

`install` has them hooked: now if they are imported, else right after they are. The file
of a library is imported with it.
"""

from __future__ import annotations

import sys

from .. import core

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

_NUMPY = ("numpy._core._multiarray_umath", "numpy.core._multiarray_umath")  # since 2.0, before
_THREADING = ("threading", "concurrent.futures.thread", "multiprocessing.pool")
_waiting: dict[str, str] = {}  # module -> the file here whose `hook` takes it


def _find_spec(
    name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
) -> ModuleSpec | None:
    """Have what waits for the module hook it, once, right after the module ran."""
    file = _waiting.pop(name)
    for finder in sys.meta_path:
        if finder is not _finder and (spec := finder.find_spec(name, path, target)):
            break
    else:
        _waiting[name] = file
        return None
    loader = spec.loader
    assert loader is not None
    execute = loader.exec_module

    def exec_module(module: ModuleType) -> None:
        execute(module)
        if module.__name__ == name:  # a loader of several has this for them all
            _hook(file, module)

    loader.exec_module = exec_module  # type: ignore[method-assign]
    return spec


def _hook(file: str, module: ModuleType) -> None:
    core.stop_account()  # it happens to the group that imports the module first
    try:
        __import__(f"{__name__}.{file}", fromlist=("hook",)).hook(module)
    finally:
        core.resume_account()


class _Finder(core.ModuleFinder):
    """Has the `__module__` by which programs tell finders apart."""


_finder = _Finder(_waiting, _find_spec)


def install(inherit: bool) -> None:
    """Have arrays charged, and with `inherit` threads and jobs keep the group they come from."""
    files = dict.fromkeys(_NUMPY, "numpy")
    if inherit:
        files |= dict.fromkeys(_THREADING, "threading")
    for name, file in files.items():
        if sys.modules.get(name):
            _hook(file, __import__(name, fromlist=("",)))  # waits for who is importing it now
        else:
            _waiting[name] = file
    if _waiting and _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)
