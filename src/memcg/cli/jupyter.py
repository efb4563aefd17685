# SPDX-License-Identifier: Apache-2.0
"""``memcg jupyter install`` writes a kernel for Jupyter whose cells have a limit from the start."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from memcg.sizes import parse_size

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace, _SubParsersAction


def add_parser(subparsers: _SubParsersAction[ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "jupyter", help="install a Jupyter kernel whose cells have a limit"
    )
    verbs = parser.add_subparsers(dest="jupyter", metavar="VERB", required=True)
    install = verbs.add_parser("install", help="write a kernelspec for this Python")
    install.add_argument("--max", metavar="SIZE", help="limit of each notebook, such as 2GiB")
    install.add_argument("--name", default="memcg", help="the kernel's name (memcg)")
    install.add_argument("--display-name", metavar="TEXT", help="what Jupyter's menu shows")
    place = install.add_mutually_exclusive_group()
    place.add_argument("--prefix", metavar="DIR", help="below DIR/share/jupyter/kernels")
    place.add_argument(
        "--sys-prefix", action="store_true", help="in this Python's environment; else the user's"
    )


def main(args: Namespace) -> int:
    if args.max is not None:
        try:
            parse_size(args.max)
        except ValueError as error:
            print(f"memcg jupyter install: {error}", file=sys.stderr)
            return 2
    if not args.name or not set(args.name) <= set(_NAME):
        print(
            f"memcg jupyter install: name {args.name!r} is not a kernel's name; use letters of "
            "ASCII, digits, '.', '_' and '-'",
            file=sys.stderr,
        )
        return 2
    folder = _kernels(args.prefix or (sys.prefix if args.sys_prefix else None)) / args.name
    folder.mkdir(parents=True, exist_ok=True)
    spec = {
        "argv": [
            sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}",
            "--IPKernelApp.extra_extensions=memcg",
        ],
        "display_name": args.display_name or f"Python, limited by memcg ({args.max or 'no limit'})",
        "language": "python",
        "env": {"MEMCG_NOTEBOOK_MAX": args.max} if args.max else {},
    }  # fmt: skip
    file = folder / "kernel.json"
    file.write_text(json.dumps(spec, indent=1) + "\n")
    print(file)
    return 0


_NAME = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"


def _kernels(prefix: str | None) -> Path:
    """Return the folder in which Jupyter looks for kernels. Jupyter: `jupyter_core.paths`."""
    if prefix is not None:
        return Path(prefix) / "share" / "jupyter" / "kernels"
    if data := os.environ.get("JUPYTER_DATA_DIR"):
        return Path(data) / "kernels"
    home = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(home) / "jupyter" / "kernels"
