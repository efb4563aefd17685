# SPDX-License-Identifier: Apache-2.0
"""``memcg top`` watches the groups of a running process.

With ``-b`` or ``-n`` it writes text and needs click alone. The screen needs textual.
"""

from __future__ import annotations

import json
import time
from typing import Any

import click

from memcg.page import Page

from ._commands import Failure, find_page, level, pid_option, table
from ._watch import ALIGN, SORTS, TITLES, Header, Watch, header_lines

LEAST_DELAY_S = 0.1


def batch(watch: Watch, delay: float, turns: int | None, as_json: bool) -> int:
    """Write the groups again and again. It ends after `turns`, or with the process."""
    turn = 0
    while True:
        header = watch.read()
        _write(watch, header, as_json)
        turn += 1
        if turn == turns or not header.alive:
            return 0
        try:
            time.sleep(delay)
        except KeyboardInterrupt:
            return 0
        if not as_json:
            click.echo()


def _write(watch: Watch, header: Header, as_json: bool) -> None:
    rows = watch.rows()
    if as_json:
        groups: list[dict[str, Any]] = [
            row.group.as_dict() | {"delta": round(row.delta)} for row in rows
        ]
        click.echo(json.dumps({
            "time": time.time(), "pid": header.pid, "alive": header.alive, "rss": header.rss,
            "charged": header.charged, "online": header.online, "dying": header.dying,
            "left_out": header.left_out, "groups": groups,
        }, ensure_ascii=False))  # fmt: skip
        return
    for line in header_lines(header, time.strftime("%H:%M:%S")):
        click.echo(line)
    click.echo()
    cells = [watch.cells(row) for row in rows]
    table([list(TITLES), *cells], ALIGN, [None, *(level(row.group) for row in rows)])


@click.command()
@click.option("-d", "--delay", type=click.FloatRange(LEAST_DELAY_S), default=0.5, metavar="SEC",
              help="Seconds from one look to the next; 0.5 by default.")  # fmt: skip
@click.option("-n", "--turns", type=click.IntRange(1), metavar="N", help="Look N times, as text.")
@click.option("-b", "--batch", "as_text", is_flag=True, help="Write text again and again.")
@click.option("-s", "--sort", type=click.Choice(list(SORTS)), default="current",
              help="The column to sort by.")  # fmt: skip
@click.option("--depth", type=click.IntRange(0), help="How many levels to show.")
@click.option("--flat", is_flag=True, help="Show paths in one list instead of a tree.")
@pid_option
@click.option("--json", "as_json", is_flag=True, help="Write a line of JSON for each look.")
def command(
    delay: float, turns: int | None, as_text: bool, sort: str, depth: int | None, flat: bool,
    pid: int | None, as_json: bool,
) -> int:  # fmt: skip
    """Watch the groups of a running process.

    The process is not disturbed, and it may hold the GIL: its threads write the figures to a page.
    """
    path = find_page(pid)
    with Page(path) as of:
        watch = Watch(of)
        watch.sort, watch.depth, watch.flat = sort, depth, flat
        if as_text or as_json or turns is not None:
            return batch(watch, delay, turns, as_json)
        try:
            from ._screen import Top
        except ImportError as error:
            if error.name is None or error.name.partition(".")[0] not in ("textual", "rich"):
                raise
            raise Failure(
                "the screen needs textual, which is not installed; pip install 'memcg[top]', or "
                "use memcg top -b or -n 1"
            ) from None
        Top(watch, delay).run()
        return 0
