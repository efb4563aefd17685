"""The main job on real input: tenants beside a hog, and the life of one child cache.

Every figure printed is read from the running system.
"""

from __future__ import annotations

import hashlib
import sysconfig
import threading
from pathlib import Path

import memcg
from memcg import core, memcontrol, slab_common, workqueue

SOURCES = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
blocks = memcg.KmemCache("source-block", size=4096, align=64)


def store(text: bytes) -> list[memoryview]:
    """Copy `text` into blocks charged to the current group."""
    held = []
    try:
        for start in range(0, len(text), blocks.size):
            piece = text[start : start + blocks.size]
            held.append(blocks.alloc())
            memoryview(held[-1])[: len(piece)] = piece
    except memcg.MemcgOOM:
        release(held)
        raise
    return held


def release(held: list[memoryview]) -> None:
    while held:
        blocks.free(held.pop())


def tenant(name: str, share: list[Path], results: dict[str, bool]) -> None:
    """Hold a share of the standard library, then check every byte of it."""
    with memcg.group(f"tenants/{name}", max="64MiB"):
        held = {path: store(path.read_bytes()) for path in share}
        right = True
        for path, pieces in held.items():
            text = path.read_bytes()
            stored = b"".join(pieces)[: len(text)]
            right &= hashlib.sha256(stored).digest() == hashlib.sha256(text).digest()
        results[name] = right
        rows.append((name, memcg.current().current, memcg.current().peak))
        for pieces in held.values():
            release(pieces)


def hog(stop: threading.Event, hits: list[str]) -> None:
    """Meet a limit of 256 KiB again and again."""
    with memcg.group("tenants/hog", max="256KiB"):
        while True:
            held: list[memoryview] = []
            try:
                while True:
                    held.append(blocks.alloc())
            except memcg.MemcgOOM as error:
                hits.append(str(error))
                del error
            release(held)
            if stop.is_set():
                return


rows: list[tuple[str, int, int]] = []


def tenants_and_hog() -> None:
    print(f"-- {len(SOURCES)} modules of the standard library in 3 tenants, beside a hog")
    stop, hits, results = threading.Event(), [], {}
    neighbour = threading.Thread(target=hog, args=(stop, hits))
    tenants = [
        threading.Thread(target=tenant, args=(f"t{i}", SOURCES[i::3], results)) for i in range(3)
    ]
    neighbour.start()
    for thread in tenants:
        thread.start()
    for thread in tenants:
        thread.join()
    stop.set()
    neighbour.join()
    workqueue.flush()
    print(f"{'group':<12} {'current':>10} {'peak':>10}  result")
    for name, current, peak in sorted(rows):
        verdict = "complete and right" if results[name] else "WRONG"
        print(f"{name:<12} {current:>10} {peak:>10}  {verdict}")
    h = memcg.group("tenants/hog")
    print(f"{'hog':<12} {h.current:>10} {h.peak:>10}  {h.events['oom']} times at its limit:")
    print(f"  {hits[0]}")
    memcg.group("tenants").close(recursive=True)
    workqueue.flush()
    blocks.shrink()
    print(f"closed: root current {memcg.root.current} bytes\n")
    if not all(results.values()) or len(results) != 3:
        raise SystemExit("a tenant's result is wrong")


def trace_locks() -> list[str]:
    """Wrap the creation and destruction functions so that they tell which mutexes are held."""
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
    print("-- the life of one child cache")
    log = trace_locks()
    core.set_waker(None)  # the worker waits, so that each step can be shown

    def tell(what: str) -> None:
        child = memcontrol.cache_from_memcg_idx(root, g.kmemcg_id)
        print(f"{what}: slot {g.kmemcg_id} holds {child.name if child else 'nothing'}")
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
    tell(f"last object freed: destroyed (root {memcg.root.current}, references {g.css_refs})")
    slab_common.kmem_cache_destroy(root)
    print("root cache destroyed")


if __name__ == "__main__":
    tenants_and_hog()
    life_of_a_child_cache()
