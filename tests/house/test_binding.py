# SPDX-License-Identifier: Apache-2.0
"""The binding is built in floors: includes only point downward, and one file knows CPython."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import memcg

BINDING = next(Path(memcg.__file__).parent.rglob("compat.h")).parent
CYTHON = BINDING.parent  # the .pyx files lie where Python finds their modules
FLOORS = [  # bottom to top; a file includes its own header, and headers of the floors below
    {"plain", "tls"},
    {"compat"},
    {
        "blocks",
        "collecting",
        "collection",
        "constructor",
        "current",
        "dying",
        "frame",
        "map",
        "mutex",
        "opened",
        "pool",
        "sealed",
        "threads",
    },
    {"handler", "hooks", "refusal", "stacks", "survivor"},
    {"alarm", "numpy", "worker"},
    {"referrers", "throttle", "verdict"},
    {"delivery", "holders"},
]
HEIGHT = {name: height for height, floor in enumerate(FLOORS) for name in floor}
COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)
INCLUDE = re.compile(r'^\s*#\s*include\s+"(\w+)\.h"', re.MULTILINE)
# A declaration of another file's function would be a dependency that no include shows.
DECLARED = re.compile(r"^extern\b.*\(", re.MULTILINE)
PRIVATE = re.compile(
    r"PY_VERSION_HEX|PY_(?:MAJOR|MINOR)_VERSION|Py_BUILD_CORE|pycore_|<internal/"
    r"|\b_Py[A-Z]\w*|\btstate->"
)


def upward(name: str, text: str) -> set[str]:
    """Headers of this floor or above that a file includes."""
    return {
        other
        for other in INCLUDE.findall(text)
        if other != name and HEIGHT.get(other, -1) >= HEIGHT[name]
    }


def private(text: str) -> set[str]:
    """Return the names in a file that depend on CPython's version or private layout."""
    return set(PRIVATE.findall(COMMENT.sub("", text)))


def sources(*suffixes: str) -> list[Path]:
    found = [*BINDING.iterdir(), *CYTHON.iterdir()]
    return sorted(path for path in found if path.suffix in suffixes)


def test_every_file_has_a_floor_and_a_header():
    assert {path.stem for path in sources(".c")} == set(HEIGHT)
    assert {path.stem for path in sources(".h")} == set(HEIGHT)


@pytest.mark.parametrize("path", sources(".c", ".h"), ids=lambda path: path.name)
def test_includes_only_point_downward(path):
    assert upward(path.stem, path.read_text()) == set()


@pytest.mark.parametrize("path", sources(".c"), ids=lambda path: path.name)
def test_every_file_includes_its_own_header_first(path):
    assert INCLUDE.findall(path.read_text())[0] == path.stem


def test_an_upward_include_is_found():
    assert upward("worker", '#include "worker.h"\n#include "hooks.h"\n') == set()
    assert upward("worker", '#include "worker.h"\n#include "delivery.h"\n') == {"delivery"}
    assert upward("current", '#include "current.h"\n#include "frame.h"\n') == {"frame"}


@pytest.mark.parametrize("name", sorted(set(HEIGHT) - {"compat"}))
def test_no_function_is_declared_outside_its_header(name):
    assert DECLARED.findall(COMMENT.sub("", (BINDING / f"{name}.c").read_text())) == []


def test_a_function_that_is_declared_elsewhere_is_found():
    assert DECLARED.findall("extern void worker_wake(int kind);\n")


@pytest.mark.parametrize(
    "path",
    [path for path in sources(".c", ".h", ".pyx", ".pxd") if path.stem != "compat"],
    ids=lambda path: path.name,
)
def test_only_compat_knows_cpythons_version_and_private_layout(path):
    assert private(path.read_text()) == set()


def test_knowledge_of_cpythons_version_and_private_layout_is_found():
    assert private("#if PY_VERSION_HEX >= 0x030c0000\n") == {"PY_VERSION_HEX"}
    assert private("#include <internal/pycore_frame.h>\n") == {"<internal/", "pycore_"}
    assert private("if (tstate->async_exc)\n") == {"tstate->"}
    assert private("_PyErr_StackItem *item;\n") == {"_PyErr_StackItem"}
    assert private("/* as _PyErr_StackItem is */ PyErr_Clear();\n") == set()
