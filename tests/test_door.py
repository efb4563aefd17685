# SPDX-License-Identifier: Apache-2.0
"""The names that users find on a group, and what the cores offer beneath them."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import subprocess
import sys

import pytest
from environment import environment

import memcg
from memcg.core import dataplane, model

NAMES = [
    "close", "current", "events", "high", "iterate", "last_oom", "max", "nr_dying", "nr_inside",
    "online", "oom_group", "overdraft", "parent", "path", "peak", "reclaim", "report", "reserve",
    "run", "shrinker", "stat", "wrap",
]  # fmt: skip


# What the control plane keeps in a group; a group thus needs no dict.
CONTROL = {"children", "memcg_slab_caches", "name", "shrinkers"}


def public(cls):
    return [name for name in dir(cls) if not name.startswith("_") and name not in CONTROL]


def test_a_group_has_the_users_names_and_no_others(native):
    assert public(memcg.Group) == NAMES


def test_a_group_of_the_model_core_has_no_name_that_is_not_the_users():
    program = "import memcg; print(*[name for name in dir(memcg.Group) if name[0] != '_'])"
    shown = subprocess.run(
        [sys.executable, "-c", program], env=environment(MEMCG_CORE="model"),
        capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    assert set(shown) <= set(NAMES)
    assert set(NAMES) - set(shown) == {"events", "oom_group", "peak"}  # of instances


def test_group_is_one_thing_the_function():
    assert inspect.isfunction(memcg.group)


@pytest.mark.parametrize(("old", "new"), [
    ("memcontrol", "control.memcontrol"), ("workqueue", "control.workqueue"),
    ("lockdep", "locking.lockdep"), ("model", "core.model"), ("holders", "report"),
])  # fmt: skip
def test_a_module_that_has_moved_is_found_and_its_new_name_is_shown(old, new):
    with pytest.warns(DeprecationWarning, match=rf"memcg\.{old} is now memcg\.{new}; write that"):
        found = getattr(memcg, old)
    assert found is importlib.import_module(f"memcg.{new}")


@pytest.mark.parametrize(("statement", "old", "new"), [
    ("import memcg.workqueue", "workqueue", "control.workqueue"),
    ("from memcg.lockdep import LOCKS", "lockdep", "locking.lockdep"),
    ("import memcg.model as model", "model", "core.model"),
    ("from memcg.group import Group", "group", "groups"),
    ("from memcg.holders import holders", "holders", "report"),
])  # fmt: skip
def test_an_import_of_a_module_that_has_moved_says_its_new_name(statement, old, new):
    text = rf"^memcg\.{old} is now memcg\.{new}; write that$"
    for _ in range(2):
        with pytest.raises(ModuleNotFoundError, match=text) as raised:
            exec(statement, {})
        assert raised.value.name == f"memcg.{old}"
        importlib.invalidate_caches()
    importlib.import_module(f"memcg.{new}")


def test_an_import_of_a_module_that_there_never_was_fails_as_ever():
    with pytest.raises(ModuleNotFoundError, match=r"^No module named 'memcg\.nothing'$"):
        importlib.import_module("memcg.nothing")
    with pytest.raises(ModuleNotFoundError, match=r"^No module named 'memcg\.workqueues'$"):
        importlib.import_module("memcg.workqueues")


def test_the_packages_modules_are_those_that_are_there():
    found = {module.name for module in pkgutil.iter_modules(memcg.__path__)}
    assert {"groups", "report", "control"} <= found
    assert not found & {"group", "holders", "workqueue"}


def test_a_name_that_never_existed_is_not_found():
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        memcg.nothing  # noqa: B018


# -- the cores


def missing(plane, kind):
    """Return the names of `kind` that a core does not have, or has with other parameters."""
    found = []
    for name in dataplane.names(kind):
        declared = getattr(kind, name, None)
        if not hasattr(plane, name):
            found.append(name)
        elif inspect.isfunction(declared) and inspect.isfunction(getattr(plane, name)):
            wanted = list(inspect.signature(declared).parameters)[1:]
            if list(inspect.signature(getattr(plane, name)).parameters) != wanted:
                found.append(name)
    return found


def test_the_model_core_is_a_data_plane():
    assert missing(model, dataplane.DataPlane) == []


def test_the_native_core_is_one_that_charges(native):
    from memcg.core import _core

    assert missing(_core, dataplane.NativePlane) == []
    assert {name for name in dataplane.names(dataplane.NativePlane)} <= set(dir(memcg.core))


@pytest.mark.parametrize("name", ["css_put", "KMALLOC_SIZES", "Memcg"])
def test_a_core_that_lacks_something_is_noticed(name, monkeypatch):
    monkeypatch.delattr(model, name)
    assert missing(model, dataplane.DataPlane) == [name]


def test_a_function_with_other_parameters_is_noticed(monkeypatch):
    monkeypatch.setattr(model, "css_put", lambda group: None)
    assert missing(model, dataplane.DataPlane) == ["css_put"]


def test_the_model_core_is_not_taken_for_one_that_charges():
    assert "install" in missing(model, dataplane.NativePlane)
