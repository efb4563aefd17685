# SPDX-License-Identifier: Apache-2.0
"""No kind of offender gets much further than its 64 MiB, the reserve and the overdraft."""

from __future__ import annotations

import pytest

MIB = 1 << 20
MAX, RESERVE, OVERDRAFT = 64 * MIB, 16 * MIB, 16 * MIB  # the defaults
CEILING = MAX + RESERVE + OVERDRAFT
# The sum of all grants: 256 KiB, then half as much each time down to 4 KiB. A slab may be 32 KiB.
GRANTS = MIB
RATE = 64 << 10  # bytes a second, of an offender that catches its errors and keeps its objects

BESIDE = """
import collections, itertools, operator, functools, io, pickle, csv, re, struct, weakref
from itertools import count, repeat
g = memcg.group("hog", max="64MiB")
"""

# One call into C makes small objects only, and checks for no exceptions in between.
CALLS = {
    "a deque of strings": "collections.deque(map(str, count()))",
    "a deque of one tuple": "collections.deque(repeat((1,)))",
    "a deque of tuples": "collections.deque(zip(count(), count()))",
    "a deque of pairs": "collections.deque(enumerate(repeat(None)))",
    "a deque of combinations": "collections.deque(itertools.combinations(range(3000), 3))",
    "a deque of products": "collections.deque(itertools.product(range(3000), repeat=3))",
    "a deque of objects": "collections.deque(iter(object, 0))",
    "a deque of floats": "collections.deque(map(float, count()))",
    "a deque of bytes": "collections.deque(map(bytes, repeat(500)))",
    "a deque of lists": "collections.deque(map(list, repeat((1, 2, 3))))",
    "a deque of dicts": "collections.deque(map(dict, repeat([(1, 2)])))",
    "a deque of matches": "collections.deque(re.finditer('a', 'a' * 8_000_000))",
    "a deque of unpacked structs": "collections.deque(struct.iter_unpack('hh', bytes(40 << 20)))",
    "a tee that nobody reads": (
        "(lambda a, b: (collections.deque(a, maxlen=0), b))(*itertools.tee(count(10**6)))"
    ),
    "nested tuples": "functools.reduce(lambda a, b: (a, b), count())",
    "one deque in another": "collections.deque(map(collections.deque, repeat(())))",
    "a pickle": "pickle.loads(LISTS)",
    "rows of csv": "collections.deque(csv.reader(repeat('1,2,3')))",
    "weak references": "collections.deque(map(weakref.ref, iter(type('T', (), {}), 0)))",
}


@pytest.mark.parametrize(
    ("call", "where"),
    [pytest.param(call, "in_main", id=name) for name, call in CALLS.items()]
    + [
        pytest.param(CALLS["a deque of strings"], where, id=where)
        for where in ("in_thread", "in_task")
    ],
)
def test_one_call_into_c_ends_at_the_ceiling(run_program, call, where, record_property):
    shown = run_program(
        BESIDE
        + f"""
LISTS = pickle.dumps([[n, str(n)] for n in range(10)]) if "LISTS" in {call!r} else b""
if LISTS:  # a pickle of a million small lists, put together from the pickle of ten
    LISTS = b"\\x80\\x04]" + b"".join(b"]" + b"K\\x01a" * 2 + b"a" for _ in range(1_500_000)) + b"."
def offend():
    try:
        with g:
            kept = {call}
        return "went through"
    except MemoryError as error:
        return type(error).__name__
show(result={where}(offend), peak=g.peak, left=memcg.current().path)
"""
    )
    record_property("peak", shown["peak"])
    assert shown["result"] in ("MemcgOOM", "MemoryError")
    assert shown["left"] == ""
    assert MAX <= shown["peak"] <= CEILING + GRANTS


# Programs that catch each MemoryError and keep their objects, for 2 s.
SWALLOWERS = {
    "a loop": """
while more():
    try: keep()
    except MemoryError: pass""",
    "below __enter__": """
class Manager:
    def __enter__(self):
        while more():
            try: keep()
            except MemoryError: pass
    def __exit__(self, *exc): pass
with Manager(): pass""",
    "below __exit__": """
class Manager:
    def __enter__(self): pass
    def __exit__(self, *exc):
        while more():
            try: keep()
            except MemoryError: pass
with Manager(): pass""",
    "under shield()": """
with memcg.shield():
    while more():
        try: keep()
        except MemoryError: pass""",
    "one call into C after the other": """
while more():
    try: kept.extend(map(str, count(10**6)))
    except MemoryError: pass""",
    "a generator": """
def steps():
    while more():
        try: yield keep()
        except MemoryError: yield 1
for step in steps():
    try: keep()
    except MemoryError: pass""",
    "in the handler": """
try:
    while True: keep()
except MemoryError:
    while more():
        try: keep()
        except MemoryError: pass""",
    "suppress": """
while more():
    with contextlib.suppress(MemoryError):
        keep()""",
}


@pytest.mark.parametrize("how", SWALLOWERS.values(), ids=SWALLOWERS)
@pytest.mark.parametrize(
    ("where", "interval"),
    [("in_main", 0.005), ("in_thread", 0.005), ("in_task", 0.005), ("in_thread", 1000)],
    ids=["main", "thread", "task", "a thread that no other interrupts"],
)
def test_a_thread_that_swallows_the_error_is_slowed_down(
    run_program, how, where, interval, record_property
):
    body = "\n".join("            " + line for line in how.splitlines())
    shown = run_program(
        BESIDE
        + f"""
sys.setswitchinterval({interval})
kept, end = collections.deque(), time.monotonic() + 1
def more(): return time.monotonic() < end
def keep():
    for n in range(100): kept.append([n])
def offend():
    try:
        with g:{body}
    except MemoryError as error: pass
    return time.monotonic()
result = {where}(offend)
show(peak=g.peak, seconds=result - end + 1, fail=g.events["fail"])
"""
    )
    record_property("peak", shown["peak"])
    assert shown["peak"] <= CEILING + GRANTS + RATE * shown["seconds"]


def test_oom_group_ends_the_process_with_the_account(run_program):
    run_program(
        BESIDE
        + """
import faulthandler, signal
# The refused thread sleeps up to a second, 64 times.  A signal ends a sleep.  Its handler needs no
# memory.
faulthandler.register(signal.SIGALRM, file=open(os.devnull, "w"))
signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
g["memory.oom.group"] = 1
kept = collections.deque()
with g:
    while True:
        try: kept.append([1])
        except MemoryError: pass
""",
        status=137,
        expects=("memory.oom.group ends the process", "64 requests were refused", "max 65536 KiB"),
    )
