# SPDX-License-Identifier: Apache-2.0
"""``memcg set`` writes a file of a group."""

from __future__ import annotations

import click

from memcg.files import WRITABLE

from ._commands import json_option, open_client, path_argument, pid_option, write_json
from .cat import text


@click.command()
@path_argument()
@click.argument("file", type=click.Choice(WRITABLE), metavar="FILE")
@click.argument("value")
@pid_option
@json_option
def command(path: str, file: str, value: str, pid: int | None, as_json: bool) -> int:
    """Write VALUE to FILE of the group at PATH; / is the root.

    A size is as in the kernel: 512M is binary, max is no limit. The process must have called
    memcg.serve(writable=True), or run by memcg run --control=write. What the file has then is
    shown.
    """
    with open_client(pid) as client:
        now = client.request("write", path=path.strip("/"), file=file, value=value)["value"]
    if as_json:
        write_json(now)
    elif now is not None:
        click.echo(text(now))
    return 0
