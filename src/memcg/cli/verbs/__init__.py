# SPDX-License-Identifier: Apache-2.0
"""The verbs that look at running processes. They need click: ``pip install 'memcg[cli]'``.

A verb is a file of this folder with a click command named ``command``. `VERBS` has their one-line
helps, so that ``memcg --help`` needs no click.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

VERBS = {
    "ps": "list the processes that publish their figures",
    "ls": "list the groups of a running process",
    "tree": "show the groups of a running process as a tree",
    "top": "watch the groups of a running process",
    "events": "list what happened at the groups' limits; -f follows",
    "cat": "read a file of a group",
    "set": "write a file of a group",
    "slabinfo": "show the slab caches of a group",
    "report": "show what holds a group's memory",
    "html": "write a page of HTML with plots of a running process",
    "exporter": "serve the figures of all processes that publish, for Prometheus",
    "completion": "print the completion for bash or zsh",
}
COMPLETE = "_MEMCG_COMPLETE"  # click's variable for a program of this name


def wanted(args: Sequence[str]) -> bool:
    """Tell whether the arguments are for a verb of this folder, or a shell asks for completion."""
    return bool(args and args[0] in VERBS) or COMPLETE in os.environ


def main(args: Sequence[str]) -> int:
    """Run a verb and return the exit status: 0, 1 if it failed, 2 for wrong usage."""
    try:
        import click  # noqa: F401
    except ImportError:
        sys.stderr.write(
            f"memcg {args[0] if args else ''}: needs click, which is not installed; "
            "pip install 'memcg[cli]'\n"
        )
        return 1
    from ._commands import run

    return run(list(args))
