# SPDX-License-Identifier: Apache-2.0
"""The licence, the changelog, lint, the hooks and the hosted CI agree with each other."""

from __future__ import annotations

import hashlib
import itertools
import re
import tomllib
from pathlib import Path

import pytest

import memcg

yaml = pytest.importorskip("yaml", reason="PyYAML is not installed for this Python")

PROJECT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((PROJECT / "pyproject.toml").read_text())
WORKFLOWS = sorted((PROJECT / ".github" / "workflows").glob("*.yml"))
# https://www.apache.org/licenses/LICENSE-2.0.txt
APACHE = "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"


def test_the_licence_is_the_unmodified_text_of_apache():
    assert PYPROJECT["project"]["license"] == "Apache-2.0"
    assert PYPROJECT["project"]["license-files"] == ["LICENSE"]
    assert hashlib.sha256((PROJECT / "LICENSE").read_bytes()).hexdigest() == APACHE


def test_the_changelog_begins_with_this_version():
    first = re.findall(r"^## \[(.*?)\]", (PROJECT / "CHANGELOG.md").read_text(), re.M)[0]
    assert first == memcg.__version__


def targets(makefile: str) -> set[str]:
    lines = re.findall(r"^([a-z][a-z -]*):(?!=)", makefile, re.M)
    return {name for line in lines for name in line.split()}


def expanded(text: str, matrix: dict[str, list[str]]) -> set[str]:
    """Return the text with each combination of the matrix's values that it names."""
    names = [name for name in matrix if f"${{{{ matrix.{name} }}}}" in text]
    found = set()
    for values in itertools.product(*(matrix[name] for name in names)):
        one = text
        for name, value in zip(names, values, strict=True):
            one = one.replace(f"${{{{ matrix.{name} }}}}", str(value))
        found.add(re.sub(r"\$\{\{.*?\}\}", "", one))
    return found


def wanted(workflow: dict) -> set[tuple[str, str]]:
    """Return each (folder, target) of make in a workflow."""
    found = set()
    for job in workflow["jobs"].values():
        matrix = dict(job.get("strategy", {}).get("matrix", {}))
        matrix.pop("include", None)
        for step in job["steps"]:
            for command in expanded(step.get("run", ""), matrix):
                for folder, target in re.findall(r"\bmake (?:-C (\S+) )?([a-z][a-z-]*)", command):
                    found.add((folder or ".", target))
    return found


def missing(workflow: dict) -> set[tuple[str, str]]:
    return {(folder, target) for folder, target in wanted(workflow)
            if target not in targets((PROJECT / folder / "Makefile").read_text())}  # fmt: skip


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.stem)
def test_every_target_that_a_workflow_names_exists(file):
    assert missing(yaml.safe_load(file.read_text())) == set()


def test_the_workflows_run_lint_the_suite_the_native_check_and_what_is_long():
    found = set().union(*(wanted(yaml.safe_load(file.read_text())) for file in WORKFLOWS))
    assert {(".", "lint"), (".", "test"), ("native", "check"), (".", "verify"), (".", "mutants"),
            (".", "foreign"), (".", "soak"), (".", "bench-instructions")} <= found  # fmt: skip


def test_a_target_that_does_not_exist_is_found():
    workflow = yaml.safe_load("""
jobs:
  one:
    strategy: {matrix: {target: [verify, gone]}}
    steps: [{uses: x}, {run: "make ${{ matrix.target }}"}, {run: make -C native nothing}]
""")
    assert missing(workflow) == {(".", "gone"), ("native", "nothing")}


def test_the_matrix_the_wheels_and_the_classifiers_name_the_same_pythons():
    test = yaml.safe_load((PROJECT / ".github/workflows/test.yml").read_text())
    pythons = test["jobs"]["suite"]["strategy"]["matrix"]["python"]
    prefix = "Programming Language :: Python :: "
    classifiers = PYPROJECT["project"]["classifiers"]
    named = [c.removeprefix(prefix) for c in classifiers if c.startswith(prefix + "3.")]
    assert pythons == named
    wheels = PYPROJECT["tool"]["cibuildwheel"]["build"].split()
    assert wheels == [f"cp{version.replace('.', '')}-*" for version in pythons]


def recipe(target: str) -> str:
    (lines,) = re.findall(rf"^{target}:.*\n((?:\t.*\n)+)", (PROJECT / "Makefile").read_text(), re.M)
    return lines


def test_the_hooks_before_a_commit_are_those_of_make_lint():
    hooks = yaml.safe_load((PROJECT / ".pre-commit-config.yaml").read_text())
    ids = {hook["id"] for repository in hooks["repos"] for hook in repository["hooks"]}
    tools = {
        "ruff check": "ruff",
        "ruff format --check": "ruff-format",
        "mypy": "mypy",
        "clang-format --dry-run -Werror": "clang-format",
        "codespell": "codespell",
    }
    linted = re.findall(r"/bin/([a-z -]+?(?: -Werror)?)(?: \$\(|\n)", recipe("lint"))
    assert linted == list(tools)
    assert set(tools.values()) <= ids


@pytest.mark.parametrize("subject", ["worker: a fork waits", "alarm, native/heap: x", "Merge b"])
def test_the_hook_takes_a_subject_that_names_its_module(subject):
    assert re.search(subject_pattern(), subject, re.M)


@pytest.mark.parametrize("subject", ["wip", "Faster", "a sentence: with words"])
def test_the_hook_refuses_a_subject_without_a_module(subject):
    assert not re.search(subject_pattern(), subject, re.M)


def subject_pattern() -> str:
    hooks = yaml.safe_load((PROJECT / ".pre-commit-config.yaml").read_text())
    (entry,) = (hook["entry"] for repository in hooks["repos"] for hook in repository["hooks"]
                if hook["id"] == "subject")  # fmt: skip
    return entry


def test_ci_lints_first_and_ends_with_the_test_runners_own_lines():
    commands = [line for line in (PROJECT / ".ci" / "run").read_text().splitlines()
                if re.match(r"(exec )?make", line)]  # fmt: skip
    assert commands[0] == "make lint"
    assert commands[-1] == "exec make test"


SPDX = "SPDX-License-Identifier: Apache-2.0"
LICENSED = {".py", ".pyi", ".pyx", ".pxd", ".sh", ".c", ".h"}
FOLDERS = ("src", "native", "tests", "tools", "benchmarks", "examples")


def without_licence(project: Path) -> list[Path]:
    """Source files that do not name the licence in their first three lines."""
    return [
        file
        for folder in FOLDERS
        for file in sorted((project / folder).rglob("*"))
        if (file.suffix in LICENSED or file.name in {"Makefile", "meson.build"})
        and "build" not in file.relative_to(project).parts
        and (text := file.read_text())
        and SPDX not in "".join(text.splitlines()[:3])
    ]


def test_every_source_file_names_its_licence():
    assert without_licence(PROJECT) == []


def test_a_source_file_without_a_licence_is_found(tmp_path):
    for name, text in {
        "a.c": f"/* {SPDX} */\n",
        "b.py": "x = 1\n",
        "c.py": "",
        "d.md": "x\n",
    }.items():
        (tmp_path / "src").mkdir(exist_ok=True)
        (tmp_path / "src" / name).write_text(text)
    assert without_licence(tmp_path) == [tmp_path / "src" / "b.py"]
