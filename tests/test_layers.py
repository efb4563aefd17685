"""The layers of docs/design.md: imports only point downward, and one door to threads."""

from __future__ import annotations

import ast
import io
import tokenize
from pathlib import Path

import pytest

import memcg

SOURCE = Path(memcg.__file__).parent
LAYERS = [  # bottom to top; modules of one row may import each other
    {"errors", "lockdep", "locking", "lockless", "dataplane"},
    {"sizes"},
    {"fault_attr"},
    {"model"},
    {"core"},
    {"workqueue", "faults"},
    {"memcontrol", "slab_common"},
    {"cgroup"},
    {"holders", "names", "oom"},
    {"group"},
    {"cache"},
    {"integrations"},
    {"hooks"},
    {"__init__"},
    {"cli"},
    {"__main__"},
]
PACKAGES = {"cli", "integrations"}  # one verb per file
HEIGHT = {module: height for height, row in enumerate(LAYERS) for module in row}
PRIMITIVES = {"threading", "_thread", "queue", "multiprocessing", "concurrent", "asyncio"}


def imports(tree: ast.Module) -> set[str]:
    """Top-level names imported at run time, siblings as ``.name``."""
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
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level:
            found |= {
                "." + n for n in ([node.module] if node.module else [a.name for a in node.names])
            }
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


def upward(module: str, source: str) -> set[str]:
    return {
        name
        for name in imports(ast.parse(source))
        if name.startswith(".") and HEIGHT.get(name[1:].split(".")[0], 99) > HEIGHT[module]
    }


@pytest.mark.parametrize("module", sorted(set(HEIGHT) - PACKAGES))
def test_imports_only_point_downward(module):
    assert upward(module, (SOURCE / f"{module}.py").read_text()) == set()


def test_every_module_has_a_layer():
    assert {p.stem for p in SOURCE.glob("*.py")} == set(HEIGHT) - PACKAGES


def test_an_upward_import_is_found():
    assert upward("model", "from .group import Group") == {".group"}


@pytest.mark.parametrize("module", sorted(set(HEIGHT) - PACKAGES - {"locking", "lockless"}))
def test_only_locking_imports_thread_primitives(module):
    assert not imports(ast.parse((SOURCE / f"{module}.py").read_text())) & PRIMITIVES


def test_a_thread_import_is_found():
    assert imports(ast.parse("import threading")) & PRIMITIVES


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
    assert lines_of_code((SOURCE / "model.py").read_text()) <= 500


def test_lines_of_code_are_counted():
    assert lines_of_code('"""A\ndocstring."""\n# a comment\n\nx = [\n    1,\n]\n') == 3
