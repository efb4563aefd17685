# SPDX-License-Identifier: Apache-2.0
"""The command line has a file for each verb.

A verb is a module of this package with ``add_parser(subparsers)`` and ``main(args) -> int``, so a
new file is a new verb. The verbs that look at other processes are in `verbs`. ``run`` is handled
before argparse is imported, because the user's program finds in `sys.modules` whatever ``run``
imports.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from argparse import ArgumentParser
    from collections.abc import Sequence

EXAMPLES = """\
examples:
  memcg run --max 512MiB script.py args      limit an unmodified program
  memcg run --max 1GiB --report -m pytest    limit a module, with an account at the end
  memcg attach --max 2GiB 4711               limit a process that runs already (CPython 3.14)
  memcg ps; memcg top                        list what can be watched; watch it
  memcg set tenants/a memory.max 512M        write a limit of a running process
  memcg doctor                               tell whether memcg can run here, and what it charges
  memcg verify                               explore the locking under every schedule
  python -m memcg ...                        run the same command with this Python
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit status.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments without the program's name. The default is ``sys.argv[1:]``. Only then may
        ``run`` start the process again, so that malloc is served.

    Raises
    ------
    SystemExit
        argparse found wrong usage (status 2), or showed ``--help`` or ``--version`` (status 0).
    BaseException
        What ended a program that ``run`` has run.
    """
    args = list(sys.argv[1:] if argv is None else argv)
    if args[:1] == ["run"]:
        from . import run

        return run.start(args[1:], may_restart=argv is None)
    from . import verbs

    if verbs.wanted(args):
        return verbs.main(args)
    return _dispatch(args)


def _dispatch(args: list[str]) -> int:
    import pkgutil
    from importlib import import_module

    parser = _parser()
    subparsers = parser.add_subparsers(dest="verb", metavar="VERB", title="verbs")
    verbs = {}
    for _, name, _ in pkgutil.iter_modules(__path__):
        if not name.startswith("_"):
            module = import_module(f"{__name__}.{name}")
            if hasattr(module, "add_parser"):
                module.add_parser(subparsers)
                verbs[name] = module
    from .verbs import VERBS

    for name, text in VERBS.items():
        subparsers.add_parser(name, help=text)
    namespace = parser.parse_args(args)
    if namespace.verb is None:
        parser.print_help(sys.stderr)
        return 2
    return int(verbs[namespace.verb].main(namespace) or 0)


def _parser() -> ArgumentParser:
    from argparse import ArgumentParser, RawDescriptionHelpFormatter

    from .. import __version__

    parser = ArgumentParser(
        prog="memcg",
        description="Linux memory control groups inside one Python process.",
        epilog=EXAMPLES,
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"memcg {__version__}")
    return parser
