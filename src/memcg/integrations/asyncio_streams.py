# SPDX-License-Identifier: Apache-2.0
"""If memory for a stream's data is refused, the stream ends with that error in the reading task.

asyncio's pipes catch only ``OSError`` (`asyncio.unix_events`, 3.11 to 3.15), so the loop would call
the reader again at once, and for ever. uvloop logs an exception of a protocol and goes on without
the data. asyncio's sockets end with the error already.
"""

from __future__ import annotations

import functools

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any


def hook(module: ModuleType) -> None:
    """Hook ``asyncio.unix_events`` or ``asyncio.streams``. Context: the module has just run."""
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
