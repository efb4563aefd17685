# SPDX-License-Identifier: Apache-2.0
"""`publish`: other processes read this one's figures, even while the GIL is held.

The data plane writes the page (`native/publish.c`). Here its file is made and removed. A forked
child gets a page of its own.

Kernel: none; ours (HotSpot's hsperfdata).
"""

from __future__ import annotations

import os
from contextlib import suppress

from . import core, pages
from .control.cgroup import subtree
from .errors import MemcgError
from .groups import root
from .locking import at_exit, at_fork

GROUPS, EVENTS, SAMPLES = 2048, 2048, 32768  # what a page has room for by default: 2.3 MB
_here: str | None = None  # the page of this process
_room = (GROUPS, EVENTS, SAMPLES)
_registered = False


def publish(*, groups: int = GROUPS, events: int = EVENTS, samples: int = SAMPLES) -> str:
    """Let other processes of this user read all groups' figures, with ``memcg top`` for example.

    The figures are written to a file of mode 0600 by the threads that charge memory. So they are
    right while the GIL is held in one long call, no thread is needed, and the fast paths have no
    more to do. The file is removed at exit. If the process is killed, the next reader removes it.
    A forked child has a page of its own.

    Parameters
    ----------
    groups : int
        How many groups the page has room for, those that are dying included; 512 bytes each.
    events : int
        How many events (`max`, `oom` and so on) it keeps; 128 bytes each.
    samples : int
        How many samples of a group's usage it keeps; 32 bytes each. Each second has one for each
        group whose usage has changed, and the first minute has some 330.

    Returns
    -------
    str
        The file's path. A second call returns the same.

    Raises
    ------
    MemcgError
        There is no native core, no folder for the file, or no room in it; the text says what to do.
    ValueError
        There is no room for one group, event or sample, or for too many.
    """
    global _here, _room
    if _here is not None:
        return _here
    if core.name != "native":
        why = core.why_not_native or "MEMCG_CORE=model asks for the model core"
        raise MemcgError(f"memcg.publish() cannot work here: {why}")
    for what, n, most in (("groups", groups, 20), ("events", events, 20), ("samples", samples, 24)):
        if not 1 <= n <= 1 << most:
            raise ValueError(f"publish({what}={n}): a page has 1 to {1 << most} {what}")
    _room = (groups, events, samples)
    _register()
    _here = _make(*_room)
    for g in subtree(root):
        core.publish_inside_of(g)
    return _here


def unpublish() -> None:
    """End `publish` and remove the file. Without a page it does nothing."""
    global _here
    if (path := _here) is not None:
        _here = None
        core.unpublish()
        _remove(path)


def published() -> str | None:
    """Return the path of this process's page; None: it has none."""
    return _here


def _make(groups: int, events: int, samples: int) -> str:
    folder = pages.make_folder()
    pages.clean(folder)
    pid = os.getpid()
    ticks = pages.start_ticks("self")
    path = os.path.join(folder, pages.name(pid, ticks))
    new = f"{path}.new"  # a reader never sees a page without a header
    flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        fd = os.open(new, flags, 0o600)
        try:
            core.publish(fd, groups, events, samples, pid, ticks, pages.pid_namespace())
        finally:
            os.close(fd)
        os.rename(new, path)
    except OSError as error:
        core.unpublish()
        _remove(new)
        raise MemcgError(
            f"memcg.publish() cannot make {path!r}: {error.strerror}; make room there, publish "
            "fewer groups and samples, or set MEMCG_RUNTIME_DIR to another folder of yours"
        ) from None
    return path


def _remove(path: str) -> None:
    with suppress(FileNotFoundError):  # a cleaner of the folder was quicker
        os.unlink(path)


def _register() -> None:
    global _registered
    if not _registered:
        _registered = True
        at_fork(_nothing, _nothing, _after_fork_in_child)
        at_exit(_leave)


def _leave() -> None:
    # The page is still written and mapped, because other threads still run.
    if _here is not None:
        _remove(_here)


def _nothing() -> None:
    pass


def _after_fork_in_child() -> None:
    """Publish the child too. Its data plane has let go of its parent's page."""
    global _here
    if _here is not None:
        _here = None
        publish(groups=_room[0], events=_room[1], samples=_room[2])
