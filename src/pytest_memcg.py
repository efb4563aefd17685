# SPDX-License-Identifier: Apache-2.0
"""pytest's door to memcg: options, ini settings, a marker and a fixture.

It lies outside the package `memcg`, because an entry point is loaded in every run of pytest. Until
an option, a setting, a marker or a test that takes the fixture asks for it, memcg is not imported.
"""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from memcg import Group
    from memcg.integrations.pytest import Accounts

_accounts = pytest.StashKey["Accounts"]()
_MARKER = (
    "memcg(max=None, high=None, leak=None, fixtures=False): limit what the test may hold at a time "
    "(max) and what it may leave behind (leak); sizes are bytes or '64MiB'; with fixtures=True the "
    "test's own fixtures are set up inside the limit too"
)
_EXPLORE = (
    "explore(patch=(), track=(), ...): run the test under every schedule of its threads; patch "
    "names modules that get the explorer's threads and locks, and the rest are options of "
    "memcg.verify.explore"
)
_SETTINGS = {  # by name of the ini setting and of the option
    "memcg_max": ("MEMCG_PYTEST_MAX", "limit of each test that has none of its own: 64MiB, bytes"),
    "memcg_leak": ("MEMCG_PYTEST_LEAK", "what each test may leave behind: 100KiB, bytes"),
}


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("memcg", "memory of each test (memcg)")
    group.addoption("--memcg", action="store_true", help="account for each test; show the peaks")
    for name, (variable, text) in _SETTINGS.items():
        option = "--" + name.replace("_", "-")
        group.addoption(option, metavar="SIZE", help=f"{text}; also {name} in the ini file")
        parser.addini(name, f"{text}; {option} and the marker stand above it, {variable} below")
    group.addoption(
        "--memcg-top",
        type=int,
        metavar="N",
        help="show the N largest peaks at the end; 10: --memcg",
    )
    group.addoption(
        "--explore-replay",
        metavar="SCHEDULE",
        help="run tests with the marker explore under this schedule, which a failure has shown",
    )
    group.addoption("--memcg-json", metavar="FILE", help="write each test's figures to FILE")


def _settings(config: pytest.Config) -> dict[str, str | None]:
    """Return the default limits: the option, then the ini file, then the environment."""
    return {
        name: config.getoption(name) or config.getini(name) or os.environ.get(variable) or None
        for name, (variable, _) in _SETTINGS.items()
    }


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", _MARKER)
    config.addinivalue_line("markers", _EXPLORE)
    settings = _settings(config)
    top, file = config.getoption("memcg_top"), config.getoption("memcg_json")
    shown = config.getoption("memcg") or top is not None or file is not None
    if (shown or any(settings.values())) and not config.option.help:
        _start(config, settings, everything=True)
        if shown and not hasattr(config, "workerinput"):  # a worker of xdist sends its reports
            from memcg.integrations.pytest_peaks import Peaks

            try:
                peaks = Peaks(10 if top is None else top, file)
            except ValueError as error:
                raise pytest.UsageError(str(error)) from None
            config.pluginmanager.register(peaks, "memcg peaks")


def _start(config: pytest.Config, settings: dict[str, str | None], *, everything: bool) -> None:
    import memcg
    from memcg.integrations.pytest import Accounts

    try:
        memcg.install()
        accounts = Accounts(settings["memcg_max"], settings["memcg_leak"], everything=everything)
    except (memcg.MemcgError, ValueError) as error:
        if everything:
            raise pytest.UsageError(str(error)) from None
        text = f"the marker memcg limits nothing: {error}"
        warnings.warn(pytest.PytestWarning(text), stacklevel=2)
        return
    config.stash[_accounts] = accounts
    config.pluginmanager.register(accounts, "memcg accounts")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if _accounts not in config.stash:
        if not any(map(_asks, items)):
            return
        _start(config, _settings(config), everything=False)
    if _accounts in config.stash:
        config.stash[_accounts].prepare(items)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Explore a test that has the marker for it."""
    __tracebackhide__ = True
    marker = pyfuncitem.get_closest_marker("explore")
    if marker is None:
        return None
    from memcg.verify import testing

    if marker.args:
        raise pytest.UsageError("the marker explore takes keyword arguments only")
    names = pyfuncitem._fixtureinfo.argnames
    arguments = {name: pyfuncitem.funcargs[name] for name in names}
    schedule = pyfuncitem.config.getoption("explore_replay")
    testing.run(pyfuncitem, lambda: pyfuncitem.obj(**arguments), schedule, **marker.kwargs)
    return True


def _asks(item: pytest.Item) -> bool:
    return (
        item.get_closest_marker("memcg") is not None
        or "memcg_group" in getattr(item, "fixturenames", ())  # doctests and others have none
    )


@pytest.fixture
def memcg_group(request: pytest.FixtureRequest) -> Group:
    """Return the group that the test runs in, with its limit."""
    if _accounts not in request.config.stash:
        pytest.skip("memcg cannot account here: see the warning")
    accounts: Accounts = request.config.stash[_accounts]
    return accounts.group(request.node)
