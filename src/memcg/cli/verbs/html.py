# SPDX-License-Identifier: Apache-2.0
"""``memcg html`` writes a page with plots of a running process."""

from __future__ import annotations

from contextlib import nullcontext

import click

from memcg import pages
from memcg.cli._html import document, figures, sources
from memcg.cli.report import prepare, write_whole
from memcg.page import Page

from ._client import Client, Refused
from ._commands import Failure, find_page, json_option, pid_option, write_json
from .ps import command_line, resident

HELLO_S = 5  # seconds that a process has for its first answer


@click.command()
@click.argument("out", type=click.Path(dir_okay=False))
@click.option("--plain", is_flag=True, help="No script: SVG and tables, as without bokeh.")
@pid_option
@json_option
def command(out: str, plain: bool, pid: int | None, as_json: bool) -> int:
    """Write a page of HTML about a running process to the file OUT.

    It has usage over time, what holds memory, slab caches, events and tables. It is one file and
    fetches nothing. What is in the groups needs the process's socket. With --json the figures of
    the page are written to the output too.
    """
    path = find_page(pid)
    try:
        out = prepare(out)
    except OSError as error:
        raise Failure(f"cannot write {out!r}: {error.strerror}") from None
    client = _connect(path.removesuffix(pages.SUFFIX) + ".sock")
    with client or nullcontext(), Page(path) as of:
        source = sources.There(client.request, Refused) if client is not None else None
        process = {"pid": of.pid, "command": command_line(of.pid), "rss": resident(of.pid)}
        found = figures.read(of, process, source)
    write_whole(out, document.render(found, plain=plain).encode())
    if as_json:
        write_json(found)
    return 0


def _connect(socket: str) -> Client | None:
    """Connect to the process. None: it cannot say what is in its groups, and the user reads why."""
    try:
        with Client(socket, HELLO_S) as client:
            client.request("hello")
        return Client(socket)
    except (FileNotFoundError, ConnectionRefusedError):
        why = "it serves no socket; memcg run --control or memcg.serve() opens one"
    except Refused as error:
        why = str(error)
    click.echo(f"memcg: the page does not say what is in the groups: {why}", err=True)
    return None
