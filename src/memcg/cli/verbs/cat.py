# SPDX-License-Identifier: Apache-2.0
"""``memcg cat`` reads a file of a group."""

from __future__ import annotations

import os
from typing import Any

import click

from memcg import pages
from memcg.files import READABLE
from memcg.page import GroupFigures, Page
from memcg.sizes import PAGE_COUNTER_MAX

from ._client import Client
from ._commands import (
    Failure,
    find_page,
    group_of,
    json_option,
    path_argument,
    pid_option,
    write_json,
)  # fmt: skip


def from_page(g: GroupFigures, file: str) -> Any:
    """Return a file of a group as far as a page has it; None: it does not."""
    match file:
        case "memory.current":
            return g.usage
        case "memory.peak" | "memory.max" | "memory.high" | "memory.reserve" | "memory.overdraft":
            return getattr(g, file.removeprefix("memory."))
        case "memory.events":
            return g.events
        case "memory.events.local":
            return g.events_local
        case "memory.stat":
            return g.stat
    return None


def text(value: Any) -> str:
    """Return a file's value as the kernel shows it."""
    if isinstance(value, dict):
        return "\n".join(f"{name} {n}" for name, n in value.items())
    return "max" if value == PAGE_COUNTER_MAX else str(value).rstrip("\n")


@click.command()
@path_argument()
@click.argument("file", type=click.Choice(READABLE), metavar="FILE")
@pid_option
@json_option
def command(path: str, file: str, pid: int | None, as_json: bool) -> int:
    """Read FILE of the group at PATH; / is the root.

    A process that serves a socket is asked. Otherwise its page is read, which has memory.current
    with what threads keep of freed memory, and has no figures of caches and of the tree.
    """
    page = find_page(pid)
    if os.path.exists(sock := page.removesuffix(pages.SUFFIX) + ".sock"):
        with Client(sock) as client:
            value = client.request("read", path=path.strip("/"), file=file)["value"]
    else:
        with Page(page) as of:
            value = from_page(group_of(of.groups(), path), file)
        if value is None:
            raise Failure(f"{file} is not on the page; start the process by memcg run --control, "
                          "or call memcg.serve() in it")  # fmt: skip
    if as_json:
        write_json(None if value == PAGE_COUNTER_MAX else value)
    else:
        click.echo(text(value))
    return 0
