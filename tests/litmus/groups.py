# SPDX-License-Identifier: Apache-2.0
"""A group's references, charges and pending items, as programs for `memory_model`.

Most accesses are relaxed: what counts is that a read-modify-write is one step. A site named
``..._whole`` checks that. Its mutant loads and then stores, both seq_cst, so that a violation
can have no other cause.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable

from litmus.memory_model import (
    FREED,
    RELAXED,
    SEQ_CST,
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
    SECTION,
    Orders,
    Protocol,
    Site,
    release_all,
    steal_all,
    thread_enter,
    thread_leave,
)


def _add(whole: str, location: str, n: int, order: str = RELAXED) -> Thread:
    """Return the old value."""
    if whole == PRESENT:
        return (yield add(location, n, order))
    old = yield load(location, SEQ_CST)
    yield store(location, old + n, SEQ_CST)
    return old


# -- references to a group: memcontrol.c


def _css_tryget(o: Orders) -> Thread:
    """Return whether a reference was left, so that another could be taken."""
    refs = yield load("refs")
    while refs > 0 or o["look"] == DROPPED:
        if o["take_whole"] == DROPPED:
            yield store("refs", refs + 1, SEQ_CST)
            return True
        seen = yield cas("refs", refs, refs + 1, o["take"])
        if seen == refs:
            return True
        refs = seen
    return False


def _css_put(o: Orders, *freed: str) -> Thread:
    """The thread that drops the last reference frees, by an event for the worker."""
    if (yield from _add(o["put_whole"], "refs", -1, o["put"])) == 1:
        for location in freed:
            yield free(location)


def _is_freed(last: dict[str, Hashable], _: object) -> None:
    assert last["group"] == FREED, "no thread has a reference, and none freed the group"


def _last_reference(o: Orders) -> list[Result]:
    """One thread takes a reference, by css_tryget() or css_get(), while others drop theirs."""

    def user() -> Thread:
        yield read("group")
        yield from _css_put(o, "group")

    def taker() -> Thread:
        if (yield from _css_tryget(o)):
            yield from user()

    def getter() -> Thread:
        yield from _add(o["get_whole"], "refs", 1)
        yield from user()
        yield from user()

    initial = {"group": "made", "refs": 2}
    return [
        explore(initial, taker, user, user, check=_is_freed),
        explore(initial, getter, user, check=_is_freed),
    ]


def _dying(o: Orders) -> list[Result]:
    """A thread finds the group in a section while it goes offline. Its count is freed with it."""
    o = ENTER | o

    def finds() -> Thread:
        yield from thread_enter(o, 0)
        taken = bool((yield read("current"))) and (yield from _css_tryget(o))
        yield from thread_leave(o, 0)
        if taken:
            yield read("group")
            yield from _css_put(o, "group", "refs")

    def offline() -> Thread:
        if o["steal"] == PRESENT:
            yield from steal_all(o, 0)
        yield write("current", None)
        if o["steal"] == PRESENT:
            yield from release_all(o, 0)
        yield from _css_put(o, "group", "refs")

    initial = {"busy0": 0, "stolen0": 0, "current": "group", "group": "made", "refs": 1}
    return [explore(initial, finds, offline, check=_is_freed)]


css_tryget = Protocol(
    "css_tryget",
    {
        "look": Site("css.c", "css_tryget", "while (refs > 0 && mem_cgroup_online(memcg))"),
        "take": Site(
            "css.c", "css_tryget",
            "cas_weak_{}(&memcg->refs, &refs, refs + 1)", "ACQUIRE",
        ),
        "take_whole": Site(
            "css.c", "css_tryget",
            "cas_weak_acquire(&memcg->refs, &refs, refs + 1)",
        ),
        "get_whole": Site(
            "css.c", "css_get", "add_relaxed(&memcg->refs, 1);"
        ),
        "put": Site(
            "css.c", "css_put", "sub_{}(&memcg->refs, 1) == 0", "ACQ_REL"
        ),
        "put_whole": Site(
            "css.c", "css_put",
            "sub_acq_rel(&memcg->refs, 1) == 0",
        ),
        "steal": Site("memcontrol.c", "mem_cgroup_offline", "thread_steal_all();"),
        "membarrier": SECTION["membarrier"],
    },
    lambda o: _last_reference(o) + _dying(o),
)  # fmt: skip


# -- charges: page_counter.c

LIMIT = {"a": 9, "b": 9, "parent": 2}


def _try_charge(o: Orders, group: str) -> Thread:
    charged = []
    for counter in (group, "parent"):
        charged.append(counter)
        if o["add_first"] == PRESENT:
            usage = (yield from _add(o["add_whole"], counter, 1)) + 1
        else:
            usage = (yield load(counter, SEQ_CST)) + 1
        if o["check"] == PRESENT and usage > LIMIT[counter]:
            if o["add_first"] == DROPPED:
                charged.pop()
            for undo in charged if o["undo"] == PRESENT else ():
                yield from _add(o["undo_whole"], undo, -1)
            return False
        if o["add_first"] == DROPPED:
            yield add(counter, 1, SEQ_CST)
    return True


def _page_counter(o: Orders) -> list[Result]:
    """Two groups have one parent, which has room for one more. The first group holds one.

    The limit does not change: mem_cgroup_set_limit() beside a charge is not modelled.
    """

    def charges(group: str) -> Callable[[], Thread]:
        return lambda: _try_charge(o, group)

    def forces() -> Thread:
        for counter in ("a", "parent"):
            yield from _add(o["force_whole"], counter, 1)

    def uncharges() -> Thread:
        for counter in ("a", "parent"):
            yield from _add(o["give_back_whole"], counter, -1)

    def checks(held: int, forced: int = 0) -> Callable[..., None]:
        def check(last: dict[str, int], ends: tuple[bool | None, ...]) -> None:
            both = held + ends.count(True)
            assert last["parent"] == last["a"] + last["b"] == both, "the charge is not what is held"
            assert both - forced <= LIMIT["parent"], "the usage is above the limit"
            assert any(ends) or forced, "both were refused, although there was room for one"

        return check

    a, b, initial = charges("a"), charges("b"), {"a": 1, "b": 0, "parent": 1}
    return [
        explore(initial, a, b, check=checks(1)),
        explore(initial, a, b, uncharges, check=checks(0)),
        explore(initial, b, forces, check=checks(2, forced=1)),
    ]


page_counter = Protocol(
    "page_counter",
    {
        "add_whole": Site(
            "page_counter.c", "page_counter_try_charge",
            "add_relaxed(&c->usage, bytes)",
        ),
        "add_first": Site(
            "page_counter.c", "page_counter_try_charge",
            "int64_t usage = add_relaxed(&c->usage, bytes); "
            "if (usage > load_relaxed(&c->max)",
        ),
        "check": Site(
            "page_counter.c", "page_counter_try_charge", "if (usage > load_relaxed(&c->max)"
        ),
        "undo": Site(
            "page_counter.c", "page_counter_try_charge",
            "for (undo = counter; undo != c->parent; undo = undo->parent)",
        ),
        "undo_whole": Site(
            "page_counter.c", "page_counter_try_charge",
            "sub_relaxed(&undo->usage, bytes)",
        ),
        "force_whole": Site(
            "page_counter.c", "page_counter_charge",
            "add_relaxed(&counter->usage, bytes)",
        ),
        "give_back_whole": Site(
            "page_counter.c", "page_counter_uncharge",
            "sub_relaxed(&counter->usage, bytes)",
        ),
    },
    _page_counter,
)  # fmt: skip


# -- the pending item of a group and a root cache: shared.c, kmem_cache.c


def _promote(o: Orders, i: int, memory: bool = True) -> Thread:
    """Return whether thread i posted an item. Without memory for one it clears the flag."""
    yield from thread_enter(o, i)
    array = yield load("memcg_caches", o["see_array"])
    assert (yield read(f"{array}.nr_slots")) == 1, "an array that is not made yet"
    asks = not (yield load(f"{array}.pending"))
    if asks and o["claim_whole"] == PRESENT:
        asks = not (yield exchange(f"{array}.pending", 1, o["claim"]))
    elif asks:
        yield store(f"{array}.pending", 1, SEQ_CST)
    if asks and not memory and o["gives_up"] == PRESENT:
        yield store(f"{array}.pending", 0, o["take_back"])
    yield from thread_leave(o, i)
    return asks and memory


def _create_done(o: Orders) -> Thread:
    if o["inside"] == PRESENT:
        yield from thread_enter(o, 0)
    array = yield load("memcg_caches", o["done_sees_array"])
    assert (yield read(f"{array}.nr_slots")) == 1, "an array that is not made yet"
    yield store(f"{array}.pending", 0, o["done"])
    if o["inside"] == PRESENT:
        yield from thread_leave(o, 0)


def _grow(o: Orders, *others: int) -> Thread:
    """Copy the flags with plain loads, as memcg_update_cache_size() does."""
    if o["steal"] == PRESENT:
        yield from steal_all(o, *others)
    yield write("new.nr_slots", 1)
    yield write("new.pending", (yield read("old.pending")))
    yield store("memcg_caches", "new", o["array"])
    if o["steal"] == PRESENT:
        yield from release_all(o, *others)


def _pending(o: Orders) -> list[Result]:
    """A flag is set if and only if an item is pending."""
    o = ENTER | o

    def promotes(i: int, memory: bool = True) -> Callable[[], Thread]:
        return lambda: _promote(o, i, memory)

    def twice() -> Thread:
        return [(yield from _promote(o, 0)), (yield from _promote(o, 0))].count(True)

    def done() -> Thread:
        yield from _create_done(o)
        return -1

    def grows(*others: int) -> Callable[[], Thread]:
        return lambda: _grow(o, *others)

    def checks(items: int, array: str) -> Callable[..., None]:
        def check(last: dict[str, int], ends: tuple[int | None, ...]) -> None:
            left = items + sum(end or 0 for end in ends)
            assert left <= 1, "a pair has two items"
            assert last[f"{array}.pending"] == left, "a flag without an item, or the reverse"

        return check

    initial = {"memcg_caches": "old", "old.nr_slots": 1, "new.nr_slots": None, "new.pending": None}
    initial |= {"old.pending": 0, "busy0": 0, "stolen0": 0, "busy1": 0, "stolen1": 0}
    asked = initial | {"old.pending": 1}
    return [
        explore(initial, promotes(0), promotes(1), check=checks(0, "old")),
        explore(initial, promotes(0, memory=False), promotes(1), check=checks(0, "old")),
        explore(asked, done, promotes(1), check=checks(1, "old")),
        explore(initial, twice, grows(0), check=checks(0, "new")),
        explore(asked, done, grows(0), check=checks(1, "new")),
    ]


pending = Protocol(
    "pending",
    {
        "see_array": Site(
            "shared.c", "promote", "load_{}(&root->memcg_caches)", "ACQUIRE"
        ),
        "claim": Site("shared.c", "promote", "exchange_{}(pending, 1)", "ACQ_REL"),
        "claim_whole": Site(
            "shared.c", "promote", "!exchange_acq_rel(pending, 1)"
        ),
        "take_back": Site("shared.c", "promote", "store_{}(pending, 0)", "RELEASE"),
        "gives_up": Site(
            "shared.c", "promote", "return; } store_release(pending, 0);"
        ),
        "inside": Site(
            "kmem_cache.c", "memcg_create_done", "struct thread *self = thread_enter();"
        ),
        "done_sees_array": Site(
            "kmem_cache.c", "memcg_create_done", "load_{}(&root->memcg_caches)",
            "ACQUIRE",
        ),
        "done": Site(
            "kmem_cache.c", "memcg_create_done", "store_{}(&array->pending[id], 0)",
            "RELEASE",
        ),
        "steal": Site("kmem_cache.c", "memcg_update_cache_size", "thread_steal_all();"),
        "array": Site(
            "kmem_cache.c", "memcg_update_cache_size",
            "store_{}(&root->memcg_caches, array)", "RELEASE",
        ),
        "membarrier": SECTION["membarrier"],
    },
    _pending,
)  # fmt: skip

PROTOCOLS = [css_tryget, page_counter, pending]
