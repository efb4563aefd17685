# SPDX-License-Identifier: Apache-2.0
"""Where published pages lie, and whether the process that wrote one is alive.

A page is a file ``PID-TICKS.page``: the process's id, and when it started, in ticks since the
machine did. So a process that gets the id later has another name. `page` reads what a page says.
This module is imported into programs that publish, so it imports little.
"""

from __future__ import annotations

import os
import stat
import time

from .errors import MemcgError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

SUFFIX = ".page"
NAMESPACE_AT = 88  # bytes; struct publish_header of native/publish.h
_SHM = "/dev/shm"


def _candidates() -> Iterator[str]:
    """Yield the folders in which pages may lie, the preferred one first."""
    if only := os.environ.get("MEMCG_RUNTIME_DIR"):
        yield only
        return
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        yield os.path.join(runtime, "memcg")
    name = f"memcg-{os.geteuid()}"
    # A page on a disk can make its writer wait for the disk, so the folder in memory comes first.
    if os.path.isdir(_SHM):
        yield os.path.join(_SHM, name)
    yield os.path.join(os.environ.get("TMPDIR") or "/tmp", name)


def _why_not_ours(path: str) -> str | None:
    """Return why a folder cannot be used: it does not exist, or others can write or read it."""
    try:
        found = os.lstat(path)
    except OSError as error:
        return error.strerror
    if not stat.S_ISDIR(found.st_mode):
        return "it is not a folder"
    if found.st_uid != os.geteuid():
        return f"it belongs to user {found.st_uid}"
    if found.st_mode & 0o077:
        return f"others may use it; chmod 700 {path}"
    return None


def folders() -> list[str]:
    """Return the folders of this user that exist and that no other user can write."""
    return [path for path in dict.fromkeys(_candidates()) if _why_not_ours(path) is None]


def make_folder() -> str:
    """Return the folder for this process's page, and make it with mode 0700 if there is none.

    Raises
    ------
    MemcgError
        No folder can be used; the text says why, and what to do.
    """
    reasons = []
    for path in _candidates():
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            pass
        except OSError as error:
            reasons.append(f"{path}: {error.strerror}")
            continue
        if (why := _why_not_ours(path)) is None and os.access(path, os.W_OK):
            return path
        reasons.append(f"{path}: {why or 'it cannot be written'}")
    raise MemcgError(
        f"no folder for a page: {'; '.join(reasons)}; set MEMCG_RUNTIME_DIR to a folder of yours"
    )


def start_ticks(pid: int | str) -> int:
    """Return when a process started, in ticks since the machine did.

    Raises
    ------
    OSError
        There is no such process.
    """
    with open(f"/proc/{pid}/stat", "rb") as file:
        return int(file.read().rpartition(b")")[2].split()[19])  # field 22 of proc(5)


def pid_namespace() -> int:
    """Return the number of the namespace in which this process's ids mean something."""
    return os.stat("/proc/self/ns/pid").st_ino


def name(pid: int, ticks: int) -> str:
    return f"{pid}-{ticks}{SUFFIX}"


def parse_name(file: str) -> tuple[int, int] | None:
    """Return the process and its ticks, or None if it is no name of a page.

    Examples
    --------
    >>> parse_name("/run/user/1000/memcg/4711-99.page"), parse_name("x.page")
    ((4711, 99), None)
    """
    pid, _, ticks = os.path.basename(file).removesuffix(SUFFIX).partition("-")
    if file.endswith(SUFFIX) and (pid + ticks).isdecimal() and (pid + ticks).isascii():
        return (int(pid), int(ticks)) if pid and ticks else None
    return None


def is_mapped(path: str, pid: int) -> bool:
    """Tell whether the process still maps the file. After an exec it does not."""
    inode = str(os.stat(path).st_ino).encode()
    with open(f"/proc/{pid}/maps", "rb") as maps:
        return any(line.split(None, 5)[4:5] == [inode] for line in maps)


def is_alive(path: str) -> bool | None:
    """Tell whether the process that writes a page is alive.

    Returns
    -------
    bool or None
        None says that this process cannot know: the page is of another container.
    """
    found = parse_name(path)
    if found is None:
        return False
    pid, ticks = found
    try:
        with open(path, "rb") as file:
            file.seek(NAMESPACE_AT)
            namespace = int.from_bytes(file.read(8), "little")
    except OSError:
        return False
    if namespace != pid_namespace():
        return None
    try:
        return start_ticks(pid) == ticks and is_mapped(path, pid)
    except PermissionError:  # another user's, which root may see
        return True
    except (OSError, IndexError, ValueError):
        return False


def clean(folder: str) -> list[str]:
    """Remove the pages of processes that are gone, and what they left half made; return the names.

    A page that another process removes at the same time is no error.
    """
    removed = []
    for file in sorted(os.listdir(folder)):
        page = file.removesuffix(".sock").removesuffix(".new")
        page = page if page.endswith(SUFFIX) else page + SUFFIX
        if parse_name(page) is None or not file.endswith((SUFFIX, ".new", ".sock")):
            continue
        if file.endswith(SUFFIX):
            dead = is_alive(os.path.join(folder, file)) is False
        else:  # what lies beside a page lives as long as its process
            dead = not _runs(page) and not os.path.exists(os.path.join(folder, page))
            dead = dead and _is_old(os.path.join(folder, file))
        if dead:
            try:
                os.unlink(os.path.join(folder, file))
            except FileNotFoundError:
                continue
            removed.append(file)
    return removed


def _is_old(path: str) -> bool:
    """Tell whether a file is older than a minute: another container may be making a page now."""
    try:
        return time.time() - os.lstat(path).st_mtime > 60
    except OSError:  # another process has removed it
        return False


def _runs(page: str) -> bool:
    found = parse_name(page)
    try:
        return found is not None and start_ticks(found[0]) == found[1]
    except (OSError, IndexError, ValueError):
        return False


def live() -> list[str]:
    """Return the paths of the pages whose processes are alive, and remove those of others."""
    found = []
    for folder in folders():
        clean(folder)
        for file in sorted(os.listdir(folder)):
            path = os.path.join(folder, file)
            if parse_name(path) is not None and is_alive(path) is not False:
                found.append(path)
    return found
