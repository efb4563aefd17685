# SPDX-License-Identifier: Apache-2.0
"""Fresh copies of the control plane: each test gets a system that no other test has used."""

from __future__ import annotations

import importlib
import itertools
import sys
import time
import types
from pathlib import Path
from types import ModuleType

import memcg

_numbers = itertools.count(1)


class World:
    """One loaded system; its modules are attributes. With `seam` it runs over the explorer."""

    def __init__(self, seam: ModuleType | None = None, core: str = "model") -> None:
        self.name = f"memcg_world_{next(_numbers)}"
        package = types.ModuleType(self.name)
        package.__path__ = [str(Path(memcg.__file__).parent)]
        sys.modules[self.name] = package
        if core == "native":  # the process has one only, which the world must leave as it was
            for shared in ("core._core", "errors", "core.dataplane"):
                sys.modules[f"{self.name}.{shared}"] = importlib.import_module(f"memcg.{shared}")
        else:
            sys.modules[self.name + ".core._core"] = None
        if seam is not None:
            sys.modules[self.name + ".locking"] = seam
        load = lambda noun: importlib.import_module(f"{self.name}.{noun}")  # noqa: E731
        self.slab_common = load("control.slab_common")
        self.memcontrol = load("control.memcontrol")
        self.cgroup = load("control.cgroup")
        self.vmscan = load("control.vmscan")
        self.fork = load("control.fork")
        self.workqueue = load("control.workqueue")
        self.core = load("core")
        self.model = load("core.model")
        self.locking = load("locking")
        self.errors = load("errors")
        self.group = load("groups")
        self.cache = load("cache")
        self.root = self.group.root
        self._spawn, self.workqueue.spawn = self.workqueue.spawn, self._counted
        self._spawned: list[bool] = []  # one for each thread that has not ended

    def _counted(self, fn, name):
        def run():
            try:
                fn()
            finally:
                self._spawned.pop()

        self._spawned.append(True)
        self._spawn(run, name)

    def settle(self) -> None:
        """Wait for the threads for which no other thread waits any more."""
        while self._spawned:
            time.sleep(0.001)

    def close(self) -> None:
        """Check what must hold at the end of every test, and forget the modules."""
        self.workqueue.flush()
        failures = self.workqueue.failures
        for module in [m for m in sys.modules if m.split(".")[0] == self.name]:
            del sys.modules[module]
        assert not failures, failures

    def child(self, root_cache, memcg):
        return self.memcontrol.cache_from_memcg_idx(root_cache, memcg._kmemcg_id)

    def check_invariants(self) -> None:
        """Check that a child is in its list, its slot and the registry, or in none of the three.

        A dead root has no children, and a dead group has no empty one.
        """
        slab, control = self.slab_common, self.memcontrol
        with control.memcg_slab_mutex, slab.slab_mutex:
            children = [s for s in slab.slab_caches if not slab.is_root_cache(s)]
            for child in children:
                params = child.memcg_params
                assert params.root_cache in slab.slab_caches
                assert self.child(params.root_cache, params.memcg) is child
                assert child in params.memcg.memcg_slab_caches
                assert params.memcg.online or child.nr_pages > 0
            for root in (s for s in slab.slab_caches if slab.is_root_cache(s)):
                slots = [root.from_memcg_idx(i) for i in range(root.array_size)]
                assert all(c in children for c in slots if c is not None)
