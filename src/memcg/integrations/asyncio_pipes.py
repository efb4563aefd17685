"""A pipe whose reader is refused memory ends with the error.

asyncio catches ``OSError`` alone there (`asyncio.unix_events`, 3.11 to 3.14), so that the loop
would call the reader again at once, and for ever; what it reads from sockets ends so already.
"""

from __future__ import annotations

import functools

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any


def hook(module: ModuleType) -> None:
    """Take ``asyncio.unix_events``."""
    transport = module._UnixReadPipeTransport
    read_ready = transport._read_ready

    @functools.wraps(read_ready)
    def _read_ready(self: Any) -> None:
        try:
            read_ready(self)
        except MemoryError as error:
            self._fatal_error(error, "Fatal read error on pipe transport")

    transport._read_ready = _read_ready
