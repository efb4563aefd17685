# SPDX-License-Identifier: Apache-2.0
"""``memcg completion`` prints what a shell needs to complete memcg's arguments."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from . import COMPLETE


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> int:
    """Print the completion for SHELL: eval "$(memcg completion bash)" in ~/.bashrc."""
    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(click.Command("memcg"), {}, "memcg", COMPLETE).source())
    return 0
