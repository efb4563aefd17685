# SPDX-License-Identifier: Apache-2.0
"""``memcg verify`` shows which scheme holds under every schedule, and what the others do wrong.

Everything runs over the model core, so no compiler is needed and no memory of the process is
charged.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from memcg.verify import Failure, Result

DESCRIPTION = """\
Explore the scenarios of the control plane under every schedule. Compare its scheme with the old
one and with the patch as written, whose flaws are found. TARGET is the name of a scenario or of a
flaw, or FILE.py:function, which is a program of your own that uses memcg.verify.seam.
The exit status is 0 if what was asked for holds, 1 if it is violated or not exhausted, and 3 if
nothing is violated but tasks share plain objects, which are not explored.
"""
EXAMPLES = """\
examples:
  memcg verify                                  explore everything and print a table
  memcg verify --scheme patch                   show what is wrong with the patch as written
  memcg verify creation_offline                 explore one scenario, on the scheme that ships
  memcg verify creation_offline --scheme patch  show the shortest timeline of its bug
  memcg verify D4 --replay 0.1*3.2*7            run one schedule again
  memcg verify counter.py:program               explore a program of your own
  memcg verify counter.py:program --interrupt increment    with Ctrl-C at every point of a task
"""
SCHEMES = ("old", "patch", "shipped")
WORDS = {
    "AssertionError": "a rule is broken",
    "DataRace": "data race",
    "Deadlock": "deadlock",
    "GuardViolation": "lock not held",
    "Livelock": "livelock",
    "LockError": "lock misused",
    "Stalled": "livelock",
    "UseAfterFree": "use after free",
}


class Item(NamedTuple):
    """Something to explore."""

    name: str
    scheme: str
    title: str
    program: Callable[[], Any]
    options: dict[str, Any]
    long: bool = False
    flawed: bool = False  # true if a failure must be found


def add_parser(subparsers: Any) -> None:
    """Put the verb on the command line."""
    parser = subparsers.add_parser(
        "verify",
        help="explore the locking under every schedule, or a program of your own",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("target", nargs="?", metavar="TARGET",
                        help="a scenario, a flaw, or FILE.py:function")  # fmt: skip
    parser.add_argument("--list", action="store_true", help="list scenarios and flaws")
    parser.add_argument("--scheme", choices=SCHEMES, help="explore only this scheme")
    parser.add_argument("--replay", metavar="STRING", help="run one schedule")
    parser.add_argument("--strategy", default="dpor",
                        choices=("dpor", "naive", "bounded", "pct", "random"),
                        help="how schedules are chosen (dpor: all that differ)")  # fmt: skip
    parser.add_argument("--bound", type=int, metavar="N",
                        help="the most preemptions for 'bounded'")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, metavar="N",
                        help="the seed for 'pct' and 'random'")  # fmt: skip
    parser.add_argument("--max-schedules", type=int, metavar="N", help="give up after so many")
    parser.add_argument("--interrupt", action="append", default=[], metavar="TASK",
                        help="raise KeyboardInterrupt at every point of this task of your "
                        "program")  # fmt: skip
    parser.add_argument("--forks", action="store_true", help="let your program call seam.fork")
    parser.add_argument("--long", action="store_true", help="include the scenarios of five tasks")


def main(args: argparse.Namespace) -> int:
    """Explore what was asked for. Return 0 if it holds, 1 if it does not, 2 for wrong usage."""
    if (args.strategy == "bounded") != (args.bound is not None):
        return _usage("--strategy bounded and --bound N need each other; give both or neither")
    if args.list:
        return _list()
    if args.target is None:
        if args.replay is not None:
            return _usage("--replay needs a TARGET")
        return table(_all(args), sys.stdout.write, **_options(args))
    try:
        items = find(args)
    except ValueError as error:
        return _usage(str(error))
    return show(items, args)


def _usage(text: str) -> int:
    print(f"memcg verify: {text}", file=sys.stderr)
    return 2


def _options(args: argparse.Namespace) -> dict[str, Any]:
    return {
        "strategy": args.strategy,
        "preemption_bound": args.bound,
        "seed": args.seed,
        "max_schedules": args.max_schedules,
    }


# -- what there is


def scenarios() -> Iterator[Item]:
    """Yield the scenarios, on the control plane that ships."""
    from memcg.verify.scheme.scenarios import SCENARIOS

    for name, s in SCENARIOS.items():
        yield Item(name, "shipped", s.title, s.program, s.options, s.long)


def flaws() -> Iterator[Item]:
    """Yield the flaws of the other schemes."""
    from memcg.verify.scheme.schemes import FLAWS

    for name, f in FLAWS.items():
        yield Item(name, f.scheme, f.title, f.program, {"audit": False, **f.options}, flawed=True)


def _all(args: argparse.Namespace) -> list[Item]:
    items = [*scenarios(), *flaws()]
    if args.scheme is not None:  # the user asks whether this scheme holds, so a flaw is a failure
        items = [item._replace(flawed=False) for item in items if item.scheme == args.scheme]
    return [item for item in items if args.long or not item.long]


def find(args: argparse.Namespace) -> list[Item]:
    """Return what TARGET and ``--scheme`` name.

    Raises
    ------
    ValueError
        They name nothing, or a file or function that does not exist.
    """
    target = args.target
    if ".py:" in target:
        options = {"interrupts": [(task, KeyboardInterrupt) for task in args.interrupt],
                   "forks": args.forks}  # fmt: skip
        return [Item(target, "", "", load(target), options)]
    from memcg.verify.scheme.schemes import FLAWS

    if target in FLAWS and args.scheme in (None, FLAWS[target].scheme):
        found = [item for item in flaws() if item.name == target]
    elif target in FLAWS and args.scheme == "shipped":
        found = [item for item in scenarios() if item.name == FLAWS[target].shipped]
    elif args.scheme in (None, "shipped"):
        found = [item for item in scenarios() if item.name == target]
    else:
        found = [i for i in flaws() if i.scheme == args.scheme and FLAWS[i.name].shipped == target]
    if not found:
        on = f" on the {args.scheme} scheme" if args.scheme else ""
        raise ValueError(f"there is no {target!r}{on}; memcg verify --list names what there is")
    return [item._replace(flawed=False) for item in found]


def load(target: str) -> Callable[[], Any]:
    """Load a program of the user's, ``FILE.py:function``.

    Raises
    ------
    ValueError
        The file or the function does not exist.
    """
    file, _, function = target.rpartition(":")
    path = Path(file)
    spec = importlib.util.spec_from_file_location(f"explored_{path.stem}", path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise ValueError(f"there is no file {file!r}")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.resolve().parent))
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    program = getattr(module, function, None)
    if not callable(program):
        raise ValueError(f"{file} has no function {function!r}")
    return program  # type: ignore[no-any-return]


def _list() -> int:
    from memcg.verify.scheme.schemes import FLAWS

    width = max(len(item.name) for item in scenarios())
    for item in scenarios():
        print(f"{item.name:{width}}  {item.title}{' (--long)' if item.long else ''}")
    for item in flaws():
        where = f"{item.name}, {item.scheme} scheme"
        print(f"{where:{width}}  {item.title} (shipped: {FLAWS[item.name].shipped})")
    return 0


# -- everything, as a table


def table(items: Iterable[Item], write: Callable[[str], object], **options: Any) -> int:
    """Explore each item and print a line for it. Return 0 if all outcomes are right, 1 if not."""
    from memcg.verify import explore

    items = list(items)
    width = max(len(item.name) for item in items)
    write(f"{'scenario':{width}}  scheme   schedules  seconds  outcome\n")
    wrong, total, began = 0, 0, time.perf_counter()
    for item in items:
        at = time.perf_counter()
        result = explore(item.program, **{**item.options, **options, "minimise": 0},
                         progress=_progress(item.name))  # fmt: skip
        seconds = time.perf_counter() - at
        total += result.schedules
        good = (result.failure is not None) if item.flawed else result.passed
        wrong += not good
        text = outcome(result)
        if item.flawed and result.failure is None:
            text += ": the flaw was not found"
        elif item.flawed and result.failure is not None:
            text = f"violated at run {result.executions}: {item.title}: "
            text += in_words(result.failure.exception).split(":", 1)[0]
        write(f"{item.name:{width}}  {item.scheme:7}  {result.schedules:9}  {seconds:7.2f}  "
              f"{text}\n")  # fmt: skip
    write(f"{total} schedules in {time.perf_counter() - began:.0f} s; "
          f"{wrong} of {len(items)} outcomes are wrong\n")  # fmt: skip
    return 1 if wrong else 0


def outcome(result: Result) -> str:
    """Return in words what an exploration found."""
    if result.failure is not None:
        return f"violated at run {result.executions}: {in_words(result.failure.exception)}"
    if not result.exhausted:
        return f"no violation in {result.schedules} schedules, but NOT exhausted{_why(result)}"
    return "holds, exhausted"


def _why(result: Result) -> str:
    if result.unseen:
        return ": tasks share what is not on the seam"
    return f": {result.why}" if result.why else ""


def in_words(problem: BaseException) -> str:
    """Return in words what kind of finding it is, and the first line of its text."""
    kind = type(problem).__name__
    text = str(problem).split("\n", 1)[0]
    return f"{WORDS.get(kind, kind)}: {text}".removesuffix(": ")


# -- single items, with their timelines


def show(items: list[Item], args: argparse.Namespace) -> int:
    """Explore or replay each item and print what it shows. Return 0 if all hold, 1 if not."""
    from memcg.verify import NondeterminismError, explore, replay

    bad = blind = False
    for item in items:
        print(f"{item.name} {item.scheme} {item.title}".rstrip())
        try:
            if args.replay is not None:
                _print_failure(replay(item.program, args.replay, **item.options))
                bad = True
                continue
            result = explore(item.program, **{**item.options, **_options(args)},
                             progress=_progress(item.name))  # fmt: skip
        except (NondeterminismError, ValueError) as error:
            print(f"memcg verify: {error}", file=sys.stderr)
            return 1
        print(f"{outcome(result)}; {result.schedules} schedules, {result.executions} runs")
        if result.passed and result.schedules == 1:
            print("one schedule: no two tasks used an object of the seam at the same time")
        print(*result.unseen, sep="\n", end="\n" if result.unseen else "")
        blind |= bool(result.unseen) and not result.failures
        bad |= not result.passed and not (result.unseen and not result.failures)
        if result.failure is not None:
            _print_failure(result.failure)
    return 1 if bad else 3 if blind else 0


def _progress(name: str) -> Callable[[Result], object] | None:
    """Return what shows on a terminal how far a long exploration is."""
    if not sys.stderr.isatty():
        return None

    def show(result: Result) -> None:
        text = f"{name}: {result.schedules} schedules, {result.executions} runs, Ctrl-C ends it"
        print(f"\r{text}\x1b[K\r", end="", file=sys.stderr, flush=True)

    return show


def _print_failure(failure: Failure) -> None:
    print(f"\n{failure.timeline}\n\n{in_words(failure.exception)}")
    many = "s" if failure.preemptions != 1 else ""
    fewest = "; no schedule fails with fewer" if failure.minimal else ""
    count = f"{failure.preemptions} preemption{many}{fewest}"
    print(f"{count}; run it again with --replay '{failure.replay}'\n")
