# SPDX-License-Identifier: Apache-2.0
"""``memcg slabinfo`` shows the slab caches of a group."""

from __future__ import annotations

import click

from memcg.cli._system import parse_slabinfo

from ._commands import json_option, open_client, path_argument, pid_option, write_json


@click.command()
@path_argument(default="", metavar="[PATH]")
@pid_option
@json_option
def command(path: str, pid: int | None, as_json: bool) -> int:
    """Show the caches of the group at PATH, or of the root, in the kernel's format 2.1."""
    path = path.strip("/")
    with open_client(pid) as client:
        text = client.request("slabinfo", path=path)["text"]
    if as_json:
        write_json([line._asdict() for line in parse_slabinfo(path, text)])
    else:
        click.echo(text, nl=False)
    return 0
