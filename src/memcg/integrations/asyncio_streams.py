# SPDX-License-Identifier: Apache-2.0
"""A stream whose data is refused memory ends with the error, for the task that reads it.

asyncio's pipes catch ``OSError`` alone (`asyncio.unix_events`, 3.11 to 3.14): the loop would call
the reader again at once, and for ever. uvloop logs what a protocol raises, and goes on without the
data. What asyncio reads from sockets ends so already.
"""

from __future__ import annotations

import functools

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any


def hook(module: ModuleType) -> None:
    """Take ``asyncio.unix_events`` or ``asyncio.streams``."""
    if module.__name__ == "asyncio.streams":
        _hook_reader(module.StreamReader)
    else:
        _hook_pipe(module._UnixReadPipeTransport)


def _hook_pipe(transport: Any) -> None:
    read_ready = transport._read_ready

    @functools.wraps(read_ready)
    def _read_ready(self: Any) -> None:
        try:
            read_ready(self)
        except MemoryError as error:
            self._fatal_error(error, "Fatal read error on pipe transport")

    transport._read_ready = _read_ready


def _hook_reader(reader: Any) -> None:
    feed = reader.feed_data

    @functools.wraps(feed)
    def feed_data(self: Any, data: Any) -> None:
        try:
            feed(self, data)
        except MemoryError as error:
            self.set_exception(error)
            raise

    reader.feed_data = feed_data
