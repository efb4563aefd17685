# SPDX-License-Identifier: Apache-2.0
"""native/ is built in floors: README.md names them, and nothing includes or calls upward."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

NATIVE = Path(__file__).parents[2] / "native"

# Declared on a floor below its definition: the first entry of a thread makes its heaps.
UP = {"thread_enter_slow"}


def without_comments(text: str) -> str:
    return re.sub(r'/\*.*?\*/|"(\\.|[^"\\])*"', "", text, flags=re.DOTALL)


def floors(native: Path) -> dict[str, int]:
    """File name -> floor, from README.md's table; a name without a suffix is both .h and .c."""
    found: dict[str, int] = {}
    for number, files in re.findall(
        r"^\| (\d+) \| (.*?) \|", (native / "README.md").read_text(), re.MULTILINE
    ):
        for name in re.findall(r"`([\w.]+)`", files):
            for file in [name] if "." in name else [f"{name}.h", f"{name}.c"]:
                assert file not in found, f"{file} stands on two floors"
                found[file] = int(number)
    return found


def sources(native: Path) -> list[Path]:
    return [*sorted(native.glob("*.[ch]")), *sorted(native.glob("preload/*.[ch]"))]


def files(native: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in sources(native)}


def is_same(file: str, other: str) -> bool:
    """Tell whether the names are a source and its header, or one file."""
    return file.rsplit(".", 1)[0] == other.rsplit(".", 1)[0]


def upward_includes(native: Path) -> list[str]:
    """Return includes of headers that are not on a lower floor; a file's own header is allowed."""
    floor = floors(native)
    return [
        f"{file} ({floor[file]}) includes {header} ({floor[header]})"
        for file, text in files(native).items()
        for header in re.findall(r'^#include "(\w+\.h)"', text, re.MULTILINE)
        if not is_same(file, header) and floor[header] >= floor[file]
    ]


def definitions(native: Path) -> dict[str, str]:
    """Function that other files can call -> the file that defines it."""
    found = {}
    for file, text in files(native).items():
        for line, name in re.findall(
            r"^((?:[a-z]\w*[ \*]+)+(\w+)\([^;{}]*\))\s*\{", without_comments(text), re.MULTILINE
        ):
            if file.endswith(".h") or not line.startswith("static"):
                found[name] = file
    return found


def upward_calls(native: Path) -> list[str]:
    """Return calls of what is not on a lower floor. memcg.h declares functions of all floors."""
    floor, defined = floors(native), definitions(native)
    return [
        f"{file} ({floor[file]}) calls {name} of {defined[name]} ({floor[defined[name]]})"
        for file, text in files(native).items()
        if file != "memcg.h"
        for name in sorted(set(re.findall(r"\b(\w+)\(", bodies(text))))
        if name in defined and name not in UP and not is_same(file, defined[name])
        if floor[defined[name]] >= floor[file]
    ]


def bodies(text: str) -> str:
    """Return the bodies of functions, which hold calls and no declarations."""
    found = re.findall(
        r"^\{(.*?)^\}|\{([^\n]*)\}$", without_comments(text), re.DOTALL | re.MULTILINE
    )
    return "\n".join(block or line for block, line in found)


def circles(native: Path) -> list[str]:
    """Return files that include each other in a circle, on any floors."""
    texts = files(native)
    includes = {
        file: set(re.findall(r'^#include "(\w+\.h)"', text, re.MULTILINE)) - {file}
        for file, text in texts.items()
    }

    def reached(start: str) -> set[str]:
        seen, todo = set(), list(includes[start])
        while todo:
            if (header := todo.pop()) not in seen:
                seen.add(header)
                todo.extend(includes.get(header, ()))
        return seen

    return [file for file in texts if file in reached(file)]


def wrong(native: Path) -> list[str]:
    """Return everything that the floors forbid."""
    return upward_includes(native) + upward_calls(native) + circles(native) + not_first(native)


def test_the_readme_names_every_file_and_no_other():
    assert floors(NATIVE).keys() == files(NATIVE).keys()


def test_nothing_includes_or_calls_upward():
    assert not wrong(NATIVE)


def test_calls_and_definitions_are_found():
    defined = definitions(NATIVE)
    assert len(defined) > 200
    for name, file in {
        "section_begin": "section.h",
        "alloc_pages": "page_alloc.c",
        "css_get": "css.c",
        "memcg_malloc": "kmalloc.c",
        "thread_enter_slow": "thread.c",
    }.items():
        assert defined[name] == file
    for file, text in files(NATIVE).items():
        if file == "charge.c":
            assert "page_counter_try_charge(" in bodies(text)


def test_the_one_call_up_is_declared():
    text = files(NATIVE)["section.h"]
    assert all(re.search(rf"\b{name}\(void\);", text) for name in UP)
    assert all(definitions(NATIVE)[name] == "thread.c" for name in UP)


def locks(native: Path) -> set[tuple[str, str]]:
    """Return the (name, file) of every mutex that is a variable."""
    return {
        (name, file)
        for file, text in files(native).items()
        for name in re.findall(r"^(?:static )?struct mutex (\w+) = ", text, re.MULTILINE)
    }


def told_locks(native: Path) -> set[tuple[str, str]]:
    return set(
        re.findall(
            r"^\| `(\w+)` \| `([\w.]+)` \|", (native / "README.md").read_text(), re.MULTILINE
        )
    )


def test_the_readme_has_every_lock(copy):
    assert locks(NATIVE) == told_locks(NATIVE)
    assert len(locks(NATIVE)) >= 10
    fields = re.findall(r"^    struct mutex (\w+);", files(NATIVE)["types.h"], re.MULTILINE)
    assert fields == ["lock"]  # a cache's
    assert "| `cache->lock` |" in (NATIVE / "README.md").read_text()
    change(
        copy / "sheaf.c", '#include "debug.h"', "static struct mutex cellar = MUTEX_INITIALIZER;"
    )
    assert locks(copy) - told_locks(copy) == {("cellar", "sheaf.c")}


def not_first(native: Path) -> list[str]:
    """Return sources that include something before the header that declares them."""
    texts, found = files(native), []
    for file, text in texts.items():
        own = f"{file.removesuffix('.c')}.h"
        top = "malloc.h" if (native / "preload" / file).exists() else "memcg.h"
        expected = own if own in texts else top  # all its functions are public
        first = re.search(r'^#include ["<]([\w./]+)[">]', text, re.MULTILINE)
        if file.endswith(".c") and (first is None or first[1] != expected):
            found.append(f"{file} does not begin with {expected}")
    return found


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    (tmp_path / "preload").mkdir()
    for path in [*sources(NATIVE), NATIVE / "README.md"]:
        shutil.copy(path, tmp_path / path.relative_to(NATIVE))
    assert not wrong(tmp_path)
    return tmp_path


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) >= 1
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("file", "old", "new", "finding"),
    [
        ("slab.c", '#include "slab.h"', '#include "slab.h"\n#include "heap.h"', "includes heap.h"),
        ("css.c", '#include "arena.h"', '#include "page_alloc.h"', "includes page_alloc.h"),
        ("css.c", '#include "css.h"', '#include <stdio.h>\n#include "css.h"', "begin with css.h"),
        ("list.h", "#include <stdbool.h>", '#include "types.h"', "includes types.h"),
        (
            "charge.c",
            "    assert_any_section();",
            "    mem_cgroup_reclaim(memcg);",
            "calls mem_cgroup_reclaim of reclaim.c",
        ),
        (
            "section.h",
            "{ store_release(&self->busy, 0); }",
            "{ shared_flush(self); }",
            "calls shared_flush of shared.c",
        ),
    ],
)
def test_an_upward_include_or_call_is_found(copy, file, old, new, finding):
    change(copy / file, old, new)
    assert any(line.startswith(file) and finding in line for line in wrong(copy)), wrong(copy)


def test_a_circle_is_found(copy):
    change(copy / "types.h", '#include "list.h"', '#include "list.h"\n#include "section.h"')
    assert {"types.h", "section.h"} <= set(circles(copy))


def test_a_file_that_the_readme_does_not_name_is_found(copy):
    (copy / "cellar.c").write_text("int cellar;\n")
    assert floors(copy).keys() != files(copy).keys()
    change(copy / "README.md", "`sheaf`", "`sheaf` `attic`")
    assert "attic.c" in floors(copy)
    assert floors(copy).keys() - files(copy).keys() == {"attic.h", "attic.c"}
