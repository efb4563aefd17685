# SPDX-License-Identifier: Apache-2.0
"""What holds a group's memory: kinds of objects with what belongs to them, and the biggest by name.

`core/binding/holders.c` finds the object that owns a block, and `core/binding/referrers.c` finds
what refers to an object. This module makes text of it. It runs no code of the program whose objects
they are: it calls no ``repr``, reads no attribute that a class may have defined and compares
nothing. All texts are short.
"""

from __future__ import annotations

import time
from array import array
from collections import Counter, deque
from itertools import islice
from typing import Any, NamedTuple

from . import core
from .control.cgroup import cgroup, subtree
from .core import mem_cgroup_get_limit
from .sizes import format_size

KINDS_SHOWN = 20
TEXT_MAX = 60  # characters of a name or value
VALUE_MAX = 12  # characters or bytes of a value
ITEMS_SHOWN = 3  # how many items of a container are shown
_HEAPTYPE, _IMMUTABLE = 1 << 9, 1 << 8  # in tp_flags; a class written in Python has only the first
_UNKNOWN = "memory of C code"
_SIZED = (str, bytes, bytearray, list, tuple, dict, set, frozenset, deque, array)

# These are `type`'s own, so that a metaclass cannot change what they return.
_flags = type.__dict__["__flags__"].__get__
_mro = type.__dict__["__mro__"].__get__
_qualname = type.__dict__["__qualname__"].__get__
_module = type.__dict__["__module__"].__get__


class Holder(NamedTuple):
    """Objects of one kind, and the bytes that belong to them."""

    kind: str
    objects: int
    nbytes: int


class Big(NamedTuple):
    """One object, with the bytes that belong to it and a text that says what refers to it."""

    kind: str
    nbytes: int
    text: str


class Holders(NamedTuple):
    """What holds a group's memory. The biggest is first."""

    blocks: int
    kinds: list[Holder]
    objects: list[Big]

    @property
    def biggest(self) -> list[str]:
        """The texts of the biggest objects."""
        return [big.text for big in self.objects]


def holders(memcg: core.Memcg) -> Holders:
    """Name what is charged to the group itself.

    Notes
    -----
    Context: the GIL is held throughout, so every other Python thread waits, as for
    ``gc.collect()``.
    """
    core.stop_account()
    try:
        if core.name != "native":
            return _holders_of_buffers(memcg)
        blocks, kinds, biggest = core.scan(memcg, _all_types())
        sums: Counter[str] = Counter()
        counts: Counter[str] = Counter()
        for kind, objects, nbytes in kinds:
            name = _kind_name(kind)
            counts[name] += objects
            sums[name] += nbytes
        return Holders(
            blocks,
            [Holder(name, counts[name], nbytes) for name, nbytes in sums.most_common()],
            [Big(_kind_name(big[1]), big[2], _line(*big)) for big in biggest],
        )
    finally:
        core.resume_account()


def held_by(memcg: core.Memcg) -> dict[str, Any]:
    """Return `holders` for JSON. ``rest`` is the bytes of the kinds that are left out."""
    held = holders(memcg)
    return {
        "blocks": held.blocks,
        "kinds": [h._asdict() for h in held.kinds[:KINDS_SHOWN]],
        "rest": sum(h.nbytes for h in held.kinds[KINDS_SHOWN:]),
        "objects": [big._asdict() for big in held.objects],
    }


def sites_of(memcg: core.Memcg) -> dict[str, Any] | None:
    """Return which code allocated what lives, for JSON; None: nothing is traced."""
    if not _is_traced(memcg):
        return None
    from . import sites  # not before it is needed

    return sites.read(memcg).as_dict()


def _is_traced(memcg: core.Memcg) -> bool:
    """Tell whether samples are taken or live. If so, `memcg.trace` has imported `sites`.

    An import of it makes named tuples, which use eval(). At the end of a program an eval() makes
    CPython forget that a KeyboardInterrupt has ended it.
    """
    return core.name == "native" and bool(
        core.mem_cgroup_sampling(memcg) or core.mem_cgroup_samples(memcg)[0]
    )


def _holders_of_buffers(memcg: core.Memcg) -> Holders:
    blocks = core.live_blocks(memcg)
    counts = Counter(cache for _, _, cache in blocks)
    kinds = [Holder(_kind_name(c), n, n * c.size) for c, n in counts.items() if c is not None]
    return Holders(len(blocks), sorted(kinds, key=lambda h: -h.nbytes), [])


def _all_types() -> list[type]:
    found: dict[int, type] = {id(object): object}
    waiting: list[type] = [object]
    cls: type
    while waiting:
        for cls in type.__subclasses__(waiting.pop()):
            if id(cls) not in found:
                found[id(cls)] = cls
                waiting.append(cls)
    return list(found.values())


# -- names


def _kind_name(kind: Any) -> str:
    if kind is None:
        return _UNKNOWN
    if _base(type(kind), core.Cache):
        return f"buffer of {_cut(repr((kind.root_cache or kind).name))}"
    return _type_name(kind)


def _type_name(cls: type) -> str:
    name = _cut(_qualname(cls))
    if _flags(cls) & (_HEAPTYPE | _IMMUTABLE) != _HEAPTYPE:
        return name
    try:
        module = _module(cls)
    except AttributeError:  # the program deleted it
        return name
    if type(module) is not str or module in ("__main__", "builtins"):
        return name
    return f"{_cut(module)}.{name}"


def _cut(text: str) -> str:
    text = str.__str__(text)  # makes a plain str of a subclass's
    text = text[:TEXT_MAX] + "..." * (len(text) > TEXT_MAX)
    return text if text.isprintable() else text.encode("unicode_escape").decode()


def _base(cls: type, *bases: type) -> type | None:
    """Return the first of `bases` that `cls` is or derives from.

    It uses neither ``issubclass`` nor ``==``, which may run the program's code.
    """
    return next((base for base in bases if any(c is base for c in _mro(cls))), None)


# -- values


def _value(o: Any, *, nested: bool = False) -> str:
    """Return a short text for a value of a builtin type, and the name of its class for others."""
    cls = type(o)
    if cls is str or cls is bytes or cls is bytearray:
        head = o[:VALUE_MAX]
        return repr(head if cls is str else bytes(head)) + "..." * (len(o) > VALUE_MAX)
    if cls is int:
        return repr(o) if o.bit_length() <= 128 else f"an int of {o.bit_length():,} bits"
    if o is None or cls is bool or cls is float or cls is complex:
        return repr(o)
    if cls is list or cls is tuple:
        left, right = "[]" if cls is list else "()"
    elif cls is dict or cls is set or cls is frozenset:
        left, right = "{}"
    else:
        return f"<{_type_name(cls)}>"
    if nested:
        return f"{left}...{right}" if o else left + right
    try:
        shown = [_value(item, nested=True) for item in islice(o, ITEMS_SHOWN)]
    except RuntimeError:  # another thread changed it meanwhile
        shown = []
    return left + ", ".join(shown) + ", ..." * (len(o) > ITEMS_SHOWN) + right


def _described(o: Any) -> tuple[str, str]:
    """Return what an object is, and its value."""
    cls = type(o)
    name = _type_name(cls)
    if ndarray := _array_class(cls):
        return f"{name} {_shape(ndarray, o)}", ""
    if base := _base(cls, *_SIZED):
        value = _value(o) if base is cls and base not in (deque, array) else ""
        return f"{name} of {base.__len__(o):,}", value  # type: ignore[attr-defined]
    if cls is int:
        return f"int of {o.bit_length():,} bits", ""
    if _base(cls, type):
        return f"class {_type_name(o)}", ""
    return name, ""


def describe(o: Any) -> str:
    """Return what an object is, such as ``list of 3``, without running code of its class."""
    return _described(o)[0]


def _array_class(cls: type) -> Any:
    """Return NumPy's ndarray if `cls` is or derives from it."""
    for c in _mro(cls):
        if _qualname(c) == "ndarray" and not _flags(c) & _HEAPTYPE and _module(c) == "numpy":
            return c
    return None


def _shape(ndarray: Any, o: Any) -> str:
    names = ndarray.__dict__  # not the attributes of `o`: a subclass may have defined others
    dtype = names["dtype"].__get__(o)
    text = dtype.str if dtype.kind in "SUVMm" else _type_name(dtype.type).removeprefix("numpy.")
    return f"{'x'.join(map(str, names['shape'].__get__(o))) or '()'} {_cut(text)}"


# -- lines


def _line(
    o: Any, kind: Any, nbytes: int, guessed: bool, path: list[tuple[Any, str, Any]] | None
) -> str:
    what, value = (_kind_name(kind), "") if guessed else _described(o)
    if guessed and path is not None:  # `o` is not the owner, but refers to it
        path = [(o, "in", None), *path]
    who = ", ".join(_hops(path or [])) or "C code"
    return f"{what}, {format_size(nbytes)}{value and f' {value}'}: {who}"


def _hops(path: list[tuple[Any, str, Any]]) -> list[str]:
    texts: list[str] = []
    at = 0
    while at < len(path):
        owner, how, name = path[at]
        above = path[at + 1] if at + 1 < len(path) else None
        if how == "key" and above is not None and above[1] == "dict":  # a key of a __dict__
            owner, how = above[0], "attribute"
            at += 1
        at += 1
        texts.append(_hop(owner, how, name))
    return texts


def _hop(owner: Any, how: str, name: Any) -> str:
    if how == "global":
        return f"global {_value(name)} of module {_cut(owner)}"
    if how == "local":
        place = f"{_cut(str.__str__(owner.co_filename)[-TEXT_MAX:])}:{owner.co_firstlineno}"
        return f"local {_value(name)} of {_cut(owner.co_qualname)} ({place})"
    text = f"class {_type_name(owner)}" if _base(type(owner), type) else _type_name(type(owner))
    if how == "dict":
        return f"__dict__ of {text}"
    return f"in {text}" if how == "in" else f"{how} {_value(name)} of {text}"


def report(group: cgroup) -> str:
    """Return the account of a group as text. See `Group.report`."""
    start = time.perf_counter()
    lines = []
    for g in subtree(group):
        state = "" if g.online else " (closed)"
        events = ", ".join(f"{k} {v}" for k, v in g.events.items() if v)
        lines.append(
            f"{g.path or '/'}{state}: current {format_size(g.current)}, "
            f"peak {format_size(g.peak)}, max {format_size(mem_cgroup_get_limit(g, 'max'))}"
            + (f"; events: {events}" if events else "")
        )
    held = holders(group)
    blocks, kinds, biggest = held.blocks, held.kinds, held.biggest
    name = group.path or "/"
    nbytes = sum(h.nbytes for h in kinds)
    lines.append(f"held by {name} itself: {format_size(nbytes)}" if kinds else "nothing is held")
    for kind, objects, nbytes in kinds[:KINDS_SHOWN]:
        lines.append(f"  {format_size(nbytes):>10}  {objects:>9,} x {kind}")
    if rest := kinds[KINDS_SHOWN:]:
        nbytes = sum(h.nbytes for h in rest)
        lines.append(f"  {format_size(nbytes):>10}  in {len(rest)} more kinds")
    if biggest:
        lines.append("the biggest, and what refers to them:")
        lines += [f"  {line}" for line in biggest]
    if _is_traced(group):
        from . import sites  # not before it is needed

        lines += sites.lines(sites.read(group))
    lines.append(f"took {time.perf_counter() - start:.2f} s for {blocks:,} blocks")
    return "\n".join(lines) + "\n"
