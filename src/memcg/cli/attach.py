# SPDX-License-Identifier: Apache-2.0
"""``memcg attach PID`` installs memcg in a process that runs already.

CPython 3.14 and later run a script in another process, at the next check of its main thread
(`sys.remote_exec`, PEP 768). The script imports the memcg of this command, so both processes need
the same version of CPython. A folder of mode 0700 holds the script and a FIFO for its answer. If
the process does not get to a check in time, it is given an empty script in place of ours, and the
folder is removed. If it begins and does not answer in time, it removes the folder itself.
"""

from __future__ import annotations

import ast
import contextlib
import os
import select
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import memcg
from memcg.sizes import format_size

from .run import UsageError, read_size

if TYPE_CHECKING:
    from argparse import Namespace

TIMEOUT_S = 10.0  # a program that does not wait gets to a check within milliseconds
BEGUN_S = 60.0  # to import and install memcg takes some 20 ms
NOTHING = "/dev/null"  # a script without code
ANSWER_BYTES = 4096  # PIPE_BUF: a write of this length arrives in one piece

BEFORE = "what process {} has allocated before is not charged, unless it grows"
CANNOT_TRACE = (
    "no right to trace process {}; run the command as root, or as the process's user with "
    "kernel.yama.ptrace_scope=0 or CAP_SYS_PTRACE (docker run --cap-add=SYS_PTRACE)"
)
ELSEWHERE = "process {} sees other files, as in a container; run the command there"
DISABLED = (
    "remote debugging is disabled in {0}; start it without PYTHON_DISABLE_REMOTE_DEBUG and "
    "-X disable-remote-debug, on a CPython that was built with remote debugging"
)
OTHER_PYTHON = (
    "process {0} runs another version of CPython than this {1}; install memcg for that version "
    "and run the command with it: /proc/{0}/exe shows its file"
)
NO_PYTHON = (
    "process {0} is no CPython 3.14 or newer (it runs {1}); start a program on an older one with "
    "memcg run"
)
OLD_PYTHON = (
    "CPython 3.14 is the first that lets others attach, and this is {0}; run the process and this "
    "command with 3.14 or newer, or start the program with memcg run"
)
TOO_LATE = (
    "process {0} has run no Python code in its main thread for {1:g} s, so nothing is installed; "
    "try again when the thread does not wait or compute in C, or give a longer --timeout"
)
STUCK = "process {0} has begun to install memcg, and has not said for {1:g} s how that ended"

# The process opens the FIFO for reading too: then writing neither blocks nor raises SIGPIPE if
# nobody reads any more.
SCRIPT = """\
def attach(folder, place, limits):
    import os, shutil, sys
    try:
        os.rename(folder + "/ready", folder + "/begun")
    except OSError:  # too late
        return
    try:
        sys.path.insert(0, place)
        try:
            from memcg.cli._attached import install
        finally:
            sys.path.remove(place)
        answer = install(*limits)
    except BaseException as error:
        answer = {{"refused": f"{{type(error).__name__}}: {{error}}"}}
    fifo = os.open(folder + "/answer", os.O_RDWR | os.O_NONBLOCK)
    os.write(fifo, repr(answer).encode()[:{bytes}])
    os.close(fifo)
    try:
        os.rename(folder + "/begun", folder + "/done")
    except OSError:  # the command waits no more
        shutil.rmtree(folder, ignore_errors=True)

attach({folder!r}, {place!r}, {limits!r})
"""

# memory.max, memory.high, memory.oom.group, and "read" or "write" for a socket
Limits = tuple[int | None, int | None, bool, str | None]


class Refused(Exception):
    """memcg cannot be installed in the process. The text says why, and what to do."""


def add_parser(subparsers: Any) -> None:
    """Put the verb on the command line."""
    parser = subparsers.add_parser(
        "attach",
        help="install memcg in a process that runs already (CPython 3.14 and later)",
        description="Install memcg in a running process, as memcg run would have done. What the "
        "process allocated before is not charged, unless it grows. The process must run "
        "the same version of CPython as this command, 3.14 or later, and this command needs the "
        "right to trace it. The exit status is 0 if memcg is installed there now, 1 if it cannot "
        "be, and 2 for wrong usage.",
    )
    parser.add_argument("pid", type=int, nargs="?", metavar="PID", help="the process")
    parser.add_argument("--max", metavar="SIZE", help="memory.max of the root group, as in run")
    parser.add_argument("--high", metavar="SIZE", help="memory.high of the root group, as in run")
    parser.add_argument("--oom-group", action="store_true", help="memory.oom.group, as in run")
    parser.add_argument(
        "--control",
        nargs="?",
        const="read",
        metavar="write",
        help="serve a socket for memcg cat, slabinfo and report; --control=write also takes memcg "
        "set. If memcg is installed there already, this alone is done",
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=TIMEOUT_S,
        metavar="SECONDS",
        help="how long the process may take to get to a check (%(default)g)",
    )


def main(args: Namespace) -> int:
    """Install memcg in process `args.pid`. Return 0, 1 if that is refused, or 2 for wrong usage."""
    try:
        pid, control = _pid_and_control(args.pid, args.control)
        max = read_size("--max", args.max, None)
        limits = (max, read_size("--high", args.high, max), args.oom_group, control)
    except UsageError as error:
        sys.stderr.write(f"memcg attach: error: {error}\n")
        return 2
    print(BEFORE.format(pid), flush=True)
    try:
        answer = attach(pid, limits, args.timeout)
    except Refused as error:
        sys.stderr.write(f"memcg attach: {error}\n")
        return 1
    shown = "no limit" if max is None else f"memory.max {format_size(max)}"
    print(
        f"memcg {answer['memcg']} from {answer['place']} is installed in process {pid} "
        f"(CPython {answer['python']}), {shown}"
    )
    if "socket" in answer:
        what = "reading and writing" if control == "write" else "reading"
        print(f"it serves {answer['socket']}, for {what}")
    return 0


def _pid_and_control(pid: int | None, control: str | None) -> tuple[int, str | None]:
    """Tell the number in ``--control 123`` from a mode: the option may stand before the process."""
    if pid is None and control is not None and control.isdecimal():
        pid, control = int(control), "read"
    if pid is None:
        raise UsageError("which process? Write its number: memcg attach PID")
    if control not in (None, "read", "write"):
        raise UsageError(f"--control={control}: write --control or --control=write")
    return pid, control


def attach(pid: int, limits: Limits, timeout_s: float = TIMEOUT_S) -> dict[str, str]:
    """Install memcg in a process and return its answer.

    Parameters
    ----------
    pid : int
        The process.
    limits : tuple
        ``memory.max`` and ``memory.high`` of its root in bytes, None for no change;
        ``memory.oom.group``; and ``"read"`` or ``"write"`` for a socket, None for none.
    timeout_s : float
        Seconds until the process must have begun.

    Raises
    ------
    Refused
        Nothing was installed; the text says why.
    """
    if sys.version_info < (3, 14):
        raise Refused(OLD_PYTHON.format(_version()))
    if not sys.is_remote_debug_enabled():
        raise Refused(DISABLED.format("this command's own Python"))
    try:
        process = os.pidfd_open(pid)
    except (OSError, OverflowError):
        raise Refused(f"there is no process {pid}") from None
    try:
        owner = _owner(pid)
        folder = Path(tempfile.mkdtemp(prefix="memcg-attach-"))
        try:
            _prepare(folder, owner, limits)
            with open(folder / "answer", "rb", buffering=0, opener=_no_wait) as answers:
                try:
                    sys.remote_exec(pid, str(folder / "script.py"))
                except (OSError, RuntimeError) as error:
                    raise Refused(_why(pid, error)) from None
                return _answer(pid, process, answers, folder, timeout_s)
        finally:
            _take_back(pid, process, folder)
    finally:
        os.close(process)


def _version() -> str:
    return ".".join(map(str, sys.version_info[:3]))


def _no_wait(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def _owner(pid: int) -> int:
    """Return the user of a process that sees the same files as this one."""
    try:
        there, here = (os.stat(f"/proc/{process}/ns/mnt") for process in (pid, "self"))
        owner = os.stat(f"/proc/{pid}").st_uid
    except PermissionError:
        raise Refused(CANNOT_TRACE.format(pid)) from None
    except OSError:
        raise Refused(f"process {pid} has ended") from None
    if there.st_ino != here.st_ino:
        raise Refused(ELSEWHERE.format(pid))
    return owner


def _prepare(folder: Path, owner: int, limits: Limits) -> None:
    """Fill the folder, which only its owner can read."""
    place = os.path.dirname(os.path.dirname(os.path.abspath(memcg.__file__)))
    script = SCRIPT.format(
        folder=str(folder),
        place=place,
        limits=limits,
        bytes=ANSWER_BYTES,
    )
    _write(folder / "script.py", script, owner)
    _write(folder / "ready", "", owner)
    os.mkfifo(folder / "answer", 0o600)
    _give(folder / "answer", owner)
    _give(folder, owner)


def _write(file: Path, text: str, owner: int) -> None:
    with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as opened:
        opened.write(text)
    _give(file, owner)


def _give(path: Path, owner: int) -> None:
    if owner != os.geteuid():
        os.chown(path, owner, -1)


def _why(pid: int, error: Exception) -> str:
    """Explain why no script can be run in a process."""
    text = str(error)
    if isinstance(error, PermissionError):
        return CANNOT_TRACE.format(pid)
    if isinstance(error, ProcessLookupError):
        return f"process {pid} has ended"
    if "not enabled in the remote process" in text:
        return DISABLED.format(f"process {pid}")
    if "Can't send commands from" in text:
        return OTHER_PYTHON.format(pid, _version(), pid)
    if "PyRuntime" in text:
        try:
            runs = os.readlink(f"/proc/{pid}/exe")
        except OSError:
            return f"process {pid} has ended"
        return NO_PYTHON.format(pid, runs)
    return f"CPython cannot run a script in process {pid}: {text}"


def _answer(
    pid: int, process: int, answers: BinaryIO, folder: Path, timeout_s: float
) -> dict[str, str]:
    """Wait for the answer."""
    poll = select.poll()
    poll.register(answers, select.POLLIN)
    poll.register(process, select.POLLIN)
    if not poll.poll(timeout_s * 1000):
        if _ends(folder, "ready"):
            raise Refused(TOO_LATE.format(pid, timeout_s))
        # it has begun, and will say how that ended
        if not poll.poll(BEGUN_S * 1000) and _ends(folder, "begun"):
            raise Refused(STUCK.format(pid, BEGUN_S))
    # what it wrote last, also if it has ended since
    text = (answers.read(ANSWER_BYTES) or b"").decode()
    if not text:
        raise Refused(f"process {pid} has ended")
    answer: dict[str, str] = ast.literal_eval(text)
    if "refused" in answer:
        raise Refused(f"process {pid}: {answer['refused']}")
    return answer


def _ends(folder: Path, state: str) -> bool:
    """End the state "ready" or "begun" of the script. False: it is in another."""
    try:
        (folder / state).rename(folder / f"not {state}")
    except FileNotFoundError:
        return False
    return True


def _take_back(pid: int, process: int, folder: Path) -> None:
    """Remove the folder, or leave that to the process if it has begun and not answered."""
    if sys.version_info < (3, 14):
        return
    if _ends(folder, "ready") or (folder / "not ready").exists():
        with contextlib.suppress(OSError, RuntimeError):  # it may have ended, or gets no script
            sys.remote_exec(pid, NOTHING)
    elif _ends(folder, "begun") or (folder / "not begun").exists():
        has_ended = select.select([process], [], [], 0)[0]
        if not has_ended:
            return  # it finds that nobody waits
    shutil.rmtree(folder, ignore_errors=True)
