"""`install`: from here on what CPython and NumPy allocate is charged."""

from __future__ import annotations

import atexit

from . import core
from .errors import MemcgError, MemcgOOM

_installed = False


def why_not() -> str | None:
    """Say why the hooks cannot be put in here, or None."""
    if core.name != "native":
        return core.why_not_native or "MEMCG_CORE=model asks for the model core"
    if file := core.stranger():
        return (
            f"hooks of {file} are in CPython's allocators, and would take ours out with them; "
            "stop what put them in, install, start it again"
        )
    return None


def install(*, inherit: bool = True) -> None:
    """Charge what CPython and NumPy allocate to the current group. Again is nothing.

    Parameters
    ----------
    inherit : bool
        New threads and jobs of thread pools are in the group of who started or submitted them.

    Raises
    ------
    MemcgError
        The hooks cannot be put in here; the text says why.

    Notes
    -----
    Blocks allocated before stay uncharged until they grow. There is no way back.
    PEP 445, NEP 49.
    """
    global _installed
    if _installed:
        return
    reason = why_not()
    if reason is not None:
        raise MemcgError(f"memcg.install() cannot work here: {reason}")
    import _tracemalloc  # not in a subinterpreter

    from . import integrations

    frames = _tracemalloc.get_traceback_limit() if _tracemalloc.is_tracing() else 0
    if frames:  # it would restore the allocator from before us when it stops
        _tracemalloc.stop()
    MemcgOOM.describe = staticmethod(core.last_alarm)
    core.install()
    _installed = True
    if frames:
        _tracemalloc.start(frames)
    atexit.register(core.exiting)
    integrations.install(inherit)


def installed() -> bool:
    """Tell whether `install` was called."""
    return _installed
