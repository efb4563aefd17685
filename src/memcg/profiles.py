# SPDX-License-Identifier: Apache-2.0
"""What lives, by call stack, in the formats of other people's viewers.

pprof's ``profile.proto`` has eight small messages. They are written by hand here, because no
library on PyPI that writes them is kept, and generated code would pin a release of protobuf
(docs/decisions/0049). The tests decode the bytes by the rules of the wire format.
"""

from __future__ import annotations

import gzip
import json
import time
from typing import TYPE_CHECKING, Any

from .sites import frame_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .sites import Frame, Site, Sites


def _rows(found: Sites) -> Iterable[tuple[str, Site]]:
    return ((site.group or "/", site) for site in found.sites)


# -- speedscope


def speedscope(found: Sites, name: str) -> dict[str, Any]:
    """Return a profile for https://www.speedscope.app, whose unit is bytes.

    The outermost frame is the group. Format: speedscope's file-format-schema.json.
    """
    index: dict[tuple[str, str, int], int] = {}
    samples, weights = [], []
    for group, site in _rows(found):
        stack = [index.setdefault((f"group {group}", "", 0), len(index))]
        stack += [index.setdefault((f.function, f.file, f.line), len(index)) for f in site.stack]
        samples.append(stack)
        weights.append(site.nbytes)
    frames = [
        {"name": function, **({"file": file} if file else {}), **({"line": line} if line else {})}
        for function, file, line in index
    ]
    return {
        "$schema": "https://www.speedscope.app/file-format-schema.json",
        "exporter": "memcg", "name": name, "activeProfileIndex": 0, "shared": {"frames": frames},
        "profiles": [{
            "type": "sampled", "name": name, "unit": "bytes", "startValue": 0,
            "endValue": sum(weights), "samples": samples, "weights": weights,
        }],
    }  # fmt: skip


# -- stacks in lines


def folded(found: Sites) -> str:
    """Return a line for each stack, ``group;outer;inner bytes``, for flamegraph.pl and inferno."""
    return "".join(
        f"{';'.join(_no_semicolon(t) for t in (group, *map(frame_text, site.stack)))} "
        f"{site.nbytes}\n"
        for group, site in _rows(found)
    )


def _no_semicolon(text: str) -> str:
    return text.replace(";", ",").replace("\n", " ")


# -- pprof


def _varint(n: int) -> bytes:
    n &= (1 << 64) - 1
    out = bytearray()
    while n > 0x7F:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    out.append(n)
    return bytes(out)


def _int(field: int, n: int) -> bytes:
    return _varint(field << 3) + _varint(n) if n else b""


def _bytes(field: int, data: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(data)) + data


def _packed(field: int, numbers: Iterable[int]) -> bytes:
    return _bytes(field, b"".join(map(_varint, numbers)))


class _Profile:
    """A profile.proto that is being written. Strings, functions and locations have numbers."""

    def __init__(self) -> None:
        self.strings = {"": 0}
        self.functions: dict[tuple[str, str, int], int] = {}
        self.locations: dict[Frame, int] = {}

    def string(self, text: str) -> int:
        return self.strings.setdefault(text, len(self.strings))

    def location(self, frame: Frame) -> int:
        function = (frame.function, frame.file, frame.first_line)
        self.functions.setdefault(function, len(self.functions) + 1)
        return self.locations.setdefault(frame, len(self.locations) + 1)

    def value_type(self, kind: str, unit: str) -> bytes:
        return _int(1, self.string(kind)) + _int(2, self.string(unit))

    def sample(self, group: str, site: Site) -> bytes:
        label = _int(1, self.string("group")) + _int(2, self.string(group))
        return (
            _packed(1, [self.location(f) for f in reversed(site.stack)])
            + _packed(2, [site.blocks, site.nbytes])
            + _bytes(3, label)
        )

    def tables(self) -> bytes:
        """Return the locations, functions and strings. The samples were made before."""
        parts = []
        for frame, number in self.locations.items():
            function = self.functions[frame.function, frame.file, frame.first_line]
            line = _int(1, function) + _int(2, frame.line)
            parts.append(_bytes(4, _int(1, number) + _bytes(4, line)))
        for (name, file, first_line), number in self.functions.items():
            text = self.string(name)
            parts.append(_bytes(5, _int(1, number) + _int(2, text) + _int(3, text)
                                + _int(4, self.string(file)) + _int(5, first_line)))  # fmt: skip
        parts += [_bytes(6, text.encode("utf-8", "replace")) for text in self.strings]
        return b"".join(parts)


def pprof(found: Sites) -> bytes:
    """Return a profile for ``go tool pprof`` and what reads its files: profile.proto, gzipped.

    The sample types are ``inuse_objects`` and ``inuse_space``, as those of Go's heap profiles are.
    The group is the label ``group``.
    """
    profile = _Profile()
    types = [_bytes(1, profile.value_type("inuse_objects", "count")),
             _bytes(1, profile.value_type("inuse_space", "bytes"))]  # fmt: skip
    samples = [_bytes(2, profile.sample(group, site)) for group, site in _rows(found)]
    period = profile.value_type("space", "bytes")
    default = profile.string("inuse_space")
    return gzip.compress(b"".join((
        *types, *samples, profile.tables(), _int(9, time.time_ns()), _bytes(11, period),
        _int(12, found.every), _int(14, default),
    )))  # fmt: skip


# -- files

KINDS: dict[str, Callable[[Sites, str], bytes]] = {
    ".speedscope.json": lambda found, name: json.dumps(speedscope(found, name)).encode(),
    ".pb.gz": lambda found, name: pprof(found),
    ".folded": lambda found, name: folded(found).encode("utf-8", "replace"),
}


def encode(found: Sites, path: str, name: str) -> bytes:
    """Return a profile in the format that the end of the file's name asks for.

    Raises
    ------
    ValueError
        No format has such an end.
    """
    return encoder_of(path)(found, name)


def encoder_of(path: str) -> Callable[[Sites, str], bytes]:
    """Return what writes the format that the end of a file's name asks for, or raise ValueError."""
    for end, encoder in KINDS.items():
        if path.endswith(end):
            return encoder
    raise ValueError(
        f"{path!r}: the end of the name tells the format; it is one of {', '.join(KINDS)}"
    )
