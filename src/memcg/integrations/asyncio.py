# SPDX-License-Identifier: Apache-2.0
"""What a transport calls, it calls in the group that the transport was made in.

asyncio's loop takes the context of the task that has it wait for a connection or pipe: after flow
control that is the task that read from it, or wrote to it, and so is whatever comes next on that
connection (CPython issue 140947). Here the group alone is put right; other variables are asyncio's.
uvloop needs nothing: its transports keep the context that they were made in.
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

# By module and class: what the loop calls. With __init__: the class makes transports.
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
    "asyncio.sslproto": {"SSLProtocol": ("_do_read",)},  # of the transport below
}  # fmt: skip


def _maker(init: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(init)
    def make(self: Any, /, *args: Any, **kwargs: Any) -> None:
        self._memcg_entry = core.current_entry()
        init(self, *args, **kwargs)

    return make


def _in_its_group(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(self: Any, /, *args: Any) -> Any:
        now = core.current_entry()
        entry = getattr(getattr(self, "_transport", self), "_memcg_entry", now)
        return (method if entry is now else core.Bound(entry, method))(self, *args)

    return call


def keep_group(cls: Any, methods: tuple[str, ...]) -> None:
    """Have methods of objects run in the group that the object was made in."""
    for method in methods:
        if method in vars(cls):
            wrap = _maker if method == "__init__" else _in_its_group
            setattr(cls, method, wrap(getattr(cls, method)))


def hook(module: ModuleType) -> None:
    """Have the module's transports keep their group. Context: the module has just run."""
    if module.__name__ == "asyncio.unix_events":
        asyncio_streams.hook(module)  # first: what it puts in runs in the group too
    for name, methods in _TRANSPORTS[module.__name__].items():
        keep_group(getattr(module, name), methods)
