# SPDX-License-Identifier: Apache-2.0
"""The control plane is used while each of CPython's own small objects fails in turn.

memcg never refuses such requests, but a machine without memory does. Operations that wait for a
thread are left out: a `threading.Condition` stays locked if its ``__exit__`` finds no memory for
its frame.
"""

from __future__ import annotations

import sys

import pytest

# `inside` stays open, and gets child caches once it has many objects.
PRELUDE = """
memcg.install()
frames = memcg.KmemCache("frame", 3000)
SMALL = (1, 1024)

def read():
    now = state()
    return {
        "groups": sorted(now["groups"]), "dying": now["dying"], "ids": now["ids"],
        "caches": [name for name in now["caches"] if "inside" not in name],
        "frames": frames._cache.info().active_objs,
        "current": core.current(),
    }
"""


def sweep_small(sweep, operation):
    return sweep(
        f"""{PRELUDE}
{operation}

def close_all():
    for g in list(memcg.root.children.values()):
        g.close(recursive=True)

figures = dict(faults=0, told=0)
for _ in range(3):
    operation()
    close_all()
before = read()
for n in itertools.count(1):
    refused = False
    with faults.inject(nth=n, size=SMALL) as injected:
        try:
            operation()
        except MemoryError:
            refused = True
    close_all()  # as its maker would if it were found half-made
    assert injected.faults or not refused
    figures["faults"] += injected.faults
    figures["told"] += refused
    check_locks()
    assert not workqueue.failures, workqueue.failures
    check_same(before, read, f"request {{n}} failed")
    operation()
    close_all()
    check_same(before, read, f"request {{n}} failed, then it was done again")
    if not injected.faults:
        break
print(json.dumps(figures))
""",
        MEMCG_LOCKDEP="",
    )  # lockdep's own objects would fail too


OPERATIONS = {
    "make groups": """
def operation():
    memcg.group("a/b", max="1MiB")
""",
    "close a group": """
def operation():
    memcg.group("a").close()
""",
    "a scope": """
def operation():
    with memcg.scope("t", max="1MiB"):
        [object() for _ in range(10)]
""",
    "buffers": """
def operation():
    with memcg.scope("t"):
        frames.free_bulk(frames.alloc_bulk(5))
""",
    "limits and figures": """
def operation():
    with memcg.scope("t", max="64MiB") as g:
        g.high = "50MiB"
        g["memory.stat"], g["memory.events"], g.report(), memcg.slabinfo("t")
""",
}


# Plain CPython 3.12 and 3.13 crash too if `_testcapi.set_nomemory()` is called around a function
# with a generator expression, such as any(part in ("", "..") for part in parts). 3.11 does not.
@pytest.mark.skipif(
    (3, 12) <= sys.version_info < (3, 14),
    reason="CPython 3.12 and 3.13 crash if a generator expression finds no memory",
)
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_without_memory_for_an_object_leaves_nothing(sweep, name):
    figures = sweep_small(sweep, OPERATIONS[name])
    assert figures["faults"] > 7  # closing a group makes 8 objects on 3.15, when it is kept
    assert figures["told"] > 0.5 * figures["faults"]


def test_an_event_is_not_lost_for_want_of_an_object(sweep):
    faults, kinds = sweep("""
    memcg.install()
    from memcg.control import cgroup
    cgroup.NR_SPARE = 0  # a group that is kept posts no event when it is closed
    core.set_waker(None)  # only this test takes events
    total, kinds = 0, []
    for n in itertools.count(1):
        memcg.group("g").close()
        with faults.inject(nth=n, size=(1, 1024)) as injected:
            try:
                event = core.next_event()
            except MemoryError:
                event = None
        total += injected.faults
        if event is None:
            event = core.next_event()
        assert event is not None, f"request {n} failed and the event is gone"
        kinds.append(event.kind)
        workqueue._handle(event)
        assert core.next_event() is None
        assert not memcontrol._used_ids and not memcontrol.dying
        if not injected.faults:
            break
    print(json.dumps([total, sorted(set(kinds))]))
    """)
    assert faults >= 1
    assert kinds == ["release"]


def test_tables_of_groups_and_caches_that_may_not_grow_stay_whole(sweep):
    """memcg does refuse the dicts of groups, ids and caches once they are larger than 1 KiB."""
    groups, caches = sweep(f"""{PRELUDE}
inside = memcg.group("inside")
held = []

def many_groups():
    with inside:
        for i in range(150):
            memcg.group(f"t/{{i}}")
        memcg.group("t").close(recursive=True)

def many_caches():
    with inside:
        for i in range(60):
            held.append(memcg.KmemCache(f"cache-{{i}}", 64))

def clean():
    t = memcg.root.children.get("t")
    if t is not None:
        t.close(recursive=True)
    while held:
        held.pop().destroy()

def exhaust_fresh(operation):
    # a dict stays grown, so each turn needs one that has not grown
    before, total = read(), [0, 0]
    for n in itertools.count(1):
        memcg.root.children = dict(memcg.root.children)
        memcontrol._used_ids = dict(memcontrol._used_ids)
        memcontrol.dying.clear()
        slab_common.slab_caches = dict(slab_common.slab_caches)
        with faults.inject(nth=n) as injected:
            try:
                operation()
                refused = False
            except MemoryError:
                refused = True
        clean()
        total[0] += injected.faults
        total[1] += refused
        check_locks()
        assert not workqueue.failures, workqueue.failures
        check_same(before, read, f"{{operation.__name__}}, request {{n}} failed")
        if not injected.faults:
            return total

print(json.dumps([exhaust_fresh(many_groups), exhaust_fresh(many_caches)]))
""")
    assert groups[1] > 0
    assert caches[1] > 0
