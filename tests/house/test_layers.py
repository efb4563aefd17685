# SPDX-License-Identifier: Apache-2.0
"""The layers of docs/design.md: imports only point downward, and only `locking` starts threads."""

from __future__ import annotations

import ast
import io
import re
import shutil
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest

import memcg
from memcg.control import slab_common

SOURCE = Path(memcg.__file__).parent
LAYERS = [  # bottom to top; the modules of one row may import each other
    {"errors", "sizes", "names"},
    {"pages"},
    {"locking"},
    {"core"},
    {"faults", "oom", "page"},
    {"control"},
    {"report", "files", "display", "sites", "profiles"},
    {"groups"},
    {"cache", "publisher", "server", "tracing"},
    {"integrations"},
    {"hooks"},
    {"__init__"},
    {
        "asgi",
        "celery",
        "dask",
        "django",
        "flask",
        "futures",
        "gunicorn",
        "marimo",
        "otel",
        "prometheus",
        "pytest_plugin",
        "wsgi",
    },
    {"verify"},  # only `verify/scheme` needs the rows below
    {"cli"},
    {"__main__"},
]
# The layers inside the folders that have an order.
INSIDE = {
    "locking": [{"lockdep", "lockless", "__init__"}],
    "core": [
        {"dataplane", "fault_attr"}, {"_errors", "_faults", "model"}, {"_groups"},
        {"_bound", "_caches", "_samples", "_spares"}, {"_core"}, {"__init__"},
    ],
    "control": [
        {"workqueue"}, {"memcontrol", "slab_common"}, {"cgroup"}, {"vmscan", "fork"}, {"__init__"},
    ],
}  # fmt: skip
HEIGHT = {noun: height for height, row in enumerate(LAYERS) for noun in row}
DOORS = {"locking", "verify", "cli"}  # `cli` shows what a program's threads raise
PRIMITIVES = {"threading", "_thread", "queue", "multiprocessing", "concurrent", "asyncio"}
FILES = {
    ".".join(path.relative_to(SOURCE).with_suffix("").parts): path
    for path in sorted([*SOURCE.rglob("*.py"), *SOURCE.rglob("*.pyx")])
}


def source(module: str) -> str:
    """Return a module's text, or of a Cython file, which is not Python, its imports of siblings."""
    text = FILES[module].read_text()
    return python_imports(text) if FILES[module].suffix == ".pyx" else text


def python_imports(cython: str) -> str:
    """Return a Cython text's imports of modules of memcg, as Python would write them."""
    found = re.findall(r"^ *(from (?:\.|memcg\.)\S+) c?import (\((?:.|\n)*?\)|.*)$", cython, re.M)
    return "\n".join(f"{module} import {names}" for module, names in found)


def imports(module: str, text: str) -> set[str]:
    """Return what a module imports at run time: our modules by path, others as ``/name``."""
    tree = ast.parse(text)
    found = set()
    guarded = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in guarded:
            continue
        if isinstance(node, ast.Import):
            found |= {own(alias.name) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = module.split(".")[: -node.level] if node.level else []
            name = ".".join([*above, *(node.module or "").split(".")]).strip(".")
            name = name if node.level else own(name)
            if name.startswith("/"):
                found.add(name)
            else:  # a name in a module, or a module in a folder
                found |= {
                    inner if (inner := f"{name}.{a.name}".strip(".")) in FILES
                    or f"{inner}.__init__" in FILES else name or "__init__"
                    for a in node.names
                }  # fmt: skip
    return found


def own(name: str) -> str:
    top, _, rest = name.partition(".")
    return rest or "__init__" if top == "memcg" else f"/{top}"


def upward(module: str, text: str) -> set[str]:
    """Return the modules above it that a module imports."""
    folder, _, inner = module.rpartition(".")
    top = module.split(".")[0]
    found = set()
    for name in imports(module, text):
        theirs = name.split(".")[0]
        if name.startswith("/"):
            continue
        if theirs != top:
            if HEIGHT.get(theirs, 99) > HEIGHT.get(top, -1):
                found.add(name)
        elif folder in INSIDE:
            inside = {noun: height for height, row in enumerate(INSIDE[folder]) for noun in row}
            if inside[name.removeprefix(folder).lstrip(".") or "__init__"] > inside[inner]:
                found.add(name)
    return found


@pytest.mark.parametrize("module", sorted(FILES))
def test_imports_only_point_downward(module):
    assert upward(module, source(module)) == set()


def test_every_module_has_a_layer():
    assert {module.split(".")[0] for module in FILES} == set(HEIGHT)
    for folder, rows in INSIDE.items():
        inside = {module.rpartition(".")[::2] for module in FILES}
        assert {inner for above, inner in inside if above == folder} == set().union(*rows)


@pytest.mark.parametrize(("module", "text", "found"), [
    ("core.model", "from ..groups import Group", "groups"),
    ("core.model", "from .. import groups", "groups"),
    ("core.model", "from memcg.groups import Group", "groups"),
    ("core.model", "from . import Memcg", "core"),
    ("control.workqueue", "from . import cgroup", "control.cgroup"),
    ("control.memcontrol", "def f(): from .cgroup import cgroup", "control.cgroup"),
    ("locking.__init__", "import memcg.core", "core"),
    ("control.cgroup", "from ..verify import seam", "verify.seam"),
    ("cache", "import memcg", "__init__"),
])  # fmt: skip
def test_an_upward_import_is_found(module, text, found):
    assert upward(module, text) == {found}
    assert upward(module, f"if TYPE_CHECKING:\n    {text}") == set()


@pytest.mark.parametrize("text", [
    "from memcg.core._groups cimport Memcg\n",
    "from ._groups import (\n    Memcg, enter,\n)\n",
    "cdef f():\n    from ._groups import enter\n",
])  # fmt: skip
def test_an_upward_import_of_cython_is_found(text):
    assert upward("core._errors", python_imports("from native cimport *\n" + text)) == {
        "core._groups"
    }
    assert upward("core._bound", python_imports(text)) == set()


ENGINE = [m for m in FILES if m.startswith("verify.") and not m.startswith("verify.scheme")]


@pytest.mark.parametrize("module", ENGINE)
def test_the_explorer_knows_no_module_of_memcg(module):
    outside = {n for n in imports(module, source(module)) if not n.startswith(("/", "verify"))}
    assert outside == set()
    assert not any(n.startswith("verify.scheme") for n in imports(module, source(module)))


def test_the_explorer_explores_without_the_rest_of_memcg(tmp_path):
    """The folder is copied under another name and used alone, in a process of its own."""
    folder = shutil.ignore_patterns("scheme", "__pycache__")
    shutil.copytree(SOURCE / "verify", tmp_path / "explorer", ignore=folder)
    program = """
import sys
from explorer import explore, seam
def program():
    counter = seam.Published(0)
    def increment():
        counter.store(counter.load() + 1)
    seam.parallel(increment, increment)
    assert counter.load() == 2
assert explore(program).failure.preemptions == 1
assert not [name for name in sys.modules if name.split(".")[0] == "memcg"]
"""
    subprocess.run([sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r})"
                    + program], check=True)  # fmt: skip


@pytest.mark.parametrize("module", [m for m in FILES if m.split(".")[0] not in DOORS])
def test_only_locking_imports_thread_primitives(module):
    found = imports(module, source(module)) & {f"/{noun}" for noun in PRIMITIVES}
    assert found == set()


@pytest.mark.parametrize("text", ["import threading", "from concurrent import futures"])
def test_a_thread_import_is_found(text):
    assert imports("core.model", text) & {f"/{noun}" for noun in PRIMITIVES}


# -- what docs/design.md says about the layers

DESIGN = (SOURCE.parent.parent / "docs" / "design.md").read_text()


def figure(page):
    """Return the module names in each row of the figure, top to bottom."""
    block = page.split("## Layers", 1)[1].split("```\n")[1]
    heads = [re.split(" {4,}", line)[0] for line in block.splitlines()]
    rows = [re.findall(r"(\w+)(?:\.py|/)(?= |$)", head) for head in heads]
    return [set(row) for row in rows if row]


def chains(page):
    """Return the classes in each line of the figure, the base first."""
    block = page.split("## The data plane's interface", 1)[1].split("```\n")[1]
    return [re.split(r" *<- *", line) for line in block.strip().splitlines()]


def chain(cls):
    """Return our classes from which `cls` derives, the base first, by the page's names."""
    names = [f"{c.__module__}.{c.__qualname__}".removeprefix("memcg.") for c in cls.__mro__[:-1]]
    return [re.sub(r"core\.(_\w+|model)\.", "core.", name) for name in reversed(names)]


def test_the_figure_in_the_design_has_the_layers():
    assert figure(DESIGN) == LAYERS[::-1]


@pytest.mark.parametrize(("old", "new"), [
    ("report.py", "remember.py"), ("\nhooks.py", "\n        "), ("faults.py  oom.py", "faults.py"),
])  # fmt: skip
def test_a_figure_that_is_wrong_is_found(old, new):
    assert old in DESIGN
    assert figure(DESIGN.replace(old, new, 1)) != LAYERS[::-1]


def test_the_class_chains_in_the_design_are_those_of_the_classes():
    assert chains(DESIGN) == [chain(memcg.Group), chain(slab_common.kmem_cache)]
    assert memcg.KmemCache.__mro__ == (memcg.KmemCache, object)


def test_a_class_that_is_left_out_of_a_chain_is_found():
    assert chains(DESIGN.replace("control.cgroup.cgroup  <-  ", "")) != chains(DESIGN)
    assert chain(memcg.Group) not in chains(DESIGN.replace("control.cgroup.cgroup  <-  ", ""))


def test_a_newcomer_reads_at_most_ten_files_and_all_are_there():
    root = SOURCE.parent.parent
    order = DESIGN.split("## Where to begin", 1)[1].split("\n## ", 1)[0]
    linked = [root / "docs" / name for name in re.findall(r"\]\(([\w./]+)\)", order)]
    named, folder = [], root
    for name in re.findall(r"`([\w./]+\.(?:py|h|md))`", order):
        folder = (root / name).parent if "/" in name else folder
        named.append(folder / name.rpartition("/")[2])
    assert 8 <= len(linked) + len(named) + 1 <= 10  # this page is one of the ten
    assert [path for path in linked + named if not path.exists()] == []


# -- the model core


def lines_of_code(source: str) -> int:
    """Lines that hold more than comments and docstrings."""
    not_code = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT,
                tokenize.ENDMARKER}  # fmt: skip
    lines = {
        line
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type not in not_code
        for line in range(token.start[0], token.end[0] + 1)
    }
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, documented) and ast.get_docstring(node):
            lines -= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return len(lines)


def test_the_model_core_stays_a_specification():
    assert lines_of_code(source("core.model")) <= 570


def test_lines_of_code_are_counted():
    assert lines_of_code('"""A\ndocstring."""\n# a comment\n\nx = [\n    1,\n]\n') == 3
