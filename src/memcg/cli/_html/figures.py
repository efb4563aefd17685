# SPDX-License-Identifier: Apache-2.0
"""What a page of HTML shows, as one object of JSON: from a published page and from the process."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Protocol

from memcg import __version__

if TYPE_CHECKING:
    from memcg.page import Page

GROUPS_ASKED = 16  # each takes a walk over the group's objects, and over what refers to them


class Source(Protocol):
    """The process itself, which knows more than its page has."""

    def caches(self, paths: list[str]) -> list[dict[str, Any]]:
        """Return the slab caches of the groups that hold pages, the biggest first."""

    def holders(self, path: str) -> dict[str, Any] | None:
        """Return what holds a group's memory; None: the group is gone."""

    def sites(self) -> dict[str, Any] | None:
        """Return which code allocated what lives; None: nothing is traced."""


def own_bytes(groups: list[dict[str, Any]]) -> dict[str, int]:
    """Return what each online group holds without those below it.

    Examples
    --------
    >>> own_bytes([{"path": p, "current": n, "state": "online"}
    ...            for p, n in (("", 10), ("a", 7), ("a/b", 2))])
    {'': 3, 'a': 5, 'a/b': 2}
    """
    found = {g["path"]: g["current"] for g in groups if g["state"] == "online"}
    for path, n in [(g["path"], g["current"]) for g in groups if g["state"] == "online"]:
        parent = path.rpartition("/")[0]
        if path and parent in found:
            found[parent] -= n
    return {path: max(n, 0) for path, n in found.items()}


def read(of: Page, process: dict[str, Any], source: Source | None) -> dict[str, Any]:
    """Return all figures. Sizes are in bytes, times in seconds since 1970.

    Parameters
    ----------
    of : Page
        The process's page.
    process : dict
        ``pid``, ``command`` and ``rss``.
    source : Source, optional
        Without it there are no caches, holders and sites, and their values are None.
    """
    groups = [g.as_dict() for g in of.groups(gone=True)]
    samples, events = of.samples(), of.events()
    there = [g for g in groups if g["state"] != "gone"]
    own = own_bytes(there)
    asked = sorted((path for path in own if own[path]), key=lambda path: -own[path])[:GROUPS_ASKED]
    caches = held = sites = None
    if source is not None:
        paths = [
            g["path"] for g in there if g["state"] == "online" and (g["caches"] or not g["path"])
        ]
        sites = source.sites()  # first: the others allocate
        caches = source.caches(paths)
        held = {path: found for path in asked if (found := source.holders(path)) is not None}
    return {
        "memcg": __version__, **process, "time": time.time(), "began": of.began,
        "groups": there, "gone": [g for g in groups if g["state"] == "gone"], "own": own,
        "samples": [[s.time, s.id, s.usage, s.highest] for s in samples.entries],
        "samples_dropped": samples.dropped,
        "events": [asdict(e) for e in events.entries], "events_dropped": events.dropped,
        "caches": caches, "held": held, "sites": sites, "left_out": of.left_out,
    }  # fmt: skip
