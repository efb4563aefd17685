# SPDX-License-Identifier: Apache-2.0
"""Each test runs in a group of its own: it fails at its limit, and when it leaves too much behind.

`pytest_memcg` has the options and loads this file when something asks for it. The group is around
the test's call, the innermost of pytest's hooks; reports are made outside of it. An asynchronous
test enters the group itself, because pytest-asyncio and anyio run it in a context that is older
than the test.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import inspect
from typing import TYPE_CHECKING, Any

import pytest
from _pytest.logging import caplog_records_key
from _pytest.unittest import TestCaseFunction

from .. import groups
from ..control.cgroup import cgroup_mkdir
from ..errors import GroupBusy, MemcgOOM
from ..names import escape
from ..report import holders
from ..sizes import PAGE_COUNTER_MAX, format_size, parse_size
from .edge import let_go
from .imports import charge_to_root

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from ..groups import Group, Size

_KEYS = ("max", "high", "leak", "fixtures")
_KINDS_NAMED = 3


class Account:
    """The limits of a test, in bytes or None, and what it took."""

    def __init__(self, nodeid: str, settings: dict[str, Any]) -> None:
        self.nodeid = nodeid
        self.max: Size = settings.get("max")
        self.high: Size = settings.get("high")
        self.leak: int | None = settings.get("leak")
        self.fixtures: bool = settings.get("fixtures", False)
        self.made: Group | None = None
        self.passed = False
        self.text = ""  # what held the memory at the limit

    def group(self) -> Group:
        """Return the group of the present run, and make it if there is none."""
        if self.made is None:
            self.made = self.new_group()
        return self.made

    def new_group(self) -> Group:
        group: Group = cgroup_mkdir(groups.root, f"pytest/{escape(self.nodeid)}", exclusive=True)
        if self.max is not None:
            group.max = self.max
        if self.high is not None:
            group.high = self.high
        return group


_account = pytest.StashKey[Account]()


class Accounts:
    """The plugin proper.

    Parameters
    ----------
    max, leak : str or None
        The limits of tests that have none of their own.
    everything : bool
        Account for each test, also for one without a marker.

    Raises
    ------
    ValueError
        A size is bad.
    """

    def __init__(self, max: str | None, leak: str | None, *, everything: bool) -> None:
        self.defaults = {
            name: parse_size(size)
            for name, size in (("max", max), ("leak", leak))
            if size is not None
        }
        self.everything = everything
        self.busy: list[Group] = []  # threads that a test left behind are inside

    def prepare(self, items: list[pytest.Item]) -> None:
        """Read the markers of the tests.

        Raises
        ------
        pytest.UsageError
            A marker has wrong arguments.
        """
        for item in items:
            marked = _marked(item)
            if self.everything or marked is not None:
                item.stash[_account] = Account(item.nodeid, self.defaults | (marked or {}))
        charge_to_root()

    def group(self, item: pytest.Item) -> Group:
        """Return the group of a test that is being set up."""
        return item.stash[_account].group()

    # -- the three phases of a test

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Begin anew, as some plugins run a test several times."""
        account = item.stash.get(_account, None)
        if account is not None:
            account.passed, account.text = False, ""

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_fixture_setup(
        self, fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
    ) -> Generator[None, object, object]:
        """Set up a test's own fixtures inside its group if it asks for that."""
        node = request.node if fixturedef.scope == "function" else None
        account = node.stash.get(_account, None) if isinstance(node, pytest.Item) else None
        if account is None or not account.fixtures or fixturedef.argname == "memcg_group":
            return (yield)
        with account.group():
            return (yield)

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        """Run the test in its group, which is entered last and left first."""
        __tracebackhide__ = True
        account = item.stash.get(_account, None)
        if account is None:
            return (yield)
        group = account.group()
        try:
            with _entered(item, group):
                result = yield
            account.passed = True
        finally:
            with groups.shield():
                _end_call(item, account, group)
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Show what held the memory of a test that failed at its limit, and let that go."""
        report = yield
        account = item.stash.get(_account, None)
        if account is None or call.when != "call":
            return report
        account.passed = account.passed and report.passed
        if account.text and report.failed:
            report.sections.append(("memcg", account.text))
        if account.text and call.excinfo is not None and not item.config.getoption("usepdb"):
            let_go(call.excinfo.value)
        return report

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_teardown(
        self, item: pytest.Item, nextitem: pytest.Item | None
    ) -> Generator[None, object, object]:
        """Look at what the test left behind, once its own fixtures are torn down."""
        account = item.stash.get(_account, None)
        if account is None:
            return (yield)
        found: str | None = None
        failed: BaseException | None = None
        if account.passed and account.leak is not None and account.made is not None:
            try:
                found = self._leak_of(item, account, account.leak)
            except BaseException as error:  # of a fixture's end; the outer ones still must end
                failed = error
        try:
            result = yield
        finally:
            if account.made is not None:
                self._close(account.made)
                account.made = None
        if failed is not None:
            raise failed
        if found is not None:
            pytest.fail(found, pytrace=False)
        return result

    # -- leaks

    def _leak_of(self, item: pytest.Item, account: Account, most: int) -> str | None:
        """Return what a test has left behind if it is too much, twice; else None."""
        group = account.group()
        _tear_down(item)
        held = _held(item, group, most)
        again, error = "", None
        if held > most and hasattr(item, "_initrequest"):  # anything that has fixtures
            # The first run may have filled caches, which are not this group's.
            warm = account.new_group()
            error = _run_again(item, warm)
            if error is None:
                self._close(group)
                account.made = group = warm
                held = _held(item, group, most)
                again = ", a second run too"
            else:
                self._close(warm)
                again = f" (a second run, which forgives caches, raised {error!r})"
        _note(item, "memcg_held_bytes", held)
        if held <= most:
            return None
        kinds = holders(group).kinds[:_KINDS_NAMED]
        names = ", ".join(f"{format_size(h.nbytes)} in {h.objects:,} x {h.kind}" for h in kinds)
        return (
            f"leak: the test left {format_size(held)} behind{again}, over {format_size(most)} "
            f"(leak=); let go of it, or raise leak=: {names}\n\n{group.report()}"
        )

    def _close(self, group: Group) -> None:
        """Close a test's group, and those that could not be closed before if they can be now."""
        still = []
        for g in (*self.busy, group):
            try:
                if g.nr_inside and g is not group:
                    raise GroupBusy
                g.close(recursive=True)
            except GroupBusy:
                still.append(g)
        self.busy = still


def _marked(item: pytest.Item) -> dict[str, Any] | None:
    """Return what the markers of a test say, the closest first; None if nothing asks."""
    found: dict[str, Any] = {}
    marks = list(item.iter_markers("memcg"))
    for mark in marks:
        wrong = [repr(arg) for arg in mark.args] + [k for k in mark.kwargs if k not in _KEYS]
        if wrong:
            raise pytest.UsageError(
                f"{item.nodeid}: the marker memcg takes {', '.join(f'{k}=' for k in _KEYS)} and "
                f"not {', '.join(wrong)}"
            )
        for name, value in mark.kwargs.items():
            if name in found:
                continue
            try:
                found[name] = value if value is None or name == "fixtures" else parse_size(value)
            except (ValueError, TypeError) as error:
                raise pytest.UsageError(f"{item.nodeid}: memcg({name}=): {error}") from None
    if not marks and "memcg_group" not in getattr(item, "fixturenames", ()):
        return None
    return found


# -- running a test in a group


@contextlib.contextmanager
def _entered(item: pytest.Item, group: Group) -> Iterator[None]:
    """Run what follows in the group or, if the test is a coroutine function, only the test."""
    holder, name = _coroutine_function(item)
    if holder is None:
        with group:
            yield
        return
    fn = getattr(holder, name)
    setattr(holder, name, _inside(group, fn))
    try:
        yield
    finally:
        if holder is getattr(item, "instance", None):
            delattr(holder, name)  # the class has it
        else:
            setattr(holder, name, fn)


def _coroutine_function(item: pytest.Item) -> tuple[Any, str]:
    """Return the object that has the test's coroutine function, and the attribute's name."""
    fn = getattr(item, "obj", None)
    inner = getattr(fn, "hypothesis", None)  # `given` calls it
    if inspect.iscoroutinefunction(getattr(inner, "inner_test", None)):
        return inner, "inner_test"
    if not inspect.iscoroutinefunction(fn):
        return None, ""
    if isinstance(item, TestCaseFunction):  # unittest looks it up itself
        return item.instance, item.originalname
    return item, "obj"


def _inside(group: Group, fn: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(fn)
    async def inside(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        with group:
            return await fn(*args, **kwargs)

    return inside


def _end_call(item: pytest.Item, account: Account, group: Group) -> None:
    """Note the figures of a call. Raise if the test passed its limit and nothing has told it."""
    peak, limit, events = group.peak, group.max, group.events
    _note(item, "memcg_peak_bytes", peak)
    if limit != PAGE_COUNTER_MAX:
        _note(item, "memcg_max_bytes", limit)
    unseen = account.passed and peak > limit and not events["oom_kill"] and not events["fail"]
    if group.last_oom is not None or unseen:
        account.text = group.report()
    if unseen:
        account.passed = False
        raise MemcgOOM(
            f"test {account.nodeid}: its peak of {format_size(peak)} is over memory.max "
            f"({format_size(limit)}), though it held less when Python code could be stopped; raise "
            "max= or hold less at a time"
        )


def _note(item: pytest.Item, name: str, value: int) -> None:
    """Put a figure in the test's reports, in place of that of a run before."""
    item.user_properties[:] = [pair for pair in item.user_properties if pair[0] != name]
    item.user_properties.append((name, value))


# -- what a test leaves behind


def _tear_down(item: pytest.Item) -> None:
    """Tear the test down, but not its module or class, which the next test may need."""
    item.session._setupstate.teardown_exact(item.parent)  # type: ignore[arg-type]


def _held(item: pytest.Item, group: Group, most: int) -> int:
    """Return the bytes that the test has left behind, after a collection if they are too many."""
    held = group.current
    if held > most:
        # pytest lets these go after the teardown.
        getattr(item, "funcargs", {}).clear()
        for name in ("_instance", "_obj"):
            if getattr(item, "cls", None) is not None:
                item.__dict__.pop(name, None)
        for records in item.stash.get(caplog_records_key, {}).values():
            records.clear()
        gc.collect()
        group.reclaim()
        held = group.current
    return held


def _run_again(item: Any, group: Group) -> BaseException | None:
    """Set the test up, run it and tear it down; return what it raised.

    It is not done by pytest's hooks, in which plugins would see a second test.
    """
    item._initrequest()
    try:
        try:
            item.session._setupstate.setup(item)
            with _entered(item, group):
                item.runtest()
        finally:
            _tear_down(item)
    except (Exception, pytest.fail.Exception, pytest.skip.Exception) as error:
        let_go(error)
        return error.with_traceback(None)
    return None
