# SPDX-License-Identifier: Apache-2.0
"""Where the page's caches and holders come from: this process, or another's socket."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from memcg import root
from memcg.cli._system import System, parse_slabinfo
from memcg.report import held_by, sites_of

CACHES_MOST = 200  # in the figures


class Here:
    """This process, in ``memcg run --html``. `caches` are those of its account."""

    def __init__(self, system: System, caches: list[dict[str, Any]]) -> None:
        self._caches = caches
        self._groups = {g.path: g for g in system.groups()}

    def caches(self, paths: list[str]) -> list[dict[str, Any]]:
        return self._caches

    def holders(self, path: str) -> dict[str, Any] | None:
        if path not in self._groups:
            return None
        return held_by(self._groups[path])

    def sites(self) -> dict[str, Any] | None:
        return sites_of(root)


class There:
    """A process that serves a socket. `request` sends a request and returns its answer."""

    def __init__(self, request: Callable[..., dict[str, Any]], refused: type[Exception]) -> None:
        self._request = request
        self._refused = refused

    def _ask(self, op: str, path: str) -> dict[str, Any] | None:
        try:
            return self._request(op, path=path)
        except self._refused as error:
            if getattr(error, "errno", "") == "ENOENT":  # it was closed meanwhile
                return None
            raise

    def caches(self, paths: list[str]) -> list[dict[str, Any]]:
        lines = []
        for path in paths:
            answer = self._ask("slabinfo", path)
            lines += parse_slabinfo(path, answer["text"]) if answer else []
        lines = sorted((c for c in lines if c.size), key=lambda c: -c.size)
        return [c._asdict() for c in lines[:CACHES_MOST]]

    def holders(self, path: str) -> dict[str, Any] | None:
        answer = self._ask("holders", path)
        if answer is None:
            return None
        return {name: answer[name] for name in ("blocks", "kinds", "rest", "objects")}

    def sites(self) -> dict[str, Any] | None:
        answer = self._ask("sites", "")
        return answer["sites"] if answer else None
