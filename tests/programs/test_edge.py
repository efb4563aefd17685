# SPDX-License-Identifier: Apache-2.0
"""The edge between a host and the user's code: what leaves it, what is let go, whose groups."""

from __future__ import annotations

import pytest

EDGE = """
from functools import partial
from memcg.integrations import edge
a = memcg.group("t/a", max="8MiB")
def grab(size=20 * MIB):
    return bytearray(size)
def error_of(fn, group=a):
    try:
        with edge.inside(group):
            fn()
    except BaseException as error:
        return error
    raise SystemExit("no error left")
"""
ACCOUNT = "group 't/a': charge of 20.0 MiB is over memory.max (current "


def test_a_memory_error_leaves_as_an_oom_with_the_account(run_program):
    out = run_program(
        EDGE
        + """
oom = error_of(grab)
assert type(oom) is memcg.MemcgOOM and type(oom.__cause__) is MemoryError, oom
assert memcg.current() is memcg.root and not a.nr_inside
print(oom)
"""
    )
    assert out.startswith(ACCOUNT)


@pytest.mark.parametrize(
    "fn",
    [
        "lambda: np.ones(20 * MIB, 'u1')",  # has a text of its own, so the account is a note
        "lambda: asyncio.run(grabs())",  # the error is in an exception group
        "in_pool",
        "in_worker",  # a thread that took the job by itself, as anyio's do
    ],
)
def test_the_account_is_found_in_a_note_in_an_exception_group_and_from_a_thread(run_program, fn):
    out = run_program(
        EDGE
        + f"""
import asyncio, traceback
import numpy as np
from concurrent.futures import ThreadPoolExecutor
async def task():
    grab()
async def grabs():
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(task())
pool = ThreadPoolExecutor(1)
def in_pool():
    pool.submit(grab).result()
jobs, errors = queue.Queue(), queue.Queue()
def work():
    context = jobs.get()
    try:
        context.run(grab)
    except BaseException as error:
        errors.put(error)
threading.Thread(target=work, daemon=True).start()
def in_worker():
    import contextvars
    jobs.put(contextvars.copy_context())
    raise errors.get()
oom = error_of({fn})
assert type(oom) is memcg.MemcgOOM, oom
assert oom.__cause__ is not None and oom.__cause__ is not oom
"".join(traceback.format_exception(oom))
print(oom)
"""
    )
    assert out.startswith(ACCOUNT)


def test_an_alarm_leaves_as_it_is(run_program):
    run_program(
        EDGE
        + """
def hog():
    rows = None
    while True:
        rows = [rows]
oom = error_of(hog)
assert type(oom) is memcg.MemcgOOM and oom.__cause__ is None, oom
assert edge.find_oom(oom) is oom
"""
    )


@pytest.mark.parametrize("error", ["MemoryError('mine')", "MemoryError()", "KeyError(1)"])
def test_an_error_that_is_not_of_a_limit_stays_as_it_is(run_program, error):
    run_program(
        EDGE
        + f"""
error = {error}
def own():
    raise error
with contextlib.suppress(MemoryError), a:
    grab()  # an error of before does not count
assert error_of(own) is error
assert edge.find_oom(error) is None
assert edge.find_oom(ExceptionGroup("", [error])) is None
"""
    )


def test_a_limit_of_a_group_above_is_known_as_such(run_program):
    run_program(
        EDGE
        + """
low = memcg.group("t/a/low", max="1GiB")
oom = error_of(grab, low)
assert edge.is_from_above(oom, low) and not edge.is_from_above(oom, a)
assert not edge.is_from_above(oom, memcg.group("t/b"))
memcg.root.max = "1GiB"
try:
    oom = error_of(partial(grab, 2 << 30), memcg.group("t/free"))
finally:
    memcg.root.max = None
assert edge.is_from_above(oom, low) and not edge.is_from_above(oom, memcg.root)
"""
    )


def test_answering_lets_go_what_the_frames_hold_and_no_alarm_is_raised_meanwhile(run_program):
    run_program(
        EDGE
        + """
def fill():
    kept = [bytes(60_000) for _ in range(100)]  # 6 of 8 MiB
    try:
        return {}[kept[0]]
    except KeyError:
        grab()
oom = error_of(fill)
assert a.current > 5 * MIB, a
with a, edge.answering(oom) as shown:
    assert shown is oom
    rows = None
    while a.current < a.max + MIB:
        rows = [rows]
    del rows
gc.collect()
assert a.current < MIB // 4, a
assert str(oom) and oom.__cause__.__traceback__ is not None  # the error itself stays
"""
    )


def test_what_a_reporter_has_looked_at_is_let_go_too(run_program):
    """A logger or Sentry reads the frames' variables. Before 3.13 a frame keeps what it gave."""
    run_program(
        EDGE
        + """
import traceback
def fill():
    kept = [bytes(60_000) for _ in range(100)]  # 6 of 8 MiB
    grab()
oom = error_of(fill)
with edge.answering(oom):
    for error in edge.chain(oom):
        traceback.TracebackException.from_exception(error, capture_locals=True)
        for frame, _ in traceback.walk_tb(error.__traceback__):
            frame.f_locals
    del frame, error
gc.collect()
assert a.current < MIB // 4, a
"""
    )


def test_tenants_have_escaped_names_and_the_least_recently_used_idle_one_is_closed(run_program):
    run_program(
        EDGE
        + """
tenants = edge.Tenants("web", most=3, max="1MiB", high=None)
x, slash, third = tenants("x"), tenants("a/b"), tenants("y" * 5000)
assert slash.path == "web/a%2Fb" and len(third.name) == 255, (slash, third)
assert tenants("x") is x and tenants("y" * 5000) is third
assert (x.max, x.high, memcg.group("web").max) == (MIB, MIB * 7 // 8, 2**63 - 1)
with x:
    tenants("new")
    assert not slash.online and len(tenants) == 3  # x was used later
    tenants("newer")
    assert x.online and not third.online  # x is older now, but something is inside
tenants("newest")
assert not x.online
assert tenants("x") is not x
tenants("x").close()
assert tenants("x").online
tenants.close()
assert not memcg.group("web").children and not len(tenants)
"""
    )


def test_a_group_that_the_program_made_is_used_as_it_is_and_never_closed(run_program):
    run_program(
        EDGE
        + """
vip = memcg.group("web/vip", max="5MiB")
tenants = edge.Tenants("web", most=1, max="1MiB")
assert tenants("vip") is vip and vip.max == 5 * MIB
for name in "abc":
    tenants(name)
assert tenants("vip") is vip and [*vip.parent.children] == ["vip", "c"]
tenants.close()
assert vip.online
"""
    )


def test_while_all_are_in_use_a_new_tenant_is_refused_and_leaves_nothing(run_program):
    run_program(
        EDGE
        + """
tenants = edge.Tenants("web", most=2)
with tenants("a"), tenants("b"):
    try:
        tenants("c")
    except memcg.GroupBusy as error:
        assert "all 2 groups below it are in use" in str(error), error
    else:
        raise SystemExit("a third one")
    assert [*memcg.group("web").children] == ["a", "b"]
assert tenants("c").online
try:
    edge.Tenants("web", most=0)
except ValueError as error:
    assert str(error) == "most must be at least 1 group, not 0", error
else:
    raise SystemExit("no group at all")
"""
    )


def test_a_group_that_is_closed_before_it_is_entered_is_made_anew(run_program):
    run_program(
        EDGE
        + """
tenants = edge.Tenants("web", max="8MiB")
group = tenants("a")
group.close()
with edge.inside(group, partial(tenants, "a")) as other:
    assert other.online and memcg.current() is other is not group
a.close()
assert type(error_of(grab)) is memcg.OfflineError
"""
    )


def test_tenants_of_many_threads_are_right(run_program):
    """Each thread finds its group, the bound holds, and no group is left behind or taken for
    another's."""
    run_program(
        EDGE
        + """
import random, sys
sys.setswitchinterval(1e-5)
tenants = edge.Tenants("web", most=8)
errors = []
def work(seed):
    pick = random.Random(seed)
    try:
        for _ in range(1500):
            name = str(pick.randrange(20))
            with edge.inside(tenants(name), partial(tenants, name)) as group:
                assert group.path == f"web/{name}" and memcg.current() is group, group
    except BaseException as error:
        errors.append(error)
threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert not errors, errors
assert len(tenants) <= 8
assert sorted(memcg.group("web").children) == sorted(tenants._groups), (tenants._theirs)
assert not tenants._theirs
"""
    )
