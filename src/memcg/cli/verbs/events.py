# SPDX-License-Identifier: Apache-2.0
"""``memcg events`` lists what happened at the groups' limits."""

from __future__ import annotations

import json
import time
from dataclasses import asdict

import click

from memcg.page import Page, PageEvent, Ring

from ._commands import json_option, open_page, paint, pid_option, size

LOOK_S = 0.25  # seconds between looks at the page
COLOURS = {"oom": "red", "oom_kill": "red", "fail": "red", "high": "yellow", "max": "yellow"}


@click.command()
@click.option("-f", "--follow", is_flag=True, help="Go on as events happen, until it ends.")
@click.option("-n", "--last", type=click.IntRange(0), help="Only the last ones.")
@pid_option
@json_option
def command(follow: bool, last: int | None, pid: int | None, as_json: bool) -> int:
    """List events at the groups' limits, the oldest first; with --json, a line for each.

    Events of one kind and group within 10 ms have one line; TOTAL counts all of them.
    """
    with open_page(pid) as of:
        ring = of.events()
        if last is not None:
            ring = Ring(ring.entries[len(ring.entries) - last :] if last else [], ring.next, 0)
        _show(ring, as_json)
        while follow:
            if of.alive() is False:
                _show(of.events(ring.next), as_json)
                return 0
            _wait(of)
            ring = of.events(ring.next)
            _show(ring, as_json)
    return 0


def _wait(of: Page) -> None:
    try:
        time.sleep(LOOK_S)
    except KeyboardInterrupt:
        raise click.exceptions.Exit(0) from None


def _show(ring: Ring[PageEvent], as_json: bool) -> None:
    if ring.dropped and not as_json:
        click.echo(f"({ring.dropped} older events were overwritten)", err=True)
    for event in ring.entries:
        if as_json:
            click.echo(json.dumps(asdict(event), ensure_ascii=False))
            continue
        clock = time.strftime("%H:%M:%S", time.localtime(event.time))
        line = (f"{clock}.{int(event.time % 1 * 1000):03d}  {event.kind:<9}  {event.group or '/'}  "
                f"asked {size(event.bytes)}, usage {size(event.usage)} of {size(event.max)}, "
                f"total {event.total}")  # fmt: skip
        click.echo(paint(line, fg=COLOURS.get(event.kind)))
