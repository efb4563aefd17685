# SPDX-License-Identifier: Apache-2.0
"""`install`: from this call on, memory that CPython and NumPy allocate is charged.

A library that needs more has a file in `integrations` with a function `hook`. The function is
called at once if the library is imported already, or right after it is imported. `prepare`, if it
has one, is called before.
"""

from __future__ import annotations

import atexit
import os
import sys

from . import core
from .errors import MemcgError, tell_alarms_by

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any

_installed = False

_NUMPY = (  # its name since NumPy 2.0, and the name before
    "numpy._core._multiarray_umath", "numpy.core._multiarray_umath",
)  # fmt: skip
_ASYNCIO = (
    "asyncio.base_subprocess", "asyncio.selector_events", "asyncio.sslproto", "asyncio.unix_events",
)  # fmt: skip
_UVICORN = ("uvicorn.protocols.http.h11_impl", "uvicorn.protocols.http.httptools_impl")
_THREADING = ("_thread", "threading", "concurrent.futures.thread", "multiprocessing.pool")
# Memory that a preloaded malloc does not see: maps, and allocators that libraries bring along.
_BESIDE_MALLOC = {
    "_duckdb": "duckdb",
    "_polars_runtime_32._polars_runtime": "polars",
    "_polars_runtime_64._polars_runtime": "polars",
    "_polars_runtime_compat._polars_runtime": "polars",
    "duckdb.duckdb": "duckdb",
    "mmap": "mmap",
    "polars.polars": "polars",
    "pyarrow": "pyarrow",
}
_PREPARED = {"pyarrow"}  # their file has a function `prepare`, which is called before they run
_waiting: dict[str, str] = {}  # module -> the file of `integrations` whose `hook` is called with it


def why_not() -> str | None:
    """Return why the hooks cannot be installed in this process, or None if they can."""
    if core.name != "native":
        return core.why_not_native or "MEMCG_CORE=model asks for the model core"
    if file := core.foreign_hooks():
        return (
            f"hooks of {file} are in CPython's allocators: removing them would remove ours too; "
            "stop the tool that put them in, install memcg, then start the tool again"
        )
    return None


def trouble_with(version: tuple[object, ...]) -> str | None:
    """Tell what a release of CPython does wrong by itself when it is refused memory, or None.

    3.15.0: ``list.append`` gives its argument away and leaves it on the stack too.
    """
    if (3, 15) <= version < (3, 15, 2):
        release = ".".join(map(str, version[:3]))
        return (
            f"CPython {release} can crash when list.append is refused memory, with and without "
            "memcg; update to 3.15.2"
        )
    return None


def why_no_malloc() -> str | None:
    """Return why malloc is not charged in this process, and what to do; None if it is charged."""
    if core.name != "native" or core.malloc_served():
        return why_not()
    reason = core.why_malloc_not_served()
    if reason is not None:
        return reason
    return (
        "malloc can only be replaced when the process starts: start the program by `memcg run`, or "
        f"with LD_PRELOAD={core.malloc_library()}"
    )


def install(*, inherit: bool = True, malloc: bool = False, pools: bool = False) -> None:
    """Charge what CPython and NumPy allocate to the current group. A second call does nothing.

    Parameters
    ----------
    inherit : bool
        New threads, and jobs of thread pools, are in the group that started or submitted them.
        `memcg.service` makes exceptions.
    malloc : bool
        Insist that what C, C++ and Rust code gets from malloc is charged too. It is charged if the
        process was started with libmemcg_malloc preloaded, as ``memcg run`` does.
    pools : bool
        Threads that C code has started (the pools of polars, Arrow, DuckDB, OpenMP) charge the
        nearest common ancestor of the groups that are entered at the moment. Without it they
        charge the root.

    Raises
    ------
    MemcgError
        The hooks cannot be installed in this process, or malloc is to be charged and is not; the
        text says why, and how to start the program.

    Warns
    -----
    RuntimeWarning
        This release of CPython can crash when it is refused memory.

    Notes
    -----
    A block that was allocated before stays uncharged until it grows past 1 KiB. The hooks cannot be
    removed. They are those of PEP 445 and NEP 49. With ``MEMCG_PUBLISH=1`` in the environment the
    process is published too; see `memcg.publish`.
    """
    global _installed
    if pools:
        core.follow_groups()
    if malloc and (reason := why_no_malloc()) is not None:
        raise MemcgError(f"memcg.install(malloc=True) cannot work here: {reason}")
    if _installed:
        return
    reason = why_not()
    if reason is not None:
        raise MemcgError(f"memcg.install() cannot work here: {reason}")
    frames = 0
    if core.is_traced():  # tracemalloc, when it stops, would restore the allocators without ours
        import _tracemalloc

        frames = _tracemalloc.get_traceback_limit()
        _tracemalloc.stop()
    if (trouble := trouble_with(sys.version_info)) is not None:
        import warnings

        warnings.warn(f"memcg.install(): {trouble}", RuntimeWarning, stacklevel=2)
    tell_alarms_by(core.last_alarm)
    core.install()
    _installed = True
    if frames:
        _tracemalloc.start(frames)
    atexit.register(core.exiting)
    _hook_libraries(inherit)
    if os.environ.get("MEMCG_PUBLISH", "0") not in ("", "0"):
        _publish()


def _publish() -> None:
    """Do what ``MEMCG_PUBLISH=1`` asks for. The program runs on if it cannot be done."""
    core.stop_account()
    try:
        from .publisher import publish

        publish()
    except MemcgError as error:
        import warnings

        warnings.warn(f"MEMCG_PUBLISH: {error}", RuntimeWarning, stacklevel=3)
    finally:
        core.resume_account()


def installed() -> bool:
    """Tell whether `install` was called."""
    return _installed


def _hook_libraries(inherit: bool) -> None:
    """Have the files of `integrations` hook their libraries, now or when they are imported.

    With `inherit`, new threads and jobs are in the group that starts or submits them.
    """
    files = dict.fromkeys(_NUMPY, "numpy") | dict.fromkeys(_ASYNCIO, "asyncio")
    files |= dict.fromkeys(_UVICORN, "uvicorn")
    files |= {
        "asyncio.streams": "asyncio_streams",
        "fastapi.concurrency": "fastapi",
        "multiprocessing.process": "multiprocessing",
        "resource": "resource",
    }
    if inherit:
        files |= dict.fromkeys(_THREADING, "threading")
    if core.malloc_served():
        files |= _BESIDE_MALLOC
    _waiting.update(files)
    sys.meta_path.insert(0, core.ModuleFinder(_waiting, _find_spec))
    for name in files:
        if sys.modules.get(name):
            _hook(name, __import__(name, fromlist=("",)))  # waits if another thread is importing it


def _find_spec(
    name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
) -> ModuleSpec | None:
    """Find a module in `_waiting`, and have its loader call `_hook` right after the module ran."""
    for finder in sys.meta_path:
        if type(finder) is not core.ModuleFinder and (spec := finder.find_spec(name, path, target)):
            break
    else:
        return None
    loader = spec.loader
    assert loader is not None
    execute = loader.exec_module

    def exec_module(module: ModuleType) -> None:
        if module.__name__ in _PREPARED:
            _prepare(module.__name__)
        execute(module)
        if module.__name__ == name:  # one loader may load several modules: each has this function
            _hook(name, module)

    loader.exec_module = exec_module  # type: ignore[method-assign]
    return spec


def _prepare(name: str) -> None:
    """Do what must be done before the module `name` runs."""
    if (file := _waiting.get(name)) is not None:
        core.stop_account()
        try:
            _integration(file, "prepare").prepare()
        finally:
            core.resume_account()


def _integration(file: str, function: str) -> Any:
    return __import__(f"{__package__}.integrations.{file}", fromlist=(function,))


def _hook(name: str, module: ModuleType) -> None:
    """Hook a module. A second call does nothing."""
    file = _waiting.pop(name, None)
    if file is None:
        return
    if name in _NUMPY:  # NumPy has one of the two; the other is an alias, or is not there
        for other in _NUMPY:
            _waiting.pop(other, None)
    core.stop_account()  # the group that imports the module first must not pay for the hook
    try:
        _integration(file, "hook").hook(module)
    finally:
        core.resume_account()
        if not _waiting:
            for finder in sys.meta_path:
                if type(finder) is core.ModuleFinder:
                    finder.leave()
