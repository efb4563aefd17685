# SPDX-License-Identifier: Apache-2.0
"""The page of ``memcg run --html``, which the program's process writes when it ends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from memcg.page import Page
from memcg.publisher import published

from . import document, figures
from .sources import Here

if TYPE_CHECKING:
    from memcg.cli._system import System


def render(system: System, account: dict[str, Any]) -> str:
    """Return the page. Its figures are those of the account, which ``--json`` writes.

    Raises
    ------
    OSError
        The program has removed its page of figures.
    """
    path = published()
    if path is None:
        raise FileNotFoundError(2, "the program has called memcg.unpublish()")
    process = {
        "pid": account["pid"], "command": " ".join(account["program"]), "rss": account["rss"],
    }  # fmt: skip
    with Page(path) as of:
        found = figures.read(of, process, Here(system, account["caches"]))
    named = {g["path"]: g for g in account["groups"]}
    for g in found["groups"]:
        if g["state"] == "online" and g["path"] in named:
            # The page of figures has the root's limit as it is now, lifted for this.
            g.update({name: n for name, n in named[g["path"]].items() if name != "stat"})
    # What is later is this work and not the program's.
    found["time"] = account["time"]
    found["samples"] = [s for s in found["samples"] if s[0] <= account["time"]]
    found["own"] = figures.own_bytes(found["groups"])
    found["sites"] = account["sites"]
    found["account"] = account
    return document.render(found)
