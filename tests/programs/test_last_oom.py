# SPDX-License-Identifier: Apache-2.0
"""An error that reaches the user names the limit's group, which keeps its last error."""

from __future__ import annotations

import pytest

# 20 MiB are refused in group a, of 8 MiB, and the text is read in each way that people meet it.
GROUP = """
import asyncio, threading, time
a = memcg.group("t/a", max="8MiB")
def grab():
    bytearray(20 * MIB)
def text_of(fn):
    try:
        fn()
    except MemoryError as error:
        return str(error)
"""
ACCOUNT = "group 't/a': charge of 20.0 MiB is over memory.max (current "


@pytest.mark.parametrize(
    "way",
    [
        "text_of(lambda: a.run(grab))",
        "text_of(a.wrap(grab))",
        "text_of(lambda: list(a.iterate(grab() for _ in range(1))))",
        "text_of(memcg.scope('t/a-scope', max='8MiB')(grab)).replace('a-scope', 'a')",
        "text_of(lambda: asyncio.run(steps()))",
        "text_of(lambda: asyncio.run(task()))",
        "text_of(lambda: pool())",
        "thread()",
    ],
)
def test_a_memory_error_without_a_text_gets_the_account(run_program, way):
    out = run_program(
        GROUP
        + f"""
from concurrent.futures import ThreadPoolExecutor
async def rows():
    yield grab()
async def steps():
    async for _ in a.iterate(rows()):
        pass
async def task():
    with a:
        await asyncio.to_thread(a.run, grab)
def pool():
    with ThreadPoolExecutor(1) as pool:
        with a:
            job = pool.submit(grab)
        job.result()
def thread():
    shown = []
    threading.excepthook = lambda args: shown.append(str(args.exc_value))
    with a:
        thread = threading.Thread(target=grab)
        thread.start()
    thread.join()
    return shown[0]
print({way})
"""
    )
    assert out.startswith(ACCOUNT), out
    assert out.endswith("set on 't/a'); raise memory.max or free memory in 't/a'\n")


def test_an_error_with_a_text_of_its_own_gets_a_note_and_the_programs_own_neither(run_program):
    run_program(
        GROUP
        + """
class Mine(MemoryError):
    pass
def own(error):
    try:
        grab()
    except MemoryError:
        raise error from None
for error in Mine(), Mine("mine"), MemoryError("mine"):
    assert text_of(lambda: a.run(own, error)) == str(error.args[0] if error.args else "")
    assert error.__notes__[0].startswith("group 't/a': charge of 20.0 MiB"), error.__notes__
def plain():
    raise MemoryError
assert text_of(lambda: a.run(plain)) == ""
"""
    )


def test_each_member_of_a_group_of_exceptions_gets_the_account(run_program):
    out = run_program(
        GROUP
        + """
async def grabs():
    grab()
async def main():
    with a:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(grabs())
try:
    asyncio.run(main())
except* MemoryError as group:
    print(group.exceptions[0])
"""
    )
    assert out.startswith(ACCOUNT)


def test_last_oom_is_of_the_limits_group_and_those_above_it(run_program):
    run_program(
        GROUP
        + """
low, beside = memcg.group("t/a/low"), memcg.group("t/b")
groups = (memcg.root, a.parent, a, low, beside)
assert [g.last_oom for g in groups] == [None] * 5
before = time.time()
assert text_of(lambda: low.run(grab))
oom = a.last_oom
assert before <= oom.time <= time.time()
assert (oom.owner, oom.group, oom.limit, oom.refused) == ("t/a", "t/a/low", 8 * MIB, True)
assert 20 * MIB <= oom.bytes < 20 * MIB + 64
assert str(oom).startswith("group 't/a/low': charge of 20.0 MiB is over memory.max (current ")
assert [g.last_oom for g in groups] == [oom, oom, oom, None, None]
try:
    oom.bytes = 1
except AttributeError:
    pass
else:
    raise SystemExit("it can be changed")
"""
    )


def test_last_oom_shows_a_refusal_that_was_caught_and_outlives_its_group(run_program):
    run_program(
        GROUP
        + """
import gc
with memcg.scope("t/s", max="8MiB") as s:
    assert text_of(grab) == ""  # caught inside, but the group has it
    assert s.last_oom.refused
with memcg.scope("t/s", max="9MiB"):  # another group of the same path
    pass
del s
gc.collect()
memcg.group("t/c").close()
oom = a.parent.last_oom
assert (oom.owner, oom.limit) == ("t/s", 8 * MIB), oom
"""
    )


@pytest.mark.parametrize("where", ["main", "thread"])
def test_last_oom_shows_an_alarm(run_program, where):
    run_program(
        GROUP
        + f"""
def hog():
    rows = None
    while True:
        rows = [rows]
def check():
    try:
        with a:
            hog()
    except memcg.MemcgOOM:
        pass
    oom = a.last_oom
    assert (oom.owner, oom.group, oom.refused) == ("t/a", "t/a", False), oom
    assert oom.bytes < 64 * 1024 and oom.current > oom.limit, oom
if {where!r} == "main":
    check()
else:
    thread = threading.Thread(target=check); thread.start(); thread.join()
"""
    )


def test_last_oom_is_right_while_threads_are_refused_and_groups_open_and_close(run_program):
    run_program(
        """
import threading
top = memcg.group("t", max="64MiB")
stop = False
def tenant(n):
    i = 0
    while not stop:
        i += 1
        with memcg.scope(f"t/{n}-{i}", max="1MiB") as g:
            try:
                bytearray((n + 2) * MIB)
            except MemoryError:
                assert g.last_oom.owner == g.last_oom.group == g.path, g.last_oom
threads = [threading.Thread(target=tenant, args=(n,)) for n in range(3)]
for thread in threads:
    thread.start()
while top.last_oom is None:
    pass
for _ in range(3000):
    oom = top.last_oom
    n = int(oom.owner.removeprefix("t/").partition("-")[0])
    assert oom.group == oom.owner and oom.bytes >> 20 == n + 2 and oom.limit == MIB, oom
stop = True
for thread in threads:
    thread.join()
"""
    )
