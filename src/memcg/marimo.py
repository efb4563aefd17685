# SPDX-License-Identifier: Apache-2.0
"""A limit for each marimo notebook, or for each session of one."""

from __future__ import annotations

import os

from .groups import Size
from .hooks import install

__all__ = ["limit"]


def limit(max: Size = None, *, high: Size = None, per: str = "notebook") -> None:
    """Limit what the cells of each marimo notebook hold. A second call replaces the limits.

    Call it before marimo's server starts. It may also be called in a cell: it then counts for the
    cells that run after that one. A cell that passes the limit shows the error, with the biggest
    variables; the server and the other notebooks go on.

    Parameters
    ----------
    max : int, str or None
        ``memory.max`` of each group. The default is the environment's ``MEMCG_MARIMO_MAX``, and
        without that there is no limit: the groups only account.
    high : int, str or None
        ``memory.high`` of each group; the default is 7/8 of `max`.
    per : {"notebook", "session"}
        What has a group: a notebook's file, whose sessions share the limit, or each session. The
        groups are below ``marimo``.

    Raises
    ------
    MemcgError
        The hooks cannot be installed in this process.
    ValueError
        A size is bad, or `per` is neither of the two.
    """
    from .sizes import parse_size

    max = max if max is not None else os.environ.get("MEMCG_MARIMO_MAX") or None
    for size in (max, high):
        if size is not None:
            parse_size(size)
    install()
    from .integrations import marimo

    marimo.limit(max, high, per)
