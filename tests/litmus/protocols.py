# SPDX-License-Identifier: Apache-2.0
"""The native core's lock-free protocols, as programs for `memory_model`.

Each protocol names the C accesses that it mirrors (`Site`). Its builder gets their orders and runs
every execution. Weakening one order makes a mutant. Retries that fail again and caches that are
full are left out. `docs/design.md` has the protocols in words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from litmus.memory_model import (
    Result,
    Thread,
    add,
    cas,
    exchange,
    explore,
    free,
    join,
    load,
    lock,
    membarrier,
    read,
    store,
    unlock,
    wait,
    write,
)

Orders = dict[str, str]
PRESENT, DROPPED = "PRESENT", "DROPPED"


class Site(NamedTuple):
    """An access in C: its text, with ``{}`` in place of the order, and single spaces."""

    file: str
    function: str
    text: str
    order: str = PRESENT  # the order of a call that has none; a mutant drops the call


class Protocol(NamedTuple):
    name: str
    sites: dict[str, Site]
    run: Callable[[Orders], list[Result]]

    def orders(self, **changed: str) -> Orders:
        return {name: site.order for name, site in self.sites.items()} | changed

    def mutants(self) -> Iterator[tuple[str, str]]:
        """Yield a mutant for every next weaker order of every site."""
        weaker = {
            "SEQ_CST": ("ACQ_REL", "RELAXED"),
            "ACQ_REL": ("ACQUIRE", "RELEASE"),
            "ACQUIRE": ("RELAXED",),
            "RELEASE": ("RELAXED",),
            "RELAXED": (),
            PRESENT: (DROPPED,),
        }
        for name, site in self.sites.items():
            for order in weaker[site.order]:
                yield name, order


# -- sections and walkers: section.c, section.h

SECTION = {
    "set_busy": Site(
        "section.h",
        "section_begin",
        "store_{}(&self->busy, 1); compiler_fence",
        "RELAXED",
    ),
    "compiler_fence": Site("section.h", "section_begin", "compiler_fence()"),
    "see_stolen": Site("section.h", "section_begin", "(!load_{}(&self->stolen), 1)", "ACQUIRE"),
    "back_off": Site("section.h", "section_begin", "store_{}(&self->busy, 0)", "RELEASE"),
    "end": Site("section.h", "section_end", "store_{}(&self->busy, 0)", "RELEASE"),
    "steal": Site(
        "section.c",
        "thread_steal_wanted",
        "store_{}(&t->stolen, STOLEN_BY_WALKER | stolen_idle())",
        "SEQ_CST",
    ),
    "membarrier": Site("section.c", "thread_steal_wanted", "barrier_everywhere();"),
    "see_busy": Site(
        "section.c",
        "thread_steal_wanted",
        "while (t->wanted && load_{}(&t->busy))",
        "SEQ_CST",
    ),
    "let_go": Site(
        "section.c",
        "thread_release_all",
        "store_{}(&t->stolen, stolen_idle())",
        "RELEASE",
    ),
}
ENTER = {name: site.order for name, site in SECTION.items()}


def section_begin(o: Orders, i: int) -> Thread:
    """Return whether thread i is in the section."""
    if o["compiler_fence"] == DROPPED:  # the compiler may put the load first
        stolen = yield load(f"stolen{i}", o["see_stolen"])
        yield store(f"busy{i}", 1, o["set_busy"])
    else:
        yield store(f"busy{i}", 1, o["set_busy"])
        stolen = yield load(f"stolen{i}", o["see_stolen"])
    if stolen:
        yield store(f"busy{i}", 0, o["back_off"])
    return not stolen


def thread_enter(
    o: Orders, i: int, begin: Callable[[Orders, int], Thread] = section_begin
) -> Thread:
    """Enter. With one walker the second try succeeds; the wait only skips tries that fail."""
    if not (yield from begin(o, i)):
        yield wait(f"stolen{i}", lambda stolen: not stolen & 1)
        assert (yield from begin(o, i)), "stolen a second time"


def thread_leave(o: Orders, i: int) -> Thread:
    yield store(f"busy{i}", 0, o["end"])


def steal_all(o: Orders, *owners: int, idle: int = 0) -> Thread:
    for i in owners:
        yield store(f"stolen{i}", 1 | idle, o["steal"])
    if o.get("membarrier") == PRESENT:
        yield from membarrier(*owners)
    for i in owners:
        yield wait(f"busy{i}", lambda busy: not busy, o["see_busy"])


def release_all(o: Orders, *owners: int, idle: int = 0) -> Thread:
    for i in owners:
        yield store(f"stolen{i}", idle, o["let_go"])


def _stock(o: Orders, begin: Callable[[Orders, int], Thread], idle: int) -> list[Result]:
    """An owner uses its stock in two sections, and a walker drains it (heap_drain_stock)."""

    def owner() -> Thread:
        for _ in range(2):
            yield from thread_enter(o, 0, begin)
            stock = yield read("stock")
            if stock:
                yield write("stock", stock - 1)
            else:
                yield add("usage", 1)
            yield from thread_leave(o, 0)

    def walker() -> Thread:
        yield from steal_all(o, 0, idle=idle)
        stock = yield read("stock")
        yield write("stock", 0)
        yield add("usage", -stock)
        yield from release_all(o, 0, idle=idle)

    def check(last, _):
        assert last["usage"] - last["stock"] == 2, "the charge is not what is used"

    initial = {"busy0": 0, "stolen0": idle, "stock": 2, "usage": 2}
    return [explore(initial, owner, walker, check=check)]


section = Protocol("section", SECTION, lambda o: _stock(o, section_begin, 0))


def section_begin_slow(o: Orders, i: int) -> Thread:
    """Begin without membarrier: `stolen` is never 0, so the fast begin backs off."""
    assert not (yield from section_begin(ENTER, i)), "the fast path was taken without membarrier"
    yield store(f"busy{i}", 1, o["set_busy_slow"])
    if not (yield load(f"stolen{i}", o["see_stolen_slow"])) & 1:
        return True
    yield store(f"busy{i}", 0, o["back_off_slow"])
    return False


section_without_membarrier = Protocol(
    "section_without_membarrier",
    {
        "set_busy_slow": Site(
            "section.c", "section_begin_slow", "store_{}(&self->busy, 1)", "SEQ_CST"
        ),
        "see_stolen_slow": Site(
            "section.c", "section_begin_slow", "load_{}(&self->stolen)", "SEQ_CST"
        ),
        "back_off_slow": Site(
            "section.c", "section_begin_slow", "store_{}(&self->busy, 0)", "RELEASE"
        ),
        **{name: SECTION[name] for name in ("end", "steal", "see_busy", "let_go")},
    },
    lambda o: _stock(o, section_begin_slow, 2),
)


# -- frees by other threads: free.c, slab.c

REMOTE = {
    "push": Site(
        "free.c",
        "slab_free",
        "cas_weak_{}(&slab->remote, &first, object)",
        "ACQ_REL",
    ),
    "list": Site(
        "free.c",
        "slab_free",
        "cas_weak_{}(&owner->remote_slabs, &slab->next_remote, slab)",
        "RELEASE",
    ),
    "take_list": Site(
        "slab.c", "slab_collect", "exchange_{}(&self->remote_slabs, NULL)", "ACQUIRE"
    ),
    "take": Site("slab.c", "slab_collect", "exchange_{}(&slab->remote, NULL)", "ACQ_REL"),
}


def put_first(head: str, node: str, link: str, order: str) -> Thread:
    """Put a node at the head of a list, and return the node that was first."""
    first = yield load(head)
    while True:
        yield write(link, first)
        seen = yield cas(head, first, node, order)
        if seen == first:
            return first
        first = seen


def push(o: Orders, slab: str, thing: str, owner: str) -> Thread:
    """Free an object that another thread owns, as slab_free() does."""
    first = yield from put_first(f"{slab}.remote", thing, f"{thing}.next", o["push"])
    if first is None:
        yield from put_first(f"{owner}.remote_slabs", slab, f"{slab}.next_remote", o["list"])


def slab_collect(o: Orders, owner: str) -> Thread:
    """Return the objects that other threads freed, as slab_collect() does."""
    slab = yield exchange(f"{owner}.remote_slabs", None, o["take_list"])
    found = ()
    while slab:
        following = yield read(f"{slab}.next_remote")
        thing = yield exchange(f"{slab}.remote", None, o["take"])
        assert thing is not None, "a listed slab has no object"
        while thing is not None:
            found += (thing,)
            after = yield read(f"{thing}.next")
            yield write(f"{thing}.next", "allocated again")
            thing = after
        slab = following
    return found


def _remote_free(o: Orders, slab_of_b: str) -> list[Result]:
    def owner() -> Thread:
        found = ()
        if (yield load("o.remote_slabs")) is not None:
            found += yield from slab_collect(o, "o")
        yield join(1, 2)
        return found + (yield from slab_collect(o, "o"))

    def check(last, ends):
        assert sorted(ends[0]) == ["a", "b"], f"freed a and b, collected {ends[0]}"

    initial = {"o.remote_slabs": None, "a.next": "in use", "b.next": "in use"}
    for slab in ("s", "t"):
        initial |= {f"{slab}.remote": None, f"{slab}.next_remote": None}
    return [
        explore(
            initial,
            owner,
            lambda: push(o, "s", "a", "o"),
            lambda: push(o, slab_of_b, "b", "o"),
            check=check,
        )
    ]


remote_free = Protocol("remote_free", REMOTE, lambda o: _remote_free(o, "s") + _remote_free(o, "t"))


# -- a thread ends, another adopts its slab, a third frees into it: slab.c, free.c, thread.c


def _hand_over(o: Orders) -> list[Result]:
    o = o | {name: REMOTE[name].order for name in REMOTE} | ENTER | o

    def freer() -> Thread:
        yield from thread_enter(o, 0)
        owner = yield load("owner", o["see_owner"])
        put = 0
        while owner is None:
            yield lock("lock")
            adopted = (yield load("owner")) is not None
            if not adopted or o["look"] == DROPPED:
                put = 1
                yield write("inuse", (yield read("inuse")) - 1)
            yield unlock("lock")
            if put:
                break
            owner = yield load("owner", o["see_owner"])
        if not put:
            yield from push(o, "s", "a", owner)
        yield from thread_leave(o, 0)
        return put

    def ends() -> Thread:
        yield from steal_all(o, 0)
        found = yield from slab_collect(o, "old")
        yield write("inuse", (yield read("inuse")) - len(found))
        yield lock("lock")
        yield write("partial", True)
        yield store("owner", None, o["let_go_slab"])
        yield unlock("lock")
        yield free("old.remote_slabs")
        yield from release_all(o, 0)

    def adopts() -> Thread:
        yield write("new.remote_slabs", None)  # thread_create()
        yield lock("lock")
        adopted = yield read("partial")
        if adopted:
            yield store("owner", "new", o["adopt"])
        yield unlock("lock")
        if adopted:  # it allocates from the slab, and takes no lock for that
            yield write("inuse", (yield read("inuse")) + 1)
        yield join(0, 1)
        found = yield from slab_collect(o, "new")
        yield write("inuse", (yield read("inuse")) - len(found))
        return adopted

    def check(last, ends):
        assert last["inuse"] == ends[2], f"one of two was freed, inuse is {last['inuse']}"

    initial = {
        "busy0": 0, "stolen0": 0, "owner": "old", "lock": None, "partial": False, "inuse": 1,
        "s.remote": None, "s.next_remote": None, "a.next": "in use",
        "old.remote_slabs": None, "new.remote_slabs": "no thread yet",
    }  # fmt: skip
    return [explore(initial, freer, ends, adopts, check=check)]


hand_over = Protocol(
    "hand_over",
    {
        "see_owner": Site("free.c", "slab_free", "load_{}(&slab->owner)", "ACQUIRE"),
        "look": Site("free.c", "slab_free_no_owner", "if (load_relaxed(&slab->owner))"),
        "adopt": Site("slab.c", "slab_refill", "store_{}(&slab->owner, heap->thread)", "RELEASE"),
        "let_go_slab": Site("slab.c", "slab_hand_over", "store_{}(&slab->owner, NULL)", "RELEASE"),
        "membarrier": SECTION["membarrier"],
    },
    _hand_over,
)


# -- child caches by kmemcg_id: kmem_cache.c


def _lookup(o: Orders) -> Thread:
    """Look a child up, as cache_from_memcg_idx() does, and read it."""
    array = yield load("memcg_caches", o["see_array"])
    if array is None:
        return None
    yield read(f"{array}.nr_slots")
    child = yield load(f"{array}.slot", o["see_slot"])
    if child is not None:
        assert (yield read(child)) == "made", "the child is not made yet"
    return child


def _array(o: Orders, array: str, child: str | None) -> Thread:
    """Publish a new array, as memcg_update_cache_size() does."""
    yield write(f"{array}.nr_slots", 1)
    yield write(f"{array}.slot", child)
    yield store("memcg_caches", array, o["array"])


def _publish_lookup_grow(o: Orders) -> list[Result]:
    o = ENTER | o

    def reader() -> Thread:
        yield from thread_enter(o, 0)
        found = yield from _lookup(o)
        yield from thread_leave(o, 0)
        return found

    def publishes() -> Thread:
        yield from _array(o, "old", None)
        yield write("child", "made")
        yield store("old.slot", "child", o["publish"])
        yield from _array(o, "new", "child")

    def grows_and_retires() -> Thread:
        yield from _array(o, "new", "child")
        yield store("new.slot", None, o["publish"])
        if o["synchronize"] == PRESENT:
            yield from steal_all(o, 0)
            yield from release_all(o, 0)
        yield free("child")

    def both() -> Thread:
        first = yield from reader()
        second = yield from reader()
        assert first is None or second is not None, "a published child was lost"

    initial = {"busy0": 0, "stolen0": 0, "memcg_caches": None, "child": None}
    initial |= {f"{a}.{field}": None for a in ("old", "new") for field in ("nr_slots", "slot")}
    made = {"memcg_caches": "old", "child": "made", "old.slot": "child", "old.nr_slots": 1}
    return [explore(initial, both, publishes), explore(initial | made, reader, grows_and_retires)]


publish_lookup_grow = Protocol(
    "publish_lookup_grow",
    {
        "array": Site(
            "kmem_cache.c",
            "memcg_update_cache_size",
            "store_{}(&root->memcg_caches, array)",
            "RELEASE",
        ),
        "publish": Site(
            "kmem_cache.c", "memcg_cache_publish", "store_{}(&array->slot[id], child)",
            "RELEASE",
        ),
        "see_array": Site(
            "kmem_cache.c", "cache_from_memcg_idx", "load_{}(&root->memcg_caches)",
            "ACQUIRE",
        ),
        "see_slot": Site(
            "kmem_cache.c", "cache_from_memcg_idx", "load_{}(&array->slot[id])",
            "ACQUIRE",
        ),
        "synchronize": Site("kmem_cache.c", "kmem_cache_free_struct", "memcg_synchronize();"),
        "membarrier": SECTION["membarrier"],
    },
    _publish_lookup_grow,
)  # fmt: skip


# -- references, and slabs by address


def _last_reference(o: Orders) -> list[Result]:
    """Two users drop their references, and the last of them frees."""

    def user() -> Thread:
        yield read("object")
        if (yield add("refs", -1, o["put"])) == 1:
            yield free("object")

    return [explore({"object": 0, "refs": 2}, user, user)]


def _references(file: str, function: str, counter: str) -> Protocol:
    site = Site(file, function, f"sub_{{}}(&{counter}, 1)", "ACQ_REL")
    return Protocol(function, {"put": site}, _last_reference)


def _page_slab(o: Orders) -> list[Result]:
    def makes() -> Thread:
        yield write("slab", "made")
        yield store("page_slab", "slab", o["set"])

    def looks() -> Thread:
        if (yield load("page_slab", o["see"])) is not None:
            assert (yield read("slab")) == "made"

    return [explore({"slab": None, "page_slab": None}, makes, looks)]


page_slab = Protocol(
    "page_slab",
    {
        "set": Site(
            "arena.c", "set_page_slab", "store_{}(&arena.page_slab[first + i], slab)",
            "RELEASE",
        ),
        "see": Site(
            "arena.h", "page_to_slab", "load_{}(&arena.page_slab[page])",
            "ACQUIRE",
        ),
    },
    _page_slab,
)  # fmt: skip

PROTOCOLS = [
    section,
    section_without_membarrier,
    remote_free,
    hand_over,
    publish_lookup_grow,
    _references("css.c", "css_put", "memcg->refs"),
    _references("css.c", "objcg_put", "objcg->refs"),
    _references("kmem_cache.c", "kmem_cache_put", "s->refs"),
    page_slab,
]
