# SPDX-License-Identifier: Apache-2.0
"""The part of ``memcg attach`` that runs in the process to which it attaches.

Context: the main thread, between two instructions of any Python code.
"""

from __future__ import annotations

import atexit
import os
import sys
from typing import TYPE_CHECKING

import memcg
from memcg import hooks

from . import _system

if TYPE_CHECKING:
    from types import TracebackType


def install(
    max: int | None, high: int | None, oom_group: bool, control: str | None
) -> dict[str, str]:
    """Install memcg, write the root's limits in bytes and serve a socket, as ``memcg run`` does.

    Returns
    -------
    dict
        The version and folder of memcg and the version of CPython, and ``socket`` if there is one;
        or ``refused`` with the reason.
    """
    place = os.path.dirname(memcg.__file__)
    version = ".".join(map(str, sys.version_info[:3]))
    answer = {"memcg": memcg.__version__, "place": place, "python": version}
    if hooks.installed():
        if control and max is high is None and not oom_group:
            return _serve(answer, control)
        text = f"memcg {memcg.__version__} from {place} is installed there already"
        cure = "let that program write its limits, or attach with --control alone"
        return {"refused": f"{text}; {cure}"}
    system = _system.System()
    try:
        system.install()
    except memcg.MemcgError as error:
        return {"refused": str(error)}
    atexit.register(system.lift_limits)
    system.explain_in_threads()
    _explain_uncaught(system)
    system.set_limits(max, high, oom_group)
    return _serve(answer, control) if control else answer


def _serve(answer: dict[str, str], control: str) -> dict[str, str]:
    try:
        return answer | {"socket": memcg.serve(writable=control == "write")}
    except memcg.MemcgError as error:
        return {"refused": f"memcg is installed there, and serves no socket: {error}"}


def _explain_uncaught(system: _system.System) -> None:
    """Give an error that ends the program room to be shown, and its account."""
    show = sys.excepthook

    def excepthook(
        kind: type[BaseException], error: BaseException, traceback: TracebackType | None, /
    ) -> None:
        account = system.failure(error)  # before `show`: that may be refused memory itself
        if account is None:
            show(kind, error, traceback)
            return
        with system.room():
            try:
                show(kind, error, traceback)
            finally:
                _system.complain(f"memcg: {account}")

    sys.excepthook = excepthook
