# SPDX-License-Identifier: Apache-2.0
"""`trace`: which code has allocated what lives in a group, by samples."""

from __future__ import annotations

import os

from . import core
from .control.cgroup import cgroup_find
from .errors import MemcgError
from .groups import Group, root
from .sites import Sites, read
from .sizes import PAGE_COUNTER_MAX, parse_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any

DEFAULT_EVERY = "512KiB"  # Go's and TCMalloc's default too
EVERY_LEAST = 4096  # bytes; each sample takes a page
EVERY_MOST = (1 << 32) - 1


def _profiles() -> ModuleType:
    with core.unaccounted:
        from . import profiles

        return profiles


class Trace:
    """The samples of a group and of those below it. `trace` makes one.

    As a context manager it ends the trace. Samples of blocks that live stay readable afterwards.
    """

    def __init__(self, group: Group, every: int) -> None:
        self.group = group
        self.every = every  # bytes

    def __enter__(self) -> Trace:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<memcg.Trace of {self.group.path or '/'!r} every={self.every}>"

    def stop(self) -> None:
        """Take no further sample, here and below. A second call does nothing."""
        core.mem_cgroup_set_sampling(self.group, 0)

    def sites(self) -> Sites:
        """Return what lives, by group and call stack, with the biggest first.

        Returns
        -------
        Sites
            The figures are estimates, in bytes; `Sites.deviation` is the standard deviation of
            their sum.
        """
        return read(self.group)

    def speedscope(self) -> dict[str, Any]:
        """Return a profile for https://www.speedscope.app, to be written as JSON."""
        return _profiles().speedscope(self.sites(), self._name())  # type: ignore[no-any-return]

    def pprof(self) -> bytes:
        """Return a profile in pprof's format, gzipped, for ``go tool pprof``."""
        return _profiles().pprof(self.sites())  # type: ignore[no-any-return]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a profile to a file.

        Parameters
        ----------
        path : path
            The end of its name tells the format: ``.speedscope.json``, ``.pb.gz`` (pprof), or
            ``.folded`` (a line for each stack).

        Raises
        ------
        ValueError
            The name has another end; nothing is written.
        OSError
            The file cannot be written.
        """
        data = _profiles().encode(self.sites(), os.fspath(path), self._name())
        with core.unaccounted, open(path, "wb") as file:
            file.write(data)

    def _name(self) -> str:
        return f"live bytes of {self.group.path or '/'}"


def trace(group: str | Group, *, every: int | str = DEFAULT_EVERY) -> Trace:
    """Sample what a group and those below it allocate, and keep the call stacks of what lives.

    On the average, one sample is taken in `every` bytes. It has the Python stack, and is dropped
    when its block is freed. `Group.report`, ``memcg html`` and the returned object then show which
    code has allocated what lives. Blocks that were allocated before are not known, and neither are
    the objects of a `KmemCache`.

    Parameters
    ----------
    group : str or Group
        A group or its path; ``""`` stands for the root. Groups that are made below it later are
        traced too.
    every : int or str
        The mean distance of two samples in bytes, from 4 KiB to 4 GiB. Each sample takes a page of
        4 KiB for as long as its block lives. Another call changes it for samples to come.

    Returns
    -------
    Trace
        It also ends the trace, with `Trace.stop` or as a context manager.

    Raises
    ------
    MemcgError
        There is no such group, or the hooks are not installed, so nothing could be sampled.
    ValueError
        `every` is no size, or out of its range.

    Notes
    -----
    The estimate is unbiased: a block of ``s`` bytes is sampled with the probability ``p = 1 -
    exp(-s / every)`` and counts as ``s / p`` bytes. With ``n`` samples its relative standard
    deviation is ``1 / sqrt(n)``, or less if blocks are large.
    """
    if not isinstance(group, Group):
        group = cgroup_find(root, group) if group not in ("", "/") else root
    n = parse_size(every)
    if not EVERY_LEAST <= n <= EVERY_MOST:
        of = "max" if n >= PAGE_COUNTER_MAX else n
        raise ValueError(f"every={of}: bytes from sample to sample are from 4KiB to less than 4GiB")
    if core.name != "native" or not core.installed():
        raise MemcgError(
            "memcg.trace() samples what CPython allocates, and the hooks are not installed; call "
            "memcg.install() first, or run the program with memcg run"
        )
    assert isinstance(group, Group)
    core.mem_cgroup_set_sampling(group, n)
    return Trace(group, n)
