# SPDX-License-Identifier: Apache-2.0
"""``memcg doctor`` tells whether memcg can run here, and what it would charge.

Every line is looked up or measured in this process, which installs memcg as a program would.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from typing import TYPE_CHECKING, Any

import memcg
from memcg import core, hooks, pages
from memcg.integrations.allocators import uncovered
from memcg.sizes import format_size

from . import _system
from .report import uncovered_line

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable, Iterator

SUPPORTED = {"x86_64", "aarch64"}
ARENA_WISH = 64 << 30  # bytes; native/arena.c halves its request until it gets them
ARENA_MIN = 64 << 20
ARRAY_BYTES = 8_000_000  # more than any size class, so it is a page run

MEMBARRIER = {"x86_64": 324, "aarch64": 283}  # syscall numbers
MEMBARRIER_CMD_PRIVATE_EXPEDITED = 1 << 3


def add_parser(subparsers: Any) -> None:
    """Put the verb on the command line."""
    subparsers.add_parser(
        "doctor",
        help="tell whether memcg can run here, and what it would charge",
        description="Look at this Python, install memcg in it and measure what is charged. "
        "The exit status is 0 if memcg can run here, and 1 if it cannot.",
    )


def main(args: Namespace) -> int:
    """Print the findings. Return 0 if memcg can run here, 1 if it cannot."""
    return examine(_system.System(), lambda name, text: print(f"{name + ':':<14}{text}"))


def examine(system: _system.System, tell: Callable[[str, str], None]) -> int:
    """Look at everything, pass each line to `tell`, and return the exit status."""
    tell("memcg", f"{memcg.__version__} at {os.path.dirname(memcg.__file__)}")
    tell("python", python())
    tell("platform", platform())
    tell("core", f"{_system.core_name()} ({_system.core_reason()})")
    for text in other_hooks():
        tell("other hooks", text)
    if faults := os.environ.get("MEMCG_FAIL"):
        tell("faults", f"MEMCG_FAIL={faults}: requests fail on purpose")
    tell("arena", arena())
    tell("membarrier", membarrier())
    try:
        system.install()
        refused = None
    except memcg.MemcgError as error:
        refused = str(error)
    tell("install", f"refused: {refused}" if refused else "works")
    tell("numpy", numpy(system, installed=refused is None))
    tell("malloc", malloc())
    for text in allocators():
        tell("allocators", text)
    tell("page", page())
    if refused is None:
        tell("objects", objects())
        rss, _ = _system.resident()
        current = memcg.root.current
        tell(
            "charged",
            f"{format_size(current)} of {format_size(rss)} resident; "
            "the rest was there before install, or is code, stacks and other allocators' memory",
        )
    tell("verdict", "memcg cannot run here" if refused else "memcg can run here")
    return 1 if refused else 0


def malloc() -> str:
    """Return whether what C code allocates is charged, or can be."""
    if core.name == "native" and core.malloc_served():
        return "charged: libmemcg_malloc serves C, C++ and Rust in this process"
    reason = core.why_malloc_not_served() if core.name == "native" else "there is no native core"
    return (
        f"cannot be charged: {reason}" if reason else "charged under memcg run, not in this process"
    )


def allocators() -> Iterator[str]:
    """Yield a line for each loaded library that has an allocator that nothing covers, or one."""
    found = False
    for library in uncovered():
        found = True
        yield f"not charged: {uncovered_line(library._asdict())}"
    if not found:
        yield "no loaded library brings one along that is not charged"


def page() -> str:
    """Return where `memcg.publish` puts this user's pages, or why it cannot."""
    try:
        return f"memcg.publish() writes to {pages.make_folder()}"
    except memcg.MemcgError as error:
        return f"memcg.publish() does not work: {error}"


def python() -> str:
    """Return a line about this Python and the properties of its build that matter."""
    version = ".".join(map(str, sys.version_info[:3]))
    about = [sys.executable]
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        about.append("free-threaded: no hooks")
    if sysconfig.get_config_var("Py_DEBUG"):
        about.append("debug build")
    first, last = core.PYTHONS
    if not first <= sys.version_info[:2] <= last:
        about.append("not among the tested {}.{} to {}.{}".format(*first, *last))
    if (trouble := hooks.trouble_with(sys.version_info)) is not None:
        about.append(trouble)
    return f"{sys.implementation.name} {version} ({'; '.join(about)})"


def platform() -> str:
    """Return a line about the machine and the C library, with a verdict."""
    uname = os.uname()
    try:
        libc = os.confstr("CS_GNU_LIBC_VERSION") or "libc unknown"
    except (OSError, ValueError):
        libc = "musl or another libc"
    fits = uname.sysname == "Linux" and uname.machine in SUPPORTED
    verdict = "supported" if fits else "not supported; memcg needs Linux on x86-64 or aarch64"
    return f"{uname.sysname} {uname.release} {uname.machine}, {libc}: {verdict}"


def other_hooks() -> Iterator[str]:
    """Yield a line for each tool that may have hooked CPython's allocators; at least one line."""
    found = False
    if _is_tracing():
        found = True
        yield "tracemalloc is tracing; install() stops it, installs and starts it again"
    if value := os.environ.get("PYTHONMALLOC"):
        found = True
        yield f"PYTHONMALLOC={value}: memcg's hooks replace it or stand under it"
    if sys.flags.dev_mode:
        found = True
        yield "-X dev: there are debug hooks on the allocators"
    for name in ("memray", "ddtrace", "scalene", "filprofiler", "cupy"):
        if name in sys.modules:
            found = True
            yield f"{name} is imported; it may set allocator hooks"
    if not found:
        yield "none known (tracemalloc is not tracing, PYTHONMALLOC is not set)"


def _is_tracing() -> bool:
    try:
        from _tracemalloc import is_tracing  # -X tracemalloc does not import tracemalloc
    except ImportError:
        return False
    return bool(is_tracing())


def arena() -> str:
    """Return how much address space the native core has reserved, or could reserve."""
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    under = "no ulimit -v" if limit == resource.RLIM_INFINITY else f"ulimit -v {limit // 1024}"
    if _system.core_name() == "native":
        return f"{format_size(_largest_reserved())} reserved ({under})"
    if size := _reservable():
        return f"{format_size(size)} can be reserved ({under})"
    return f"not even {format_size(ARENA_MIN)} can be reserved ({under}): raise ulimit -v"


def _largest_reserved() -> int:
    """Return the bytes of the largest PROT_NONE mapping, which is the arena's unused part."""
    largest = 0
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:
        for line in maps:
            addresses, mode, *_ = line.split()
            if mode == "---p":
                start, end = (int(address, 16) for address in addresses.split("-"))
                largest = max(largest, end - start)
    return largest


def _reservable() -> int:
    import mmap

    size = ARENA_WISH
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)
    while size >= ARENA_MIN:
        try:
            mmap.mmap(-1, size, flags=flags, prot=0).close()
        except (OSError, ValueError, OverflowError):
            size //= 2
        else:
            return size
    return 0


def membarrier() -> str:
    """Return whether the kernel has ``MEMBARRIER_CMD_PRIVATE_EXPEDITED``, in words."""
    import ctypes

    number = MEMBARRIER.get(os.uname().machine)
    if number is None:
        return "not known on this machine"
    commands = ctypes.CDLL(None, use_errno=True).syscall(number, 0, 0, 0)
    if commands < 0:
        return f"no ({os.strerror(ctypes.get_errno())}): the fast path has fences instead"
    if commands & MEMBARRIER_CMD_PRIVATE_EXPEDITED:
        return "private expedited"
    return "no private expedited command: the fast path has fences instead"


def numpy(system: _system.System, *, installed: bool) -> str:
    """Return how arrays are charged. It is measured if memcg is installed."""
    try:
        import numpy as np
    except ImportError as error:
        return f"not here ({error})"
    version = tuple(int(part) for part in np.__version__.split(".")[:2])
    how = "through RAW" if version >= (2, 5) else "through an NEP 49 handler"
    if not installed:
        return f"{np.__version__}: arrays would be charged {how}"
    before = memcg.root.current
    array = np.zeros(ARRAY_BYTES, "u1")
    charged = memcg.root.current - before
    del array
    left = memcg.root.current - before
    return (
        f"{np.__version__}: arrays are charged {how}; an array of {ARRAY_BYTES} bytes was charged "
        f"{charged}, and {left} were left when it was freed"
    )


def objects() -> str:
    """Measure how many bytes a list of small objects is charged, and return it in words."""
    before = memcg.root.current
    made: list[object] | None = [object() for _ in range(100_000)]
    charged = memcg.root.current - before
    expected = sys.getsizeof(made) + 100_000 * sys.getsizeof(object())
    made = None
    return f"100,000 objects and their list, {expected} bytes, are charged {charged}"
