# SPDX-License-Identifier: Apache-2.0
"""The last refusal or alarm of a limit, as `Group.last_oom` returns it."""

from __future__ import annotations

from typing import NamedTuple

from .errors import oom_text


class Oom(NamedTuple):
    """A request that met a limit. ``str()`` gives the text of the error.

    Examples
    --------
    >>> print(Oom(2 << 20, 1 << 20, "a", "a/b", 4096, True, 0.0))
    group 'a/b': charge of 2.0 MiB is over memory.max (current 4.0 KiB, max 1.0 MiB, set on 'a'); \
raise memory.max or free memory in 'a'
    """

    bytes: int  # how many the request asked for
    limit: int  # memory.max of `owner`, in bytes
    owner: str  # path of the group whose limit it was; "" is the root
    group: str  # path of the group that asked: `owner` or one below it
    current: int  # usage of `owner` in bytes: before a refused request, after one that was granted
    refused: bool  # False for an alarm: the request was granted from the reserve
    time: float  # seconds since the epoch, as `time.time` returns them

    def __str__(self) -> str:
        return oom_text(self.group, self.bytes, self.current, self.limit, self.owner)
