# SPDX-License-Identifier: Apache-2.0
"""The ContextVar of groups can be set by other code, and a group can be left in another context."""

from __future__ import annotations

import pytest

VARIABLE = """
import contextvars
from contextvars import Context, copy_context
a, b = memcg.group("a"), memcg.group("b")
where = lambda: memcg.current().path
def variable():
    # Find it as any program can.
    def found():
        with a:
            return [v for v in copy_context() if v.name == "memcg_current"]
    return copy_context().run(found)[0]
var = variable()
def entry_of(group, then=lambda: None):
    # Return an entry into the group from a context that has ended.
    def inside():
        group.__enter__(); then()
        return var.get()
    return copy_context().run(inside)
kept = []  # freed memory stays with its group for a while, which would hide what it is charged
def charged():
    # Return the group that is charged for small objects and for a large one; "" is the root.
    paid = set()
    for make in (lambda: [[] for _ in range(6_000)], lambda: bytes(400_000)):
        before = {g.path: g.current for g in (a, b)}
        kept.append(make())
        grown = [g.path for g in (a, b) if g.current > before[g.path] + 300_000]
        assert len(grown) <= 1
        paid.update(grown or ("",))
    (payer,) = paid
    return payer
"""


@pytest.fixture
def run_with_variable(run_program):
    return lambda source, **more: run_program(VARIABLE + source, **more)


def test_a_set_by_others_is_noticed_at_the_next_allocation(run_with_variable):
    run_with_variable(
        """
of_b = entry_of(b)
with a:
    mine = var.get()
    assert charged() == "a"
    for _ in range(3):
        var.set(of_b)
        assert charged() == "b"
        assert where() == "b"
        var.set(mine)
        assert where() == "a"
        assert charged() == "a"
    var.set(None)
    assert charged() == ""
    var.set(mine)
assert where() == "" and charged() == ""
"""
    )


def test_a_reset_by_others_is_noticed_also_where_the_variable_was_not_set(run_with_variable):
    run_with_variable(
        """
of_a, of_b = entry_of(a), entry_of(b)
def resets():
    token = var.set(of_a)
    assert charged() == "a"
    inner = var.set(of_b)
    assert charged() == "b"
    var.reset(inner)
    assert charged() == "a"
    var.reset(token)  # so that it has no value
    assert charged() == "" and where() == ""
Context().run(resets)
in_thread(resets)
for n in 1, 2, 40, 2000:  # setting a variable then allocates more of the context's map
    def among_others():
        for i in range(n): contextvars.ContextVar(f"other {i}").set(i)
        resets()
    Context().run(among_others)
    in_thread(among_others)
"""
    )


def test_the_variable_read_by_others_changes_nothing(run_with_variable):
    run_with_variable(
        """
end = threading.Event()
def reads():
    while not end.is_set():
        var.get(); copy_context().get(var)
threads = [threading.Thread(target=Context().run, args=(reads,)) for _ in range(2)]
for thread in threads: thread.start()
try:
    for _ in range(10):
        for group in a, b:
            with group:
                assert var.get() is var.get()
                assert charged() == where() == group.path
finally:
    end.set()
    for thread in threads: thread.join()
"""
    )


def test_threads_that_set_it_for_themselves_are_charged_each_for_itself(run_with_variable):
    run_with_variable(
        """
sys.setswitchinterval(1e-5)
def sets(group):
    entry, rows = entry_of(group), []
    for n in range(2_000):
        var.set(entry)
        if n % 2: rows.append(bytes(1000))
        else: assert memcg.current() is group
        var.set(None)
        assert where() == ""
    return rows
out = []
threads = [threading.Thread(target=lambda g=g: out.append(sets(g))) for g in (a, b) * 2]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert all(2 * 10**6 < g.current < 3 * 10**6 for g in (a, b)), (a, b)
"""
    )


def test_asgiref_carries_a_group_that_a_thread_entered_and_another_left(run_program):
    run_program(
        """
from asgiref.sync import async_to_sync, sync_to_async
a, b = memcg.group("a"), memcg.group("b")
where = lambda: memcg.current().path
async def request():
    await sync_to_async(b.__enter__)()
    assert where() == "b"
    before = b.current
    kept = [[] for _ in range(20_000)]
    assert b.current > before + 10**6
    assert await sync_to_async(where)() == "b"
    await sync_to_async(b.__exit__)(None, None, None)
    assert where() == "a"
def view():
    with a:
        async_to_sync(request)()
        assert where() == "a"
async def serve():
    with a:
        await request()
        assert where() == "a"
    await asyncio.gather(*(sync_to_async(view, thread_sensitive=False)() for _ in range(8)))
view()
asyncio.run(serve())
assert where() == "" and a.nr_inside == b.nr_inside == 0
a.close(); b.close()
"""
    )


@pytest.mark.parametrize("value", ["of_a", "of_b", "None", "'foreign'"])
def test_a_with_whose_entry_others_put_away_ends_without_an_error(run_with_variable, value):
    run_with_variable(
        f"""
of_a, of_b = entry_of(a), entry_of(b)
def run():
    with a:
        with b:
            with b:
                var.set({value})
        assert where() in ("", "a", "b")
        with b:
            assert where() == charged() == "b"
    assert where() in ("", "a", "b")
for _ in range(3):
    copy_context().run(run)
    in_thread(run)
assert a.nr_inside == b.nr_inside == 1  # the entry of `entry_of`
"""
    )


def test_a_with_that_others_set_a_group_inside_of_ends_and_theirs_stays(run_with_variable):
    run_with_variable(
        """
def enters_b():
    b.__enter__()
    return copy_context()
with a:
    changed = copy_context().run(enters_b)
    var.set(changed[var])
    assert where() == "b"
assert where() == "b" and (a.nr_inside, b.nr_inside) == (0, 1)
b.__exit__(None, None, None)
assert where() == "" and b.nr_inside == 0
"""
    )


def test_wrong_nesting_is_an_error_no_matter_what_has_set_the_variable(run_with_variable):
    run_with_variable(
        """
def refused(group):
    try:
        group.__exit__(None, None, None)
    except memcg.MemcgError as error:
        assert "innermost" in str(error)
    else:
        raise SystemExit("left")
def suspended():
    with a:
        yield
refused(a)
# left in a context that did not enter it
steps = suspended()
own = copy_context()
own.run(next, steps)
refused(a)
with b:
    refused(a)
own.run(steps.close)
# a thousand contexts enter it in one order and leave it in another
contexts = [copy_context() for _ in range(1000)]
for context in contexts: context.run(a.__enter__)
refused(a)
for context in contexts[::-1]:
    context.run(a.__exit__, None, None, None)
    context.run(refused, a)
assert a.nr_inside == b.nr_inside == 0
# other code set it, and it is not innermost for another reason
a.__enter__()
var.set(var.get())
b.__enter__()
refused(a)
b.__exit__(None, None, None); a.__exit__(None, None, None)
assert a.nr_inside == b.nr_inside == 0
"""
    )


FOREIGN = ["'boom'", "0", "object()", "a", "type(entry_of(a))", "var", "[]"]


@pytest.mark.parametrize("value", FOREIGN)
def test_a_foreign_value_is_an_error_where_it_is_asked_for_and_nothing_worse(
    run_with_variable, value
):
    run_with_variable(
        f"""
def refused(call):
    try:
        call()
    except memcg.MemcgError as error:
        assert "memcg_current" in str(error) and type(var.get()).__name__ in str(error)
    else:
        raise SystemExit("not refused")
def foreign():
    with a:
        mine = var.get()
        var.set({value})
        assert charged() == ""
        for call in where, a.__enter__, memcg.shield().__enter__, memcg.scope("s").__enter__:
            refused(call)
        job = copy_context().run(lambda: [[] for _ in range(1000)])
        var.set(mine)
        assert where() == charged() == "a"
        var.set({value})
    assert where() == ""
foreign()
in_thread(foreign)
gc.collect()
a.close()
assert "s" not in memcg.root.children
"""
    )


def test_an_object_that_was_never_initialized_raises_and_does_not_crash(run_program):
    shown = run_program(
        """
import memcg.core._core as core
live = memcg.group("a", max="64MiB")
buffer = memcg.KmemCache("cache", 64).alloc()
modules = [m for name, m in sys.modules.items() if name.startswith("memcg.core._")]
assert len(modules) > 5
own = lambda c, module: isinstance(c, type) and c.__module__ == module.__name__
classes = [c for module in modules for c in vars(module).values() if own(c, module)]
classes += [memcg.Group, memcg.control.slab_common.kmem_cache]
made, refused, raised = [], [], 0
for cls in classes:
    try:
        made.append(cls.__new__(cls))
    except TypeError:
        refused.append(cls.__name__)
    try:
        object.__new__(cls)
        assert not cls.__module__.startswith("memcg.core._")
    except TypeError:
        pass
assert {"Entry", "Buffer", "Constructed"} <= set(refused), refused
ARGUMENTS = [(), (None,), (1,), ("max",), ("max", 1), (live,), (1, buffer, {}), (None, None, None)]
for thing in made:
    for name in dir(thing):
        if name in ("__init__", "__class__", "__new__", "__init_subclass__", "__subclasshook__"):
            continue
        for arguments in [*ARGUMENTS, (thing,), (1, thing, {})]:
            try:
                value = getattr(thing, name)
                if callable(value):
                    value(*arguments)
            except Exception:
                raised += 1
    for use in (core.enter, core.leave, core.live_blocks, memoryview, len, repr, bytes,
                lambda x: core.Bound(x, int), lambda x: core.Cache(64, memcg=x, root=x),
                lambda x: core.Cache(64, root=x), core.Memcg, lambda x: x(), gc.get_referents):
        for argument in thing, None:
            try:
                use(argument)
            except Exception:
                raised += 1
del thing, made
gc.collect()
with live:
    kept = [[] for _ in range(1000)]
print(raised)
"""
    )
    assert shown > 500


@pytest.mark.parametrize("where", ["in_main", "in_thread"])
def test_a_shield_left_in_another_context_is_left(run_program, where):
    run_program(
        f"""
from contextvars import Context, copy_context
hog = memcg.group("hog", max="8MiB", reserve="64MiB")
def shielded():
    with memcg.shield():
        yield
def told():
    # Return whether a hog in this context gets its alarm before it ends by itself.
    try:
        kept = None
        for n in range(300_000):
            kept = [kept, n]
    except memcg.MemcgOOM:
        return True
    return False
def run():
    # A shield opened here and closed elsewhere does not shield this context for ever.
    for close in (lambda s: copy_context().run(s.close), lambda s: Context().run(s.close),
                  lambda s: in_thread(s.close)):
        with hog:
            steps = shielded(); next(steps)
            close(steps)
            assert told()
        assert memcg.current() is memcg.root
    # A shield opened elsewhere is closed here.
    for opening in copy_context(), Context():
        with hog:
            steps = shielded(); opening.run(next, steps)
            steps.close()
            assert memcg.current() is hog and told()
    # If the group is left in between, it is left, and the shield with it.
    with hog:
        steps = shielded(); next(steps)
    assert memcg.current() is memcg.root and hog.nr_inside == 0
    steps.close()
    assert memcg.current() is memcg.root
    # A group is entered in the meantime.
    steps = shielded(); next(steps)
    with hog:
        steps.close()
        assert memcg.current() is hog and told()
    assert memcg.current() is memcg.root
    # A shield within a shield ends by itself.
    outer = memcg.shield()
    with hog:
        try:
            with outer:
                with memcg.shield(): pass
                with outer: pass
                assert not told()
                raise KeyError
        except KeyError:
            pass
        except memcg.MemcgOOM:
            pass
{where}(run)
gc.collect()
assert hog.nr_inside == 0
hog.close()
""",
        timeout=120,
    )


def test_a_shield_that_was_not_entered_or_was_left_is_an_error(run_program):
    run_program(
        """
def refused(shield):
    try:
        shield.__exit__(None, None, None)
    except memcg.MemcgError as error:
        assert "shield" in str(error)
    else:
        raise SystemExit("left")
shield = memcg.shield()
refused(shield)
with shield: pass
refused(shield)
with memcg.group("a"):
    refused(type(shield).__new__(type(shield)))
    in_thread(lambda: refused(shield))
    assert memcg.current().path == "a"
"""
    )


def test_asynchronous_generators_with_a_shield_may_be_closed_by_another_task(run_program):
    run_program(
        """
@contextlib.asynccontextmanager
async def careful():
    with memcg.shield():
        yield
async def steps():
    with memcg.shield():
        yield 1
        yield 2
async def main():
    fixture = careful()
    await asyncio.create_task(fixture.__aenter__())
    await asyncio.create_task(fixture.__aexit__(None, None, None))
    left_open = steps()
    await asyncio.create_task(left_open.__anext__())  # the loop closes it at its end
    async with careful():
        pass
    assert memcg.current() is memcg.root
asyncio.run(main())
"""
    )


def test_many_shields_left_elsewhere_leave_no_chain_behind(run_program):
    run_program(
        """
from contextvars import copy_context
def shielded():
    with memcg.shield():
        yield
def round():
    steps = shielded(); next(steps); copy_context().run(steps.close)
elsewhere = memcg.group("a")
for _ in range(100): round()
gc.collect()
before = memcg.root.stat["slab_private"]
for _ in range(100_000): round()
gc.collect(); memcg.root.reclaim()
assert memcg.root.stat["slab_private"] < before + 2 * MIB, memcg.root.stat
"""
    )
