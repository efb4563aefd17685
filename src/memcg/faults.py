# SPDX-License-Identifier: Apache-2.0
"""`inject`: requests fail on purpose, to test what a program does then.

A *fail-nth* test has the first request fail, then the second, and so on until none is left::

    for n in itertools.count(1):
        with faults.inject(nth=n) as injected, contextlib.suppress(MemoryError):
            operation()
        if not injected.faults:
            break
        # here: is everything as it was before?

From outside: ``MEMCG_FAIL=nth=100,size=65536-1048576 memcg run app.py``.

Kernel: Documentation/fault-injection (``failslab``, ``fail-nth``).
"""

from __future__ import annotations

from . import core
from .core.fault_attr import make, with_seed
from .errors import MemcgError


def inject(
    *,
    nth: int | None = None,
    probability: float | None = None,
    seed: int | None = None,
    times: int | None = None,
    size: int | tuple[int, int] | str | None = None,
    cache: str | None = None,
    group: object = None,
    what: str | tuple[str, ...] | None = None,
    all_threads: bool = False,
) -> core.Faults:
    """Have requests fail in ``with``; its `eligible` and `faults` count them.

    Parameters
    ----------
    nth : int
        The nth eligible request fails; with `times`, and those that follow. Without `nth` and
        `probability` nothing fails: requests are counted.
    probability : float
        Each eligible request fails with this probability, drawn from `seed` and its number.
    times : int
        At most so many faults; 1 with `nth`, else no bound.
    size : int or (int, int)
        Eligible are requests of so many bytes. Without `size` and `cache`, requests of 1 KiB and
        less are not eligible, but for `KmemCache`: CPython does not survive their failing
        everywhere.
    cache : str
        Eligible are objects of this cache: ``"kmalloc-2048"``, or a `KmemCache`'s name.
    group : Group or str
        Eligible are requests in this group and below.
    what : str or tuple of str
        ``alloc`` (default): requests for memory; inside the core ``metadata``, ``pages``,
        ``mmap``, ``madvise``, and ``thread``, the start of its worker. Several: ``alloc+pages``.
    all_threads : bool
        Requests of every thread are eligible, not of the calling one only.

    Raises
    ------
    ValueError
        A value that is not allowed; the text says what is.
    MemcgError
        Faults are armed already, or this is the model core.
    """
    if core.name != "native":
        raise MemcgError("faults are injected into the native core; this is the model core")
    attr = make(
        nth=nth, probability=probability, seed=seed, times=times, size=size, cache=cache,
        group=getattr(group, "path", group), what=what,
    )  # fmt: skip
    return core.Faults(with_seed(attr), not all_threads)
