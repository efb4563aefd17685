# SPDX-License-Identifier: Apache-2.0
"""Make mutants of a C file of ``native/``, each with one change, for `native_mutants.py`.

The rules know the primitives of ``atomic.h``, the locks, the counters and the lists. They read the
source as it is formatted here, and they are no parser of C: a statement ends at a semicolon outside
parentheses, and a function begins in the first column. The number of lines never changes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

# A call that stands as a statement is dropped if it is one of these.
DROPPED = re.compile(
    r"(?:compiler_fence|barrier_everywhere|memcg_synchronize|thread_steal_\w+|thread_collect"
    r"|\w*uncharge|page_counter_\w+|memcg_charge|give_back|heap_drain_stock|memcg_stat_add"
    r"|mem_cgroup_note_\w+|count_unpromoted|grow_shared_limit|publish_\w+|event_post"
    r"|css_\w+|objcg_\w+|shared_\w+|slab_put\w*|slab_collect|slab_set_\w+|slab_destroy"
    r"|sheaf_\w+|memset|hlist_\w+|set_page_slab|free_pages|metadata_free"
    r"|store_\w+|add_\w+|sub_\w+|exchange_\w+|fetch_or_\w+)\("
)
FIELD = re.compile(r"(?:\*\w+|\w+(?:(?:->|\.)\w+|\[[^]]*\])+) (?:[-+|&*/]|<<|>>)?= ")
COUNTER = re.compile(r"(?:\+\+|--)?[\w>.-]+(?:\[\w+\])?(?:\+\+|--)?;$")
STORE = re.compile(r"(?:store|add|sub|exchange|fetch_or)_\w+\(")
SEEN = re.compile(r"(?:store_(?!plain)|add_|sub_|exchange_|fetch_or_)")  # others may see it at once
ORDERED = re.compile(
    r"\b((?:load|store|exchange|add|sub|fetch_or|cas_weak)_)(acquire|release|acq_rel|seq_cst)\("
)
AMOUNT = re.compile(r"\b(?:add|sub)_(?:relaxed|release|acq_rel|seq_cst)\(")
# What another thread could notice, so that ThreadSanitizer could.
SHARED = re.compile(
    r"(?:load|store|exchange|add|sub|fetch_or|cas_weak)_\w+\(|fence|barrier|steal|synchronize"
)
LOCK = re.compile(r"\bmutex_(?:un)?lock\((&[^;]*)\)")
HEADER = re.compile(r"(?:if|while|for|switch|for_each_\w+|hlist_for_each_\w+) ?\(")
PREFIX = re.compile(r"(?:else|do)\b|(?:case [^:;]+|default):")
FUNCTION = re.compile(r"^[a-z][\w \*]*?\b(\w+)\([^;{}]*\)[^;{}()]*\{", re.M)
# Code that only the sanitizer or the asserts of a debug build have.
CONDITIONAL = re.compile(
    r"^#ifdef (?:__SANITIZE_THREAD__|MEMCG_DEBUG_VM)\n(.*?)^#(?:else|endif)", re.M | re.S
)
# Comments, strings, characters, and lines of the preprocessor.
OPAQUE = re.compile(
    r"/\*.*?\*/|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])+'|^#(?:[^\n]*\\\n)*[^\n]*", re.M | re.S
)


class Mutant(NamedTuple):
    """One change.

    Attributes
    ----------
    name : str
        ``file.function:operator:n``, where n counts the operator's places in the function.
    edits : tuple
        Texts to put in place of others: where each begins and ends in the file, and what it
        becomes.
    """

    name: str
    file: str
    function: str
    operator: str
    original: str
    edits: tuple[tuple[int, int, str], ...]

    @property
    def source(self) -> str:
        """Return the whole file, changed. It has as many lines as before."""
        text = self.original
        for begin, end, becomes in sorted(self.edits, reverse=True):
            lines = text.count("\n", begin, end) - becomes.count("\n")
            text = text[:begin] + becomes + "\n" * lines + text[end:]
        return text

    @property
    def races(self) -> bool:
        """Tell whether the change may be one of what threads share."""
        return self.operator not in ("drop", "off") or any(
            SHARED.search(self.original, begin, end) for begin, end, _ in self.edits
        )


class Statement(NamedTuple):
    """A statement that ends with a semicolon, or the header of an ``if`` or a loop."""

    begin: int
    end: int
    header: str  # if, while, ...; empty: a statement
    block: int  # where its block begins


def blank(found: re.Match[str]) -> str:
    return re.sub(r"[^\n]", " ", found[0])


def masked(text: str) -> str:
    """Return the text with blanks for what is no code, or not that of every build."""
    text = OPAQUE.sub(blank, CONDITIONAL.sub(blank, text))
    return re.sub(r"\bMEMCG_ASSERT\((?:[^;]*)\);|\bassert_\w+\([^;]*\);", blank, text)


def closing(code: str, at: int) -> int:
    """Return the place of the bracket that closes the one at `at`."""
    depth = 0
    for i in range(at, len(code)):
        depth += (code[i] in "({[") - (code[i] in ")}]")
        if not depth:
            return i
    raise ValueError(f"no bracket closes the one in {code[at : at + 40]!r}")


def statements(code: str, begin: int, end: int) -> Iterator[Statement]:
    """Return the statements and headers between two places of a masked text."""
    blocks, at = [begin], begin
    while at < end:
        if code[at].isspace() or code[at] == ";":
            at += 1
        elif code[at] == "{":
            blocks.append(at)
            at += 1
        elif code[at] == "}":
            blocks.pop()
            at += 1
        elif found := HEADER.match(code, at):
            last = closing(code, found.end() - 1)
            yield Statement(found.end(), last, found[0].rstrip(" ("), blocks[-1])
            at = last + 1
        elif found := PREFIX.match(code, at):
            at = found.end()
        else:
            last = at
            while code[last] != ";":
                last = closing(code, last) if code[last] in "({[" else last
                last += 1
            yield Statement(at, last + 1, "", blocks[-1])
            at = last + 1


def operands(code: str, begin: int, end: int) -> list[tuple[int, int, int, str]]:
    """Return the operands of the outermost && or ||, each with the operator to drop with it."""
    cuts, depth = [], 0
    for i in range(begin, end):
        depth += (code[i] in "({[") - (code[i] in ")}]")
        if not depth and code[i : i + 2] in ("&&", "||"):
            cuts.append((i, code[i : i + 2]))
    if not cuts or len({operator for _, operator in cuts}) > 1:
        return []
    edges = [begin, *(i + 2 for i, _ in cuts)]
    ends = [*(i for i, _ in cuts), end]
    neutral = "1" if cuts[0][1] == "&&" else "0"
    return [(i, a, b, neutral) for i, (a, b) in enumerate(zip(edges, ends, strict=True))]


def changes(
    source: str, code: str, s: Statement, before: Statement | None
) -> Iterator[tuple[str, list[tuple[int, int, str]]]]:
    """Return the changes that can be made to a statement: the operator and its edits."""
    text, written = code[s.begin : s.end], source[s.begin : s.end]
    if s.header == "if":
        yield "never", [(s.begin, s.end, f"0 && ({written})")]
        yield "negate", [(s.begin, s.end, f"!({written})")]
    if s.header in ("if", "while"):
        for i, begin, end, neutral in operands(code, s.begin, s.end):
            yield f"without{i}", [(begin, end, f" {neutral} ")]
    for found in ORDERED.finditer(text):
        begin = s.begin + found.start()
        yield "order", [(begin, begin + len(found[0]), f"{found[1]}relaxed(")]
    for found in AMOUNT.finditer(text):
        last = closing(code, s.begin + found.end() - 1)
        yield "off", [(last, last, " + 1")]
    if s.header:
        return
    store = bool(STORE.match(text) or FIELD.match(text))
    if store or DROPPED.match(text) or COUNTER.match(text):
        yield "drop", [(s.begin, s.end, ";")]
    if before and before.block == s.block and store:
        earlier = code[before.begin : before.end]
        seen = SEEN.match(text) or SEEN.match(earlier)
        if seen and (STORE.match(earlier) or FIELD.match(earlier)):
            first = source[before.begin : before.end]
            yield "swap", [(before.begin, before.end, written), (s.begin, s.end, first)]


def mutants_of(file: str, source: str) -> list[Mutant]:
    """Return every mutant of one file. What only checks the structures is left as it is."""
    code, made = masked(source), []
    for function in FUNCTION.finditer(code):
        if function[1].endswith("_is_valid"):
            continue
        begin = function.end()
        end = closing(code, begin - 1)
        before, places = None, []
        for s in statements(code, begin, end):
            places += changes(source, code, s, before)
            before = None if s.header else s
        locks: dict[str, list[tuple[int, int, str]]] = {}
        for found in LOCK.finditer(code, begin, end):
            locks.setdefault(found[1], []).append((*found.span(), "(void)0"))
        places += [("unlocked", edits) for edits in locks.values()]
        count: dict[str, int] = {}
        for operator, edits in places:
            count[operator] = count.get(operator, 0) + 1
            name = f"{file}.{function[1]}:{operator}:{count[operator]}"
            made.append(Mutant(name, file, function[1], operator, source, tuple(edits)))
    return made
