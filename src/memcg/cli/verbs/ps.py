# SPDX-License-Identifier: Apache-2.0
"""``memcg ps`` lists the processes that publish their figures."""

from __future__ import annotations

import os
import time

import click

from memcg import pages
from memcg.page import Page, PageError

from ._commands import Failure, json_option, size, table, write_json


def command_line(pid: int) -> str:
    """Return a process's command line in printable characters, or ``?``."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            text = file.read(4096).rstrip(b"\0").replace(b"\0", b" ").decode("utf-8", "replace")
    except OSError:
        return "?"
    return "".join(c if c.isprintable() else "?" for c in text)


def resident(pid: int) -> int:
    """Return a process's resident set in bytes; 0 if it is gone."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return 0


@click.command()
@json_option
def command(as_json: bool) -> int:
    """List the processes of this user that publish their figures.

    The exit status is 1 if there is none.
    """
    found = []
    for path in pages.live():
        try:
            with Page(path) as of:
                groups = of.groups()
        except (PageError, OSError) as error:  # it has ended just now, or is of another version
            Failure(str(error)).show()
            continue
        root = next((g for g in groups if not g.path), None)
        found.append({
            "pid": of.pid, "since": of.began, "current": root.usage if root else 0,
            "rss": resident(of.pid), "groups": sum(g.state == "online" for g in groups),
            "dying": sum(g.state == "dying" for g in groups),
            "control": os.path.exists(path.removesuffix(pages.SUFFIX) + ".sock"),
            "command": command_line(of.pid), "page": path,
        })  # fmt: skip
    if as_json:
        write_json(found)
    elif found:
        rows = [["PID", "SINCE", "CHARGED", "RSS", "GROUPS", "DYING", "CONTROL", "COMMAND"]]
        for p in found:
            since = time.strftime("%m-%d %H:%M:%S", time.localtime(float(str(p["since"]))))
            control = "yes" if p["control"] else "no"
            rows.append([str(p["pid"]), since, size(int(str(p["current"]))),
                         size(int(str(p["rss"]))), str(p["groups"]), str(p["dying"]), control,
                         str(p["command"])[:80]])  # fmt: skip
        table(rows, "><>>>><<")
    return 0 if found else 1
