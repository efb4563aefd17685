# SPDX-License-Identifier: Apache-2.0
"""`inject` makes requests fail on purpose, to test what a program does then.

A *fail-nth* test makes the first request fail, then the second, and so on until none is left::

    for n in itertools.count(1):
        with faults.inject(nth=n) as injected, contextlib.suppress(MemoryError):
            operation()
        if not injected.faults:
            break
        # here the test checks that everything is as it was before

The environment can ask for it too: ``MEMCG_FAIL=nth=100,size=65536-1048576 memcg run app.py``.

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
    """Make requests fail inside ``with``. The attributes `eligible` and `faults` count them.

    Parameters
    ----------
    nth : int
        The number of the eligible request that fails, from 1. With `times` the requests after it
        fail too. Without `nth` and `probability` nothing fails, and requests are only counted.
    probability : float
        The probability, 0 to 1, with which each eligible request fails.
    seed : int
        The seed of the random choice. With the same seed the requests of the same numbers fail.
    times : int
        The largest number of faults. The default is 1 with `nth`, and no bound without.
    size : int or (int, int)
        Only requests of so many bytes are eligible; two numbers are the smallest and the largest.
        Without `size` and `cache`, requests of 1 KiB and less are not eligible unless a `KmemCache`
        makes them, because CPython does not survive everywhere that they fail.
    cache : str
        Only objects of this cache are eligible: ``"kmalloc-2048"``, or the name of a `KmemCache`.
    group : Group or str
        Only requests in this group and below are eligible.
    what : str or tuple of str
        The default ``alloc`` stands for requests for memory. ``metadata``, ``pages``, ``mmap``,
        ``madvise`` and ``thread`` (the start of a worker) are inside the core. ``alloc+pages``
        names several.
    all_threads : bool
        Requests of every thread are eligible, and not only those of the calling thread.

    Returns
    -------
    context manager
        Entering it arms the faults and leaving it disarms them.

    Raises
    ------
    ValueError
        A value is not allowed; the text says which are.
    MemcgError
        This is the model core. Entering raises it too, if faults are armed already.
    """
    if core.name != "native":
        raise MemcgError("faults are injected into the native core; this is the model core")
    attr = make(
        nth=nth, probability=probability, seed=seed, times=times, size=size, cache=cache,
        group=getattr(group, "path", group), what=what,
    )  # fmt: skip
    return core.Faults(with_seed(attr), not all_threads)
