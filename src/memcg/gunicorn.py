# SPDX-License-Identifier: Apache-2.0
"""Hooks for gunicorn's configuration: ``from memcg.gunicorn import on_starting, post_fork``.

memcg is installed before the application is loaded. With ``--preload`` the master loads the
application, so memcg is installed in the master, before it forks. Without it each worker loads the
application, and installs memcg first.
"""

from __future__ import annotations

from .hooks import install

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def on_starting(server: Any) -> None:
    """Install memcg if the master loads the application; log what several workers mean.

    Raises
    ------
    MemcgError
        memcg cannot be installed in this process.
    """
    if server.cfg.preload_app:
        install()
    workers = server.cfg.workers
    if workers > 1:
        server.log.warning(
            "memcg: each of the %d workers has groups of its own, so a tenant may use its limit %d "
            "times; divide max by %d if that is too much",
            workers, workers, workers,
        )  # fmt: skip


def post_fork(server: Any, worker: Any) -> None:
    """Install memcg in a worker. It does nothing if the master has installed it.

    Raises
    ------
    MemcgError
        memcg cannot be installed in this process.
    """
    install()
