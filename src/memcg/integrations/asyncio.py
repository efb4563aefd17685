# SPDX-License-Identifier: Apache-2.0
"""A transport calls its protocol in the group that the transport was made in.

asyncio's loop calls a transport in the context of the task that last made it wait for the
connection or pipe. After flow control that is the task that read or wrote, and everything that
arrives later on the connection is handled in that task's context (CPython issue 140947). This file
corrects the group only; other context variables are asyncio's. uvloop needs nothing, because its
transports keep the context that they were made in.
"""

from __future__ import annotations

import functools

from .. import core
from . import asyncio_streams

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType
    from typing import Any

# By module and class: the methods that the loop calls. A class with __init__ remembers its group.
_TRANSPORTS: dict[str, dict[str, tuple[str, ...]]] = {
    "asyncio.selector_events": {
        "_SelectorTransport": ("__init__", "_call_connection_lost"),
        "_SelectorSocketTransport": (
            "_call_connection_lost", "_read_ready", "_write_ready", "_write_send", "_write_sendmsg",
        ),
        "_SelectorDatagramTransport": ("_read_ready", "_sendto_ready"),
    },
    "asyncio.unix_events": {
        "_UnixReadPipeTransport": ("__init__", "_call_connection_lost", "_read_ready"),
        "_UnixWritePipeTransport": (
            "__init__", "_call_connection_lost", "_read_ready", "_write_ready",
        ),
    },
    "asyncio.base_subprocess": {
        "BaseSubprocessTransport": ("__init__", "_call_connection_lost", "_process_exited"),
    },
    "asyncio.sslproto": {"SSLProtocol": ("_do_read",)},  # in the group of the transport below it
}  # fmt: skip


def _maker(init: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(init)
    def make(self: Any, /, *args: Any, **kwargs: Any) -> None:
        self._memcg_entry = core.current_entry()
        init(self, *args, **kwargs)

    return make


# It does not ask the class's __getattr__: a transport of another library may answer to any name. It
# makes no dict for the object either: before 3.13, CPython reads the attributes of an object that
# has one in a slower way from then on.
_own = object.__getattribute__


def _in_its_group(method: Callable[..., Any], holder: str | None) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(self: Any, /, *args: Any) -> Any:
        now = core.current_entry()
        try:
            entry = _own(self if holder is None else _own(self, holder), "_memcg_entry")
        except AttributeError:  # it was made before its class was hooked, or by another library
            entry = now
        return (method if entry is now else core.Bound(entry, method))(self, *args)

    return call


def keep_group(cls: Any, methods: tuple[str, ...], holder: str | None = None) -> None:
    """Make methods of objects of `cls` run in the group that the object was made in.

    With `holder`, it is the group that the object in that attribute was made in.
    """
    for method in methods:
        if method in vars(cls):
            old = getattr(cls, method)
            new = _maker(old) if method == "__init__" else _in_its_group(old, holder)
            setattr(cls, method, new)


def hook(module: ModuleType) -> None:
    """Make the module's transports keep their group. Context: the module has just run."""
    if module.__name__ == "asyncio.unix_events":
        asyncio_streams.hook(module)  # first, so that the method it replaces runs in the group too
    for name, methods in _TRANSPORTS[module.__name__].items():
        keep_group(getattr(module, name), methods, "_transport" if name == "SSLProtocol" else None)
