# SPDX-License-Identifier: Apache-2.0
"""The control plane that ships, loaded afresh over the explorer's seam.

Each execution gets a new system. The sources are compiled once. A load runs their code in
modules, with the seam in place of ``memcg.locking``. The functions and classes of a module are made
once and serve one execution after the other. All other statements run each time, so that mutexes,
tables and figures are new. `_OBSERVED` declares guards of data-plane fields that `model.py` does
not declare itself.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, ModuleType, SimpleNamespace
from typing import Any, NamedTuple

from .. import places, runtime, seam

_SOURCE = Path(__file__).resolve().parents[2]
# The folder of each module's source, which is also the package of its relative imports.
_FOLDER = dict.fromkeys(
    ("memcontrol", "slab_common", "cgroup", "vmscan", "fork", "workqueue"), "control"
) | dict.fromkeys(("core", "dataplane", "model"), "core") | {"shares": "integrations"}  # fmt: skip
_STATELESS = {  # one copy for all worlds
    "errors": "memcg.errors", "dataplane": "memcg.core.dataplane", "sizes": "memcg.sizes",
}  # fmt: skip
_SEAM = seam.module()
# The environment that the control plane sees: it asks for the model core.
_OS = SimpleNamespace(environ={"MEMCG_CORE": "model"})

_OBSERVED: dict[str, dict[str, str | None]] = {
    "Cache": {
        "frozen": "published",
        "dying": "published",
        "_dead": "cache_lock",
        "_shared_bytes": None,  # read racily: it is only a hint that the group needs a child
    },
    "Memcg": {
        "_kmemcg_id": "published",
        "peak": None,
        "_objcgs": None,
        "_pending": None,  # a set that is changed only under cache_lock
        "_spare": None,  # written under cgroup_mutex; its length is read racily
    },
}


def path(noun: str) -> Path:
    """Return the file of a module of the control plane or of the model core."""
    return _SOURCE / _FOLDER[noun] / ("__init__.py" if noun == "core" else f"{noun}.py")


def source(noun: str) -> str:
    """Return the source of a module of the control plane or of the model core."""
    return path(noun).read_text()


class _Code(NamedTuple):
    """The code of a module.

    Attributes
    ----------
    state : CodeType
        What is left of it without the functions and classes.
    made : frozenset of str
        The names of these functions and classes.
    """

    whole: CodeType
    state: CodeType
    made: frozenset[str]


# What every class has, and what is not assigned to.
_OF_CLASSES = {"__dict__", "__weakref__", "__doc__", "__module__", "__annotations__", "__slots__"}
_OF_MODULES = ("__name__", "__doc__", "__package__", "__loader__", "__spec__", "__builtins__")

_code: dict[str, _Code] = {}


def _split(noun: str, text: str) -> _Code:
    tree, file = ast.parse(text), str(path(noun))
    whole = compile(tree, file, "exec")
    defined = [n for n in tree.body if isinstance(n, (ast.FunctionDef, ast.ClassDef))]
    tree.body = [n for n in tree.body if n not in defined]
    return _Code(whole, compile(tree, file, "exec"), frozenset(n.name for n in defined))


def _compiled(noun: str) -> _Code:
    if noun not in _code:
        _code[noun] = _split(noun, source(noun))
    return _code[noun]


@contextmanager
def other_source(noun: str, text: str) -> Iterator[None]:
    """Load systems with another source of a module: a mutant, say."""
    before = _compiled(noun)
    _code[noun] = _split(noun, text)
    _kits.clear()
    try:
        yield
    finally:
        _code[noun] = before
        _kits.clear()


class _Part(NamedTuple):
    """A module of a kit, with what its functions and classes were when they had been made."""

    module: ModuleType
    made: dict[str, Any]
    fields: list[tuple[type, dict[str, Any]]]

    def reset(self) -> None:
        """Forget all but the functions and classes, which become what they were."""
        scope = vars(self.module)
        scope.clear()
        scope.update(self.made)
        for made, fields in self.fields:
            now = vars(made)
            for name in now.keys() - fields.keys() - _OF_CLASSES:
                type.__delattr__(made, name)
            for name, value in fields.items():
                if now.get(name) is not value:
                    type.__setattr__(made, name, value)


class _Kit:
    """Modules that serve one execution after the other."""

    def __init__(self) -> None:
        self.parts: dict[str, _Part] = {}
        self.world: World | None = None  # the one that it serves
        self.run: weakref.ref[runtime.Run] | None = None

    def import_(self, *args: Any) -> Any:
        assert self.world is not None
        return self.world.import_(*args)


_kits: list[_Kit] = []


def _kit(run: runtime.Run | None) -> _Kit:
    """Return a kit that no other system of the execution uses. Outside one it is a new kit."""
    if run is None:
        return _Kit()
    for kit in _kits:
        if kit.run is None or kit.run() is not run:
            break
    else:
        kit = _Kit()
        _kits.append(kit)
    kit.run = weakref.ref(run)
    return kit


def load_alone(noun: str) -> ModuleType:
    """Load a module that needs nothing of the control plane but ``locking``, over the seam."""
    module = ModuleType(f"memcg.explored.{noun}")

    def from_seam(name: str, *args: Any) -> Any:
        return _SEAM if args and args[-1] else __import__(name, *args)

    vars(module)["__builtins__"] = {**vars(builtins), "__import__": from_seam}
    exec(_compiled(noun).whole, vars(module))
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


def _observe(model: ModuleType) -> None:
    """Make scheduling points of what the data plane shares without the seam's classes."""
    build = model.Memcg.__init__

    def __init__(memcg: Any, parent: Any) -> None:
        build(memcg, parent)
        memcg._limits = seam.Table(memcg._limits)

    model.Memcg.__init__ = __init__
    for noun, guards in _OBSERVED.items():
        seam.shared(**guards)(getattr(model, noun))


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
        run = runtime.active
        self._kit = _kit(run)
        self._kit.world = self
        for noun in (
            "slab_common", "memcontrol", "cgroup", "vmscan", "fork", "workqueue", "core", "model",
            "errors",
        ):  # fmt: skip
            setattr(self, noun, self._load(noun))
        self.root = self.cgroup.cgroup("", None)
        if not worker:
            self.core.set_waker(None)
        if run is not None:
            run.hooks["memcg_slab_mutex"] = self.check_registry

    def _load(self, noun: str) -> ModuleType:
        module = self._modules.get(noun)
        if module is None and noun in _STATELESS:
            module = self._modules[noun] = importlib.import_module(_STATELESS[noun])
        elif module is None:
            module = self._make(noun)
            scope = vars(module)
            if "choose" in scope:
                scope["choose"] = self._choose
            if noun == "model":
                scope["_events"] = seam.Queue("events")
            for name, mutex in _GUARDED.get(noun, {}).items():
                values = scope[name]
                guarded = seam.GuardedDict if isinstance(values, dict) else seam.GuardedList
                scope[name] = guarded(f"{noun}.{name}", scope[mutex], values)
            for name, answer in _MAY_FAIL.get(noun, {}).items():
                self._let_fail(module, name, answer)
        return module

    def _make(self, noun: str) -> ModuleType:
        """Run a module's code, or what makes its state if the kit has its functions."""
        part, code = self._kit.parts.get(noun), _compiled(noun)
        if part is not None:
            self._modules[noun] = part.module
            part.reset()
            exec(code.state, vars(part.module))
            return part.module
        module = self._modules[noun] = ModuleType(f"memcg.explored.{noun}")
        scope = vars(module)
        scope["__builtins__"] = {**vars(builtins), "__import__": self._kit.import_}
        exec(code.whole, scope)
        if noun == "model":
            _observe(module)
        made = {name: scope[name] for name in code.made}
        classes = [value for value in made.values() if isinstance(value, type)]
        made |= {name: scope[name] for name in _OF_MODULES}
        fields = [(c, {n: v for n, v in vars(c).items() if n not in _OF_CLASSES}) for c in classes]
        self._kit.parts[noun] = _Part(module, made, fields)
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

    def import_(
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
                kept = memcg.online or memcg in memcg.parent._spare
                assert kept or s.nr_pages > 0, f"{s.name}: empty, its group is dead"
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
        """Return the root, every group in the tree, and the closed ones that are kept."""
        found = [self.root]
        for group in found:
            found += group.children.values()
            found += group._spare
        return found

    def check_references(self) -> None:
        """Check that only its own, its children's and its caches' references refer to a group.

        No reference, id or entry of `dying` is left of groups that are closed.
        """
        for group in self.groups():
            caches = len(group.memcg_slab_caches)
            expected = 1 + len(group.children) + len(group._spare) + caches
            refs = self.core.css_refs(group)
            assert refs == expected, f"{group.path!r}: {refs} css references, not {expected}"
        ids = {g._kmemcg_id for g in self.groups()} - {-1}
        assert set(self.memcontrol._used_ids) == ids, "an id of a dead group is still in use"
        assert not self.memcontrol.dying, "a group that is gone still counts as dying"
