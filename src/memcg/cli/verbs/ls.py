# SPDX-License-Identifier: Apache-2.0
"""``memcg ls`` lists the groups of a running process."""

from __future__ import annotations

import click

from ._commands import (
    group_of,
    json_option,
    level,
    open_page,
    path_argument,
    pid_option,
    size,
    table,
    write_json,
)  # fmt: skip


@click.command()
@path_argument(default="", metavar="[PATH]")
@click.option("-R", "--recursive", is_flag=True, help="List all groups below it too.")
@pid_option
@json_option
def command(path: str, recursive: bool, pid: int | None, as_json: bool) -> int:
    """List the groups in PATH, or in the root."""
    with open_page(pid) as of:
        groups = of.groups()
    top = group_of(groups, path)
    below = [g for g in groups if g.path.startswith(f"{top.path}/" if top.path else "") and g.path]
    if not recursive:
        depth = top.path.count("/") + 1 if top.path else 0
        below = [g for g in below if g.path.count("/") == depth]
    if as_json:
        write_json([g.as_dict() for g in [top, *below]])
        return 0
    rows = [["GROUP", "CURRENT", "PEAK", "MAX", "HIGH", "INSIDE", "EVENTS"]]
    colours: list[str | None] = [None]
    for g in [top, *below]:
        events = ", ".join(f"{name} {n}" for name, n in g.events.items() if n)
        name = (g.path or "/") + (" (dying)" if g.state == "dying" else "")
        rows.append([name, *map(size, (g.usage, g.peak, g.max, g.high)), str(g.inside), events])
        colours.append(level(g))
    table(rows, "<>>>>><", colours)
    return 0
