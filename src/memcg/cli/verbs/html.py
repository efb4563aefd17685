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
    socket = path.removesuffix(pages.SUFFIX) + ".sock"
    client: Client | None = None
    try:
        client = Client(socket)
    except (FileNotFoundError, ConnectionRefusedError):
        click.echo("memcg: the process serves no socket, so the page cannot say what is in its "
                   "groups; memcg run --control or memcg.serve() opens one", err=True)  # fmt: skip
    with client or nullcontext(), Page(path) as of:
        source = sources.There(client.request, Refused) if client is not None else None
        process = {"pid": of.pid, "command": command_line(of.pid), "rss": resident(of.pid)}
        found = figures.read(of, process, source)
    write_whole(out, document.render(found, plain=plain).encode())
    if as_json:
        write_json(found)
    return 0
