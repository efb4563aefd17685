"""What holds groups, as programs for `memory_model`: references, charges, what is asked for."""

from __future__ import annotations

from collections.abc import Callable

from litmus.memory_model import (
    Result,
    Thread,
    add,
    cas,
    exchange,
    explore,
    free,
    load,
    read,
    store,
    write,
)
from litmus.protocols import (
    DROPPED,
    ENTER,
    PRESENT,
    Orders,
    Protocol,
    Site,
    release_all,
    steal_all,
    thread_enter,
    thread_leave,
)  # fmt: skip

# -- references to a group: memcontrol.c


def _tryget(o: Orders) -> list[Result]:
    """One takes a reference if there is one left, while the others drop theirs."""

    def put() -> Thread:
        if (yield add("refs", -1, o["put"])) == 1:
            yield free("group")

    def user() -> Thread:
        yield read("group")
        yield from put()

    def taker() -> Thread:
        refs = yield load("refs")
        while refs > 0 or o["look"] == DROPPED:
            seen = yield cas("refs", refs, refs + 1, o["take"])
            if seen == refs:
                return (yield from user())
            refs = seen

    return [explore({"group": "made", "refs": 2}, taker, user, user)]


css_tryget = Protocol(
    "css_tryget",
    {
        "look": Site("memcontrol.c", "css_tryget", "while (refs > 0 && mem_cgroup_online(memcg))"),
        "take": Site(
            "memcontrol.c", "css_tryget",
            "__atomic_compare_exchange_n(&memcg->refs, &refs, refs + 1, true, {},", "ACQUIRE",
        ),
        "put": Site(
            "memcontrol.c", "css_put", "__atomic_sub_fetch(&memcg->refs, 1, {})", "ACQ_REL"
        ),
    },
    _tryget,
)  # fmt: skip


# -- charges: page_counter.c

LIMIT = {"a": 9, "b": 9, "parent": 2}


def _add(counter: str, n: int, atomic: str) -> Thread:
    """Return the new value."""
    if atomic == PRESENT:
        return (yield add(counter, n)) + n
    usage = (yield load(counter)) + n
    yield store(counter, usage)
    return usage


def _page_counter(o: Orders) -> list[Result]:
    """Two groups of one parent, which has room for one more."""

    def try_charge(group: str) -> Thread:
        charged = []
        for counter in (group, "parent"):
            charged.append(counter)
            usage = yield from _add(counter, 1, o["add"])
            if o["check"] == PRESENT and usage > LIMIT[counter]:
                for undo in charged if o["undo"] == PRESENT else ():
                    yield add(undo, -1)
                return False
        return True

    def uncharge() -> Thread:
        for counter in ("a", "parent"):
            yield from _add(counter, -1, o["give_back"])

    def check(last, ends):
        held = ends.count(True) + (1 if len(ends) == 2 else 0)
        assert last["parent"] == last["a"] + last["b"] == held, "charged is not what is held"
        assert held <= LIMIT["parent"], "the limit is passed"
        assert any(ends), "both were refused, and there was room for one"

    def charges(group: str) -> Callable[[], Thread]:
        return lambda: try_charge(group)

    initial = {"a": 1, "b": 0, "parent": 1}
    return [
        explore(initial, charges("a"), charges("b"), check=check),
        explore(initial, charges("a"), charges("b"), uncharge, check=check),
    ]


page_counter = Protocol(
    "page_counter",
    {
        "add": Site(
            "page_counter.c", "page_counter_try_charge",
            "__atomic_add_fetch(&c->usage, bytes, __ATOMIC_RELAXED)",
        ),
        "check": Site(
            "page_counter.c", "page_counter_try_charge", "if (usage > __atomic_load_n(&c->max,"
        ),
        "undo": Site(
            "page_counter.c", "page_counter_try_charge",
            "__atomic_sub_fetch(&undo->usage, bytes, __ATOMIC_RELAXED)",
        ),
        "give_back": Site(
            "page_counter.c", "page_counter_uncharge",
            "__atomic_sub_fetch(&counter->usage, bytes, __ATOMIC_RELAXED)",
        ),
    },
    _page_counter,
)  # fmt: skip


# -- what is asked for, once for a pair of group and root cache: shared.c, kmem_cache.c


def _pending(o: Orders) -> list[Result]:
    o = ENTER | o

    def promote() -> Thread:
        yield from thread_enter(o, 0)
        array = yield load("memcg_caches", o["see_array"])
        asks = not (yield exchange(f"{array}.pending", 1, o["claim"]))
        yield from thread_leave(o, 0)
        return asks

    def asks_twice() -> Thread:
        first = yield from promote()
        second = yield from promote()
        assert (first, second) == (True, False), "a pair has two items"

    def done() -> Thread:
        if o["inside"] == PRESENT:
            yield from thread_enter(o, 0)
        array = yield load("memcg_caches", o["done_sees_array"])
        yield store(f"{array}.pending", 0, o["done"])
        if o["inside"] == PRESENT:
            yield from thread_leave(o, 0)

    def grow() -> Thread:
        if o["steal"] == PRESENT:
            yield from steal_all(o, 0)
        yield write("new.pending", (yield load("old.pending")))
        yield store("memcg_caches", "new", o["array"])
        if o["steal"] == PRESENT:
            yield from release_all(o, 0)

    def check(last, _):
        assert not last["new.pending"], "a pair that is never asked for again"

    initial = {"busy0": 0, "stolen0": 0, "memcg_caches": "old", "new.pending": None}
    return [
        explore(initial | {"old.pending": 0}, asks_twice, grow),
        explore(initial | {"old.pending": 1}, done, grow, check=check),
    ]


pending = Protocol(
    "pending",
    {
        "see_array": Site(
            "shared.c", "promote", "__atomic_load_n(&root->memcg_caches, {})", "ACQUIRE"
        ),
        "claim": Site("shared.c", "promote", "__atomic_exchange_n(pending, 1, {})", "ACQ_REL"),
        "inside": Site(
            "kmem_cache.c", "memcg_create_done", "struct thread *self = thread_enter();"
        ),
        "done_sees_array": Site(
            "kmem_cache.c", "memcg_create_done", "__atomic_load_n(&root->memcg_caches, {})",
            "ACQUIRE",
        ),
        "done": Site(
            "kmem_cache.c", "memcg_create_done", "__atomic_store_n(&array->pending[id], 0, {})",
            "RELEASE",
        ),
        "steal": Site("kmem_cache.c", "memcg_update_cache_size", "thread_steal_all();"),
        "array": Site(
            "kmem_cache.c", "memcg_update_cache_size",
            "__atomic_store_n(&root->memcg_caches, array, {})", "RELEASE",
        ),
    },
    _pending,
)  # fmt: skip

PROTOCOLS = [css_tryget, page_counter, pending]
