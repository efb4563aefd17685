# SPDX-License-Identifier: Apache-2.0
"""``memcg run`` runs an unmodified program in a limited process.

The options are parsed by hand, because everything after the program belongs to the program, and
because the program sees every module that is imported here.
"""

from __future__ import annotations

import atexit
import sys
from typing import TYPE_CHECKING, Any

from memcg.errors import MemcgError
from memcg.sizes import parse_size

from . import _system
from ._execute import Target, cannot_open, execute
from ._restart import restart

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable

__all__ = [
    "EXIT_CANNOT",
    "EXIT_OOM",
    "Options",
    "UsageError",
    "execute",
    "parse",
    "read_size",
    "start",
]

EXIT_OOM = 137  # the exit status of a container that was killed for its memory
EXIT_CANNOT = 125  # memcg itself failed; env(1) and timeout(1) use the same status

USAGE = """\
usage: memcg run [--max SIZE] [--high SIZE] [--oom-group] [--no-malloc] [--pools]
                 [--report] [--json FILE] [--html FILE]
                 [--trace FILE] [--trace-every SIZE]
                 [--control[=write]] [--no-publish]
                 (SCRIPT | -m MODULE | -c COMMAND | -) [ARG ...]
"""
HELP = f"""{USAGE}
Run an unmodified Python program in a limited process. What CPython, NumPy and
C libraries allocate is charged. Past the limit the program gets a MemoryError.

limits of the root group, which holds all others:
  --max SIZE    memory.max: 64MiB, 1GB, bytes, or max for no limit (the default)
  --high SIZE   memory.high: the usage at which shrinkers and gc.collect() run. It
                may be a share of --max, such as 75%. The default is 7/8 of --max.
  --oom-group   memory.oom.group: end the process with {EXIT_OOM} if it catches the
                error again and again and stays at the limit. Without this option
                such a process is slowed down.
  --no-malloc   do not charge what C, C++ and Rust code gets from malloc. Without
                this option the process starts itself again with a library of
                memcg in LD_PRELOAD, which is taken out of the environment.
  --pools       threads that C code has started (polars, Arrow, DuckDB, OpenMP) charge
                the nearest common ancestor of the groups that are entered at the
                moment. Without this option they charge the root.
account:
  --report      at the end, after atexit handlers, write the account to stderr: the
                groups, current, peak, limits, events, biggest caches and objects,
                and the share of the RSS that is charged
  --json FILE   write the same to FILE for machines, whole or not at all
  --html FILE   write a page to FILE with plots of it over time, and what holds
                memory; one file, which fetches nothing
  --trace FILE  write which code has allocated what lives at the end, by samples. The
                end of the name tells the format: .speedscope.json, .pb.gz (for
                go tool pprof) or .folded
  --trace-every SIZE  one sample in so many bytes, 512KiB if it is not given. The
                option alone adds the samples to --report, --json and --html.
to be seen by other processes of this user (memcg ps, top, ls, events):
  --no-publish  do not publish the groups' figures. By default they are on a page
                in memory, if there is a folder for it (see memcg doctor).
  --control     serve a socket too, for memcg cat, slabinfo and report; a thread
                does so. --control=write also takes memcg set.
  -h, --help    show this and exit

The program is given as to python: SCRIPT may be a directory or zip file with
__main__.py, and - reads the program from stdin. Write options of the
interpreter before memcg: python -X dev -m memcg run ...

exit status:
  The status is the program's own, as with python. It is {EXIT_OOM} if a limit ended
  the main thread; the last line on stderr then says the group, rule, values and
  cure. It is 2 for a missing script or wrong usage, and {EXIT_CANNOT} if memcg cannot
  run here (see memcg doctor).

environment:
  MEMCG_FAIL    make requests for memory fail on purpose, to see what the program
                does then: nth=100,size=64KiB-1GiB or probability=0.001,seed=7;
                docs/faults.md describes all keys

The process that was started writes the account, and its forked children do not.
It is written unless the program ends by os._exit, os.exec* or a signal that
kills it.

examples:
  memcg run --max 512MiB --report train.py --epochs 3
  memcg run --max 1GiB --json usage.json -m pytest -q
"""


class UsageError(Exception):
    """The command line is wrong."""


class Options:
    """What the command line asks for. Sizes are in bytes; None stands for an option not given."""

    def __init__(self) -> None:
        self.max: int | None = None
        self.high: int | None = None
        self.oom_group = False
        self.malloc = True
        self.pools = False
        self.report = False
        self.json: str | None = None
        self.html: str | None = None
        self.trace: str | None = None
        self.trace_every: int | None = None
        self.publish = True
        self.control: str | None = None  # "read" or "write"
        self.help = False
        self.target: Target | None = None
        self.args: list[str] = []


def parse(args: list[str]) -> Options:
    """Read the command line.

    Raises
    ------
    UsageError
        There is an unknown option, a bad size, an option without its value, or no program.

    Examples
    --------
    >>> options = parse(["--max=64MiB", "-m", "json.tool", "--max", "f.json"])
    >>> options.max, options.target, options.args
    (67108864, Target(kind='module', name='json.tool'), ['--max', 'f.json'])
    """
    options = Options()
    sizes: dict[str, str] = {}
    rest = list(args)
    while rest:
        arg = rest.pop(0)
        name, equals, value = arg.partition("=")
        if arg in ("-h", "--help"):
            options.help = True
            return options
        if arg == "--report":
            options.report = True
        elif arg == "--oom-group":
            options.oom_group = True
        elif arg == "--no-publish":
            options.publish = False
        elif name == "--control":
            if equals and value not in ("read", "write"):
                raise UsageError(f"argument --control: {value!r} is neither read nor write")
            options.control = value or "read"
        elif arg == "--no-malloc":
            options.malloc = False
        elif arg == "--pools":
            options.pools = True
        elif name in ("--max", "--high", "--json", "--html", "--trace", "--trace-every"):
            if not equals:
                if not rest:
                    raise UsageError(f"argument {name}: expected one argument")
                value = rest.pop(0)
            if name in ("--json", "--html", "--trace"):
                setattr(options, name[2:], value)
            else:
                sizes[name] = value
        elif arg[:2] in ("-m", "-c"):
            if not (value := arg[2:] or (rest.pop(0) if rest else "")):
                raise UsageError(f"argument {arg}: expected one argument")
            options.target = Target("module" if arg[1] == "m" else "command", value)
            break
        elif arg == "-":
            options.target = Target("stdin", "-")
            break
        elif arg == "--" and rest:
            options.target = Target("script", rest.pop(0))
            break
        elif arg.startswith("-"):
            hint = "; write options of python before 'memcg'" if not arg.startswith("--") else ""
            raise UsageError(f"unrecognized argument {arg!r}{hint}")
        else:
            options.target = Target("script", arg)
            break
    if options.target is None:
        raise UsageError("nothing to run: give a script, -m MODULE, -c COMMAND or -")
    if options.html is not None and not options.publish:
        raise UsageError("argument --html: it needs the page that --no-publish forbids")
    if options.control and not options.publish:
        raise UsageError("argument --control: it needs the page that --no-publish forbids")
    options.args = rest
    options.trace_every = read_size("--trace-every", sizes.get("--trace-every"), None)
    options.max = read_size("--max", sizes.get("--max"), None)
    options.high = read_size("--high", sizes.get("--high"), options.max)
    return options


def read_size(name: str, text: str | None, of: int | None) -> int | None:
    """Return the bytes that the option `name` asks for; None if it was not given.

    Raises
    ------
    UsageError
        It is no size, or a share of an `of` that was not given.
    """
    if text is None:
        return None
    if "%" in text and of is None:
        cure = "give bytes, as in 256MiB" if name == "--max" else "give --max too, or bytes"
        raise UsageError(f"argument {name}: {text!r} is a share of nothing; {cure}")
    try:
        return parse_size(int(text) if text.isdecimal() else text, of=of)
    except ValueError as error:
        raise UsageError(f"argument {name}: {error}") from None


def start(
    args: list[str], system: _system.System | None = None, *, may_restart: bool = False
) -> int:
    """Run the program that `args` name. Return 0 if it reached its end.

    It returns 2 for wrong usage or a missing script, and `EXIT_CANNOT` if memcg cannot run here.
    With `may_restart` the process may start itself again, so that malloc is served.

    Raises
    ------
    BaseException
        What ended the program. The interpreter must report it.

    Notes
    -----
    Context: the main thread, as the last thing that a process does.
    """
    try:
        options = parse(args)
        if options.help:
            sys.stdout.write(HELP)
            return 0
        for name in ("json", "html", "trace"):
            if (path := getattr(options, name)) is not None:
                from .report import prepare

                try:
                    setattr(options, name, prepare(path))
                except OSError as error:
                    raise UsageError(
                        f"argument --{name}: cannot write {path!r}: {error.strerror}"
                    ) from None
    except UsageError as error:
        sys.stderr.write(f"{USAGE}memcg run: error: {error}\n")
        return 2
    target = options.target
    assert target is not None
    if target.kind == "script" and (message := cannot_open(target.name)):
        sys.stderr.write(message)
        return 2
    if system is None:
        system = _system.System()
    if may_restart and options.malloc and (reason := restart()) is not None:
        _system.complain(f"memcg: what C code allocates is not charged: {reason}")
    try:
        system.install()
        if options.pools:
            system.follow_groups()
    except MemcgError as error:
        sys.stderr.write(f"memcg run: cannot run here: {error}\n")
        return EXIT_CANNOT
    if options.publish:
        try:
            system.publish(options.control)
        except MemcgError as error:
            if options.control or options.html is not None:
                sys.stderr.write(f"memcg run: {error}\n")
                return EXIT_CANNOT
            # Nobody has asked for the page. `memcg doctor` says why there is none.
    atexit.register(system.lift_limits)  # the first registered runs last
    if options.trace is not None or options.trace_every is not None:
        try:
            system.trace(options.trace_every, options.trace)
        except ValueError as error:
            sys.stderr.write(f"{USAGE}memcg run: error: {error}\n")
            return 2
    paths = {"json": options.json, "html": options.html, "trace": options.trace}
    if options.report or any(path is not None for path in paths.values()):
        from .report import at_exit

        at_exit(system, [target.name, *options.args], options.report, paths)
    system.explain_in_threads()
    system.set_limits(options.max, options.high, options.oom_group)

    def uncaught(error: BaseException, show: Callable[[], None]) -> int | None:
        account = system.failure(error)  # before `show`: that may be refused memory itself
        if account is None:
            show()
            return None
        with system.room():
            try:
                show()
            finally:
                _system.complain(f"memcg: {account}")
        return EXIT_OOM

    execute(target, options.args, uncaught=uncaught, quiet=system.quiet())
    return 0


def add_parser(subparsers: Any) -> None:
    """Put the verb on ``memcg --help``. `start` does its own parsing."""
    subparsers.add_parser(
        "run", help="run an unmodified program in a limited process", add_help=False
    )


def main(args: Namespace) -> int:
    """Run a program. The command line does not call this: it passes ``run`` to `start` at once."""
    return start(sys.argv[2:])
