# SPDX-License-Identifier: Apache-2.0
"""``memcg report`` shows what holds a group's memory."""

from __future__ import annotations

import click

from ._commands import json_option, open_client, path_argument, pid_option, write_json


@click.command()
@path_argument()
@pid_option
@json_option
def command(path: str, pid: int | None, as_json: bool) -> int:
    """Show the figures of the tree at PATH and what holds its memory; / is the root.

    The process stands still while its objects are looked at.
    """
    with open_client(pid) as client:
        text = client.request("report", path=path.strip("/"))["text"]
    if as_json:
        write_json({"path": path.strip("/"), "text": text})
    else:
        click.echo(text.rstrip("\n"))
    return 0
