# SPDX-License-Identifier: Apache-2.0
"""The control plane that ships, loaded afresh over the explorer's seam.

Each execution gets a new system. The sources are compiled once. A load runs their code in new
modules, with the seam in place of ``memcg.locking``. `_OBSERVED` declares guards of data-plane
fields that `model.py` does not declare itself.
"""

from __future__ import annotations

import builtins
import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import CodeType, ModuleType, SimpleNamespace
from typing import Any

from .. import places, runtime, seam

_SOURCE = Path(__file__).resolve().parents[2]
# The folder of each module's source, which is also the package of its relative imports.
_FOLDER = dict.fromkeys(
    ("memcontrol", "slab_common", "cgroup", "vmscan", "fork", "workqueue"), "control"
) | dict.fromkeys(("core", "dataplane", "model"), "core") | {"shares": "integrations"}  # fmt: skip
_STATELESS = {  # one copy for all worlds
    "errors": "memcg.errors", "dataplane": "memcg.core.dataplane", "sizes": "memcg.sizes",
}  # fmt: skip
_code: dict[str, CodeType] = {}
_SEAM = seam.module()
# The environment that the control plane sees: it asks for the model core.
_OS = SimpleNamespace(environ={"MEMCG_CORE": "model"})

_OBSERVED: dict[str, dict[str, str | None]] = {
    "Cache": {
        "frozen": "published",
        "dying": "published",
        "_dead": "cache_lock",
        "_pending": None,  # a set that is changed only under cache_lock
        "_shared_bytes": None,  # read racily: it is only a hint that the group needs a child
    },
    "Memcg": {"_kmemcg_id": "published", "peak": None, "_objcgs": None},
}


def path(noun: str) -> Path:
    """Return the file of a module of the control plane or of the model core."""
    return _SOURCE / _FOLDER[noun] / ("__init__.py" if noun == "core" else f"{noun}.py")


def source(noun: str) -> str:
    """Return the source of a module of the control plane or of the model core."""
    return path(noun).read_text()


def _compiled(noun: str) -> CodeType:
    if noun not in _code:
        _code[noun] = compile(source(noun), str(path(noun)), "exec")
    return _code[noun]


def load_alone(noun: str) -> ModuleType:
    """Load a module that needs nothing of the control plane but ``locking``, over the seam."""
    module = ModuleType(f"memcg.explored.{noun}")

    def from_seam(name: str, *args: Any) -> Any:
        return _SEAM if args and args[-1] else __import__(name, *args)

    vars(module)["__builtins__"] = {**vars(builtins), "__import__": from_seam}
    exec(_compiled(noun), vars(module))
    return module


# The model core is a machine to the control plane: no interrupt is raised in the middle of it.
places.beneath.add(str(path("model")))


# Dictionaries and lists of modules and the mutexes that guard them.
_GUARDED: dict[str, dict[str, str]] = {
    "memcontrol": dict.fromkeys(("_used_ids", "_freed_ids", "dying"), "activate_kmem_mutex"),
    "slab_common": {"slab_caches": "slab_mutex"},
}
# Functions of the control plane and the model core that can fail for want of memory.
# `World.faults` makes them fail. None means that MemoryError is raised; a number is returned.
_MAY_FAIL: dict[str, dict[str, int | None]] = {
    "slab_common": {"memcg_create_cache_name": None},
    "workqueue": {"spawn": None},  # `World.spawn_faults` makes it fail
    "model": {"Cache.update_array": None, "_PageAllocator.alloc": -1},
}


class World:
    """One loaded system. Its modules are attributes.

    Parameters
    ----------
    worker : bool
        Start the transient worker when events are posted. Without it a program calls
        ``world.workqueue.run_pending`` itself.

    Attributes
    ----------
    faults : bool
        If it is set, failing allocations are explored too: from then on ``choose`` branches.
    spawn_faults : bool
        If it is set, threads that cannot be started are explored too.
    """

    def __init__(self, *, worker: bool = True) -> None:
        self._modules: dict[str, ModuleType] = {"locking": _SEAM}
        self.faults = self.spawn_faults = False
        for noun in (
            "slab_common", "memcontrol", "cgroup", "vmscan", "fork", "workqueue", "core", "model",
            "errors",
        ):  # fmt: skip
            setattr(self, noun, self._load(noun))
        self.root = self.cgroup.cgroup("", None)
        if not worker:
            self.core.set_waker(None)
        run = runtime.active
        if run is not None:
            run.hooks["memcg_slab_mutex"] = self.check_registry

    def _load(self, noun: str) -> ModuleType:
        module = self._modules.get(noun)
        if module is None and noun in _STATELESS:
            module = self._modules[noun] = importlib.import_module(_STATELESS[noun])
        elif module is None:
            module = self._modules[noun] = ModuleType(f"memcg.explored.{noun}")
            scope = vars(module)
            scope["__builtins__"] = {**vars(builtins), "__import__": self._import}
            exec(_compiled(noun), scope)
            if "choose" in scope:
                scope["choose"] = self._choose
            if noun == "model":
                self._observe(module)
            for name, mutex in _GUARDED.get(noun, {}).items():
                values = scope[name]
                guarded = seam.GuardedDict if isinstance(values, dict) else seam.GuardedList
                scope[name] = guarded(f"{noun}.{name}", scope[mutex], values)
            for name, answer in _MAY_FAIL.get(noun, {}).items():
                self._let_fail(module, name, answer)
        return module

    def _let_fail(self, module: ModuleType, name: str, answer: int | None) -> None:
        """Let a function fail for want of memory. Both outcomes are explored."""
        owner, _, attribute = name.rpartition(".")
        holder = getattr(module, owner) if owner else module
        function = getattr(holder, attribute)

        def may_fail(*args: Any) -> Any:
            fails = seam.choose(2) if name == "spawn" and self.spawn_faults else 0
            if not (fails or (name != "spawn" and self._choose(2))):
                return function(*args)
            if answer is None:
                raise MemoryError(f"{attribute}: no memory")
            return answer

        setattr(holder, attribute, may_fail)

    def _import(
        self, name: str, scope: Mapping[str, object] | None = None,
        local: Mapping[str, object] | None = None, wanted: Sequence[str] | None = (),
        level: int = 0,
    ) -> Any:  # fmt: skip
        """Import as ``__import__`` does, but take the control plane's modules from this world."""
        if level == 0:
            return _OS if name == "os" else __import__(name, scope, local, wanted or (), 0)
        if name:
            return self._load(name.rpartition(".")[2])
        return SimpleNamespace(**{noun: self._load(noun) for noun in wanted or ()})

    def _choose(self, n: int) -> int:
        return seam.choose(n) if self.faults else 0

    errors: Any
    model: Any
    core: Any
    workqueue: Any
    slab_common: Any
    memcontrol: Any
    cgroup: Any
    vmscan: Any
    fork: Any

    def _observe(self, model: ModuleType) -> None:
        """Make scheduling points of what the data plane shares without the seam's classes."""
        vars(model)["_events"] = seam.Queue("events")
        build = model.Memcg.__init__

        def __init__(memcg: Any, parent: Any) -> None:
            build(memcg, parent)
            memcg._limits = seam.Table(memcg._limits)

        model.Memcg.__init__ = __init__
        for noun, guards in _OBSERVED.items():
            seam.shared(**guards)(getattr(model, noun))

    # -- what must hold

    def check_registry(self) -> None:
        """Check that list, slot and registry agree, at every release of ``memcg_slab_mutex``."""
        slab = self.slab_common
        roots = [s for s in slab.slab_caches if s.memcg_params.is_root_cache]
        children = [s for s in slab.slab_caches if not s.memcg_params.is_root_cache]
        pairs = set()
        for child in children:
            root, memcg = child.memcg_params.root_cache, child.memcg_params.memcg
            assert root in slab.slab_caches, f"{child.name} is a child of a dead root"
            assert (id(root), memcg.serial) not in pairs, f"two children {child.name}"
            pairs.add((id(root), memcg.serial))
            assert root.from_memcg_idx(memcg._kmemcg_id) is child, f"{child.name} is in no slot"
            assert child in memcg.memcg_slab_caches, f"{child.name} is on no list"
        for root in roots:
            for i in range(root.array_size):
                child = root.from_memcg_idx(i)
                assert child is None or child in children, f"slot {i} of {root.name} is stale"

    def check_end(self) -> None:
        """Check the registry, the charges, and that no dead group has an empty child.

        Context: no other task runs.
        """
        slab, failures = self.slab_common, self.workqueue.failures
        assert not failures, failures
        assert not self.model._events, "events are left that no thread handles"
        self.check_registry()
        for s in slab.slab_caches:
            if not s.memcg_params.is_root_cache:
                memcg = s.memcg_params.memcg
                assert memcg.online or s.nr_pages > 0, f"{s.name}: empty, its group is dead"
        self.check_charges()

    def check_charges(self) -> None:
        """Check that each group is charged what its objects and slabs, and those below it, take."""
        expected: dict[Any, int] = {}
        for cache in self.slab_common.slab_caches:
            for piece in cache._slabs:
                owners = piece.live.values() if piece.objcg is None else [piece.objcg]
                size = cache.size if piece.objcg is None else piece.nr_pages * self.core.PAGE_SIZE
                for owner in owners:
                    for memcg in self.model.ancestry(owner.memcg.load()):
                        expected[memcg] = expected.get(memcg, 0) + size
        for memcg in self.groups():
            assert memcg.usage.get() == expected.get(memcg, 0), f"charges of {memcg.path!r}"

    def groups(self) -> list[Any]:
        """Return the root and every group in the tree."""
        found = [self.root]
        for group in found:
            found += group.children.values()
        return found

    def check_references(self) -> None:
        """Check that only its own, its children's and its caches' references refer to a group.

        No reference, id or entry of `dying` is left of groups that are closed.
        """
        for group in self.groups():
            caches = len(group.memcg_slab_caches)
            expected = 1 + len(group.children) + caches
            refs = self.core.css_refs(group)
            assert refs == expected, f"{group.path!r}: {refs} css references, not {expected}"
        ids = {g._kmemcg_id for g in self.groups()} - {-1}
        assert set(self.memcontrol._used_ids) == ids, "an id of a dead group is still in use"
        assert not self.memcontrol.dying, "a group that is gone still counts as dying"
