# SPDX-License-Identifier: Apache-2.0
"""The life of one child cache, traced live from the running system."""

from __future__ import annotations

import memcg
from memcg import core
from memcg.control import memcontrol, slab_common, workqueue


def trace_locks() -> list[str]:
    """Wrap the creation and destruction functions so that they log which mutexes are held."""
    log: list[str] = []
    mutexes = (memcontrol.activate_kmem_mutex, memcontrol.memcg_slab_mutex, slab_common.slab_mutex)

    def traced(module: object, name: str) -> None:
        function = getattr(module, name)

        def call(*args: object) -> object:
            held = " -> ".join(m.name for m in mutexes if m.held()) or "nothing"
            log.append(f"  {name:<28} holding {held}")
            return function(*args)

        setattr(module, name, call)

    traced(memcontrol, "memcg_update_cache_size")
    traced(memcontrol, "memcg_kmem_create_cache")
    traced(slab_common, "do_kmem_cache_create")
    traced(memcontrol, "memcg_kmem_destroy_cache")
    return log


def life_of_a_child_cache() -> None:
    log = trace_locks()
    core.set_waker(None)  # no worker starts by itself, so that each step can be shown

    def tell(what: str) -> None:
        slot = memcontrol.memcg_cache_id(g)
        child = memcontrol.cache_from_memcg_idx(root, slot)
        print(f"{what}: slot {slot} holds {child.name if child else 'nothing'}")
        for line in dict.fromkeys(log):
            print(line, f"({log.count(line)} times)" if log.count(line) > 1 else "")
        log.clear()

    root = slab_common.kmem_cache_create("frame", 1000)
    log.clear()
    g = memcg.group("demo", max="1MiB")
    tell("group made and activated")
    held = [root.alloc(g) for _ in range(9)]
    tell(f"{len(held)} objects served by the root ({g.current} bytes charged)")
    held.append(root.alloc(g))
    workqueue.run_pending()
    tell("asked for, created by the worker, published")
    held.append(root.alloc(g))
    print(memcg.slabinfo("demo").splitlines()[-1])
    g.close()
    tell(f"offline with a live object: dead, charged to the parent (root {memcg.root.current})")
    for address in held:
        root.free(address)
    workqueue.run_pending()
    tell(f"last object freed: destroyed (root {memcg.root.current}, references {core.css_refs(g)})")
    slab_common.kmem_cache_destroy(root)
    print("root cache destroyed")


if __name__ == "__main__":
    life_of_a_child_cache()
