# SPDX-License-Identifier: Apache-2.0
"""The group of click commands, each imported when it is used; options and output they share."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from memcg import pages
from memcg.page import GroupFigures, Page, PageError
from memcg.sizes import PAGE_COUNTER_MAX, format_size

from . import VERBS
from ._client import Client, Refused

F = TypeVar("F", bound=Callable[..., Any])


class Failure(click.ClickException):
    """The verb failed: exit status 1."""

    def show(self, file: Any = None) -> None:
        click.echo(f"memcg: {self.format_message()}", err=True)


class Verbs(click.Group):
    """All verbs, those that are parsed elsewhere (``run``) only by name."""

    ELSEWHERE = ("doctor", "run", "verify")

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted((*VERBS, *self.ELSEWHERE))

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name in VERBS:
            command = import_module(f".{name}", __package__).command
            assert isinstance(command, click.Command)
            return command
        return click.Command(name) if name in self.ELSEWHERE else None


def run(args: list[str]) -> int:
    """Run a verb and return the exit status."""
    try:
        status = Verbs("memcg").main(args, prog_name="memcg", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.exceptions.Abort:
        return 130
    except BrokenPipeError:  # as in `memcg ls | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (PageError, Refused, OSError) as error:
        Failure(str(error)).show()
        return 1
    return status if isinstance(status, int) else 0


# -- which process


def _complete_pid(ctx: Any, param: Any, incomplete: str) -> list[CompletionItem]:
    found = (pages.parse_name(path) for path in pages.live())
    return [
        CompletionItem(str(pid[0])) for pid in found if pid and str(pid[0]).startswith(incomplete)
    ]


def _complete_path(ctx: click.Context, param: Any, incomplete: str) -> list[CompletionItem]:
    try:
        with open_page(ctx.params.get("pid")) as of:
            return [CompletionItem(g.path) for g in of.groups()
                    if g.path and g.path.startswith(incomplete)]  # fmt: skip
    except (click.ClickException, PageError, OSError):  # a completion says nothing
        return []


pid_option = click.option(
    "-p", "--pid", type=int, metavar="PID", shell_complete=_complete_pid,
    help="The process. It may be left out if only one publishes.",
)  # fmt: skip
json_option = click.option("--json", "as_json", is_flag=True, help="Write JSON.")


def path_argument(**how: Any) -> Callable[[F], F]:
    """Return the argument for a group's path."""
    return click.argument("path", shell_complete=_complete_path, **how)


def find_page(pid: int | None) -> str:
    """Return the page of a process, or of the only one.

    Raises
    ------
    Failure
        There is none, or more than one.
    """
    found = pages.live()
    if pid is not None:
        found = [path for path in found if (pages.parse_name(path) or (0, 0))[0] == pid]
        if not found:
            raise Failure(f"process {pid} does not publish; memcg ps lists those that do")
    if not found:
        raise Failure(
            "no process publishes its figures; start one by memcg run, set MEMCG_PUBLISH=1, "
            "or call memcg.publish() in it"
        )
    if len(found) > 1:
        pids = ", ".join(str((pages.parse_name(path) or (0, 0))[0]) for path in found)
        raise Failure(f"{len(found)} processes publish ({pids}); choose one by --pid")
    return found[0]


def open_page(pid: int | None) -> Page:
    return Page(find_page(pid))


def open_client(pid: int | None) -> Client:
    """Connect to the process's socket.

    Raises
    ------
    Failure
        It has none.
    """
    path = find_page(pid).removesuffix(pages.SUFFIX) + ".sock"
    try:
        return Client(path)
    except (FileNotFoundError, ConnectionRefusedError):
        number = os.path.basename(path).partition("-")[0]
        raise Failure(
            f"process {number} cannot be asked: start it by memcg run --control, or call "
            "memcg.serve() in it; memcg ls, tree, top and events need no socket"
        ) from None


def group_of(groups: list[GroupFigures], path: str) -> GroupFigures:
    """Return the online group at a path, or the last one that was there.

    Raises
    ------
    Failure
        There is none.
    """
    path = path.strip("/")
    found = [g for g in groups if g.path == path]
    if not found:
        raise Failure(f"there is no group {path!r}; memcg ls -R lists those that there are")
    return max(found, key=lambda g: (g.state == "online", g.id))


# -- output


def coloured() -> bool:
    """Tell whether the output may have colour. See https://no-color.org."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def paint(text: str, **style: Any) -> str:
    """Return the text in a colour, where there may be one."""
    return click.style(text, **style) if coloured() else text


def write_json(value: object) -> None:
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def size(n: int) -> str:
    return "max" if n >= PAGE_COUNTER_MAX else format_size(n)


def level(g: GroupFigures) -> str | None:
    """Return the colour of a group's usage: red at its max, yellow past its high."""
    if g.usage >= g.max:
        return "red"
    return "yellow" if g.usage > g.high else None


def table(rows: list[list[str]], align: str, colours: list[str | None] | None = None) -> None:
    """Write rows whose columns stand below each other, `align` by column: ``<`` or ``>``."""
    if not rows:
        return
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for i, row in enumerate(rows):
        cells = zip(row, align, widths, strict=True)
        line = "  ".join(f"{cell:{a}{w}}" for cell, a, w in cells).rstrip()
        colour = colours[i] if colours else None
        click.echo(paint(line, fg=colour) if colour else line)
