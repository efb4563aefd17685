# SPDX-License-Identifier: Apache-2.0
"""``memcg tree`` shows the groups of a running process as a tree."""

from __future__ import annotations

from typing import Any

import click

from memcg.page import GroupFigures

from ._commands import (
    group_of,
    json_option,
    level,
    open_page,
    paint,
    path_argument,
    pid_option,
    size,
    write_json,
)  # fmt: skip


def children_of(groups: list[GroupFigures]) -> dict[str, list[GroupFigures]]:
    """Return the groups by their parents' paths. A group without its parent is below the root."""
    paths = {g.path for g in groups}
    found: dict[str, list[GroupFigures]] = {}
    for g in groups:
        if g.path:
            parent = g.path.rpartition("/")[0]
            found.setdefault(parent if parent in paths else "", []).append(g)
    return found


@click.command()
@path_argument(default="", metavar="[PATH]")
@click.option("--depth", type=click.IntRange(0), help="How many levels to show.")
@pid_option
@json_option
def command(path: str, depth: int | None, pid: int | None, as_json: bool) -> int:
    """Show the groups below PATH, or all, as a tree."""
    with open_page(pid) as of:
        groups = of.groups()
    top, below = group_of(groups, path), children_of(groups)
    if as_json:
        write_json(_nested(top, below, depth))
    else:
        _draw(top, below, depth, "", "")
    return 0


def _nested(g: GroupFigures, below: dict[str, list[GroupFigures]], depth: int | None) -> Any:
    deeper = None if depth is None else depth - 1
    inner = below.get(g.path, []) if depth != 0 and g.state == "online" else []
    return g.as_dict() | {"children": [_nested(c, below, deeper) for c in inner]}


def _draw(
    g: GroupFigures, below: dict[str, list[GroupFigures]], depth: int | None, first: str, rest: str
) -> None:
    name = g.path.rpartition("/")[2] or "/"
    of = f" of {size(g.max)}" if size(g.max) != "max" else ""
    dying = " (dying)" if g.state == "dying" else ""
    colour = level(g)
    text = f"{name}{dying}  {size(g.usage)}{of}"
    click.echo(first + (paint(text, fg=colour) if colour else text))
    inner = below.get(g.path, []) if depth != 0 and g.state == "online" else []
    for i, child in enumerate(inner):
        last = i == len(inner) - 1
        _draw(child, below, None if depth is None else depth - 1,
              rest + ("└─ " if last else "├─ "), rest + ("   " if last else "│  "))  # fmt: skip
