# SPDX-License-Identifier: Apache-2.0
"""The words of a loaded library through which it calls a function of its own.

An allocator that a library brings along is called through its table of addresses. The file says
where: each such word has a relocation, which the dynamic linker has worked off when the library
was loaded. A word can be found by the name of the function, and can be given another address.

Nothing is written unless each function has exactly one word and the word has the function's
address. A library that was built otherwise is left alone.
"""

from __future__ import annotations

import ctypes
import os
import struct

from ..core import PAGE_SIZE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

PT_LOAD, PF_X = 1, 1
SEGMENT = struct.Struct("<IIQQQQQQ")  # type, flags, offset, address, ...
SHT_SYMTAB, SHT_RELA, SHT_DYNSYM = 2, 4, 11
SECTION = struct.Struct("<IIQQQQIIQQ")  # name, type, flags, address, offset, size, link, ...
SYMBOL = struct.Struct("<IBBHQQ")  # name, info, other, section, value, size
RELA = struct.Struct("<QQq")  # place, info, addend
# R_X86_64_GLOB_DAT, JUMP_SLOT and RELATIVE; R_AARCH64_GLOB_DAT, JUMP_SLOT and RELATIVE
BY_SYMBOL, RELATIVE = {6, 7, 1025, 1026}, {8, 1027}
PROT_READ, PROT_WRITE = 1, 2


class Unknown(Exception):
    """The library is not as it was when its integration was written. The text says what differs."""


class Library:
    """The file of a shared library.

    Raises
    ------
    Unknown
        It is no 64-bit ELF file.
    OSError
        It cannot be read.
    """

    def __init__(self, path: str) -> None:
        import mmap

        self.path = path
        with open(path, "rb") as file:
            self.data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if self.data[:6] != b"\x7fELF\2\1":
            raise Unknown(f"{path} is no 64-bit ELF file")
        (at,) = struct.unpack_from("<Q", self.data, 40)
        size, n = struct.unpack_from("<HH", self.data, 58)
        self.tables: dict[tuple[int, ...], bytes] = {}
        self.sections = [SECTION.unpack_from(self.data, at + i * size) for i in range(n)]

    def names(self) -> Iterator[bytes]:
        """Yield the tables of the names of symbols. A name stands between two zero bytes."""
        for section in self.sections:
            if section[1] in (SHT_SYMTAB, SHT_DYNSYM):
                start, size = self.sections[section[6]][4:6]
                yield self.data[start : start + size]

    def words(self, names: tuple[str, ...]) -> list[int]:
        """Return the address of the word of each function.

        Raises
        ------
        Unknown
            The library is not loaded, a function has no word, or more than one, or the word has
            another address.
        """
        base = self._base()
        found = [(base + place, base + value) for place, value in map(self._word, names)]
        for name, (word, function) in zip(names, found, strict=True):
            if ctypes.c_uint64.from_address(word).value != function:
                raise Unknown(f"the word of {name} in {self.path} has another address")
        return [word for word, _ in found]

    def _base(self) -> int:
        """Return the difference between an address in memory and in the file."""
        (at,) = struct.unpack_from("<Q", self.data, 32)
        size, n = struct.unpack_from("<HH", self.data, 54)
        segments = [SEGMENT.unpack_from(self.data, at + i * size) for i in range(n)]
        for start, _, mode, file, offset in _maps():
            if file != self.path or "x" not in mode:  # a map of the file that is no code is others'
                continue
            for kind, flags, place, address, *_ in segments:
                if kind == PT_LOAD and flags & PF_X and offset <= place < offset + PAGE_SIZE:
                    base: int = start - address // PAGE_SIZE * PAGE_SIZE
                    return base
        raise Unknown(f"{self.path} is not loaded")

    def _word(self, name: str) -> tuple[int, int]:
        places, values = set(), set()
        for kind, index, value in self._symbols(name):
            values.add(value)
            places |= set(self._places(kind, index, value))
        if len(values) != 1 or len(places) != 1:
            raise Unknown(
                f"{name} has {len(values)} functions and {len(places)} words in {self.path}"
            )
        return places.pop(), values.pop()

    def _symbols(self, name: str) -> Iterator[tuple[int, int, int]]:
        """Yield (the table's type, its index there, its value) for each definition of `name`."""
        for section in self.sections:
            if section[1] not in (SHT_SYMTAB, SHT_DYNSYM):
                continue
            start, size = self.sections[section[6]][4:6]
            # linkers put the names of C code last, and a large library has 35 MB of names
            at = self.data.rfind(b"\0%s\0" % name.encode(), start, start + size)
            if at < 0:
                continue
            for i in self._find(section, struct.pack("<I", at + 1 - start), 0):
                _, _, _, where, value, _ = SYMBOL.unpack_from(self.data, section[4] + i)
                if where:  # it is defined here
                    yield section[1], i // SYMBOL.size, value

    def _places(self, kind: int, index: int, value: int) -> Iterator[int]:
        """Yield where the relocations of a function are."""
        for section in self.sections:
            if section[1] != SHT_RELA:
                continue
            for i in self._find(section, struct.pack("<q", value), 16):
                place, info, _ = RELA.unpack_from(self.data, section[4] + i)
                if info in RELATIVE:
                    yield place
            if kind == SHT_DYNSYM:
                for i in self._find(section, struct.pack("<I", index), 12):
                    place, info, _ = RELA.unpack_from(self.data, section[4] + i)
                    if info & 0xFFFFFFFF in BY_SYMBOL:
                        yield place

    def _find(self, section: tuple[int, ...], field: bytes, offset: int) -> Iterator[int]:
        """Yield where the entries of 24 bytes begin that have `field` at `offset`."""
        table = self.tables.get(section)
        if table is None:  # a copy, because bytes are searched ten times as fast as a map
            table = self.tables[section] = self.data[section[4] : section[4] + section[5]]
        at = table.find(field)
        while at >= 0:
            if at % RELA.size == offset:
                yield at - offset
            at = table.find(field, at + 1)


def loaded() -> set[str]:
    """Return the files whose code is mapped into this process."""
    return {path for _, _, mode, path, _ in _maps() if "x" in mode and path[:1] == "/"}


def _maps() -> Iterator[tuple[int, int, str, str, int]]:
    with open("/proc/self/maps", "rb") as maps:
        for line in maps:
            addresses, mode, offset, _, _, *path = os.fsdecode(line.rstrip(b"\n")).split(None, 5)
            start, end = (int(address, 16) for address in addresses.split("-"))
            yield start, end, mode, path[0] if path else "", int(offset, 16)


def _protection(address: int) -> int:
    for start, end, mode, _, _ in _maps():
        if start <= address < end:
            return sum(1 << bit for bit, letter in enumerate("rwx") if letter in mode)
    raise Unknown(f"nothing is mapped at {address:#x}")


def write(words: dict[int, int]) -> None:
    """Store an address at each of some words, and leave the pages as writable as they were.

    Notes
    -----
    Each store is one of 8 aligned bytes, so that another thread reads the old address or the new.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    pages = {word // PAGE_SIZE * PAGE_SIZE: 0 for word in words}
    for page in pages:
        pages[page] = _protection(page)
        if libc.mprotect(ctypes.c_void_p(page), PAGE_SIZE, PROT_READ | PROT_WRITE):
            raise Unknown(f"the table of addresses: {os.strerror(ctypes.get_errno())}")
    for word, address in words.items():
        ctypes.c_uint64.from_address(word).value = address
    for page, protection in pages.items():
        libc.mprotect(ctypes.c_void_p(page), PAGE_SIZE, protection)
