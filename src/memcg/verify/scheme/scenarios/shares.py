# SPDX-License-Identifier: Apache-2.0
"""Shares of one limit (`memcg.integrations.shares`): their sum stays within the limit.

A message is delivered by the task that sends it, after the ledger has been left. So two messages
to one holder may overtake each other. The ledger's thread is a mutex here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ... import seam
from .. import world
from .system import scenario

LIMIT = 10


class Place:
    """A counter with a limit, as a group has. It is charged as the native page counter is."""

    def __init__(self) -> None:
        self._used = seam.Atomic()
        self._limit = seam.Published(0)
        self.held = 0  # what charges that succeeded add up to
        self.share = 0

    def used(self) -> int:
        return self._used.get()

    def limit(self, share: int) -> None:
        self._limit.store(share)
        self.share = share

    def charge(self, n: int) -> bool:
        after = self._used.add(n)
        if after > self._limit.load():
            self._used.add(-n)
            return False
        self.held += n
        return True

    def uncharge(self, n: int) -> None:
        self.held -= n
        self._used.add(-n)


class Cluster:
    """A ledger and two holders, ``a`` and ``b``."""

    def __init__(self, a: int = 0, b: int = 0) -> None:
        shares: Any = world.load_alone("shares")
        self.loop = seam.Mutex("loop")
        self.ledger = shares.Ledger(LIMIT, term=2)
        self.places = {"a": Place(), "b": Place()}
        self.holders = {
            name: shares.Holder(name, place, self._sender(name), term=2)
            for name, place in self.places.items()
        }
        self.gone: set[str] = set()  # processes that have ended
        self.total = seam.Atomic()  # what the others are charged
        for name, holder in self.holders.items():
            used = holder.begin(0)
            self.ledger.join(name, name, used, 0)
        for name, n in (("a", a), ("b", b)):
            assert n == 0 or self.holders[name].ask(n), "there is enough for the beginning"
        self.age()

    def _sender(self, name: str) -> Callable[[Any], None]:
        return lambda report: self.tell(lambda: self.ledger.hear(name, report))

    def tell(self, say: Callable[[], Any]) -> None:
        """Do something at the ledger, then deliver what it sends."""
        with self.loop:
            sends = say()
        for name, grant in sends:
            if name not in self.gone:
                self.deliver(name, grant)

    def age(self) -> None:
        """Let so much time pass that no share counts as granted a moment ago."""
        for name, holder in self.holders.items():
            with holder.shares_mutex:
                holder.fresh = [0, 0]
            self._sender(name)(holder.report())

    def deliver(self, name: str, grant: Any) -> None:
        self.holders[name].hear(grant)

    def use(self, name: str, n: int) -> bool:
        """Charge, if the share allows it, and check all charges that there are."""
        if not self.places[name].charge(n):
            return False
        assert name not in self.gone, f"{name} was fenced, but is charged"
        total = self.total.add(n)
        assert total <= LIMIT, f"{total} are charged, but the limit is {LIMIT}"
        shares = {n: p.share for n, p in self.places.items() if n not in self.gone}
        assert sum(shares.values()) <= LIMIT, f"the shares are {shares}, the limit is {LIMIT}"
        return True

    def let_go(self, name: str, n: int) -> None:
        self.places[name].uncharge(n)
        self.total.add(-n)

    def end(self, name: str) -> None:
        """End a process that was fenced."""
        self.gone.add(name)
        self.total.add(-self.places[name].held)

    def ask_and_use(self, name: str, n: int) -> bool:
        return self.holders[name].ask(n) and self.use(name, n)


@scenario("two workers ask for the last share: one gets it, and the other is refused")
def shares_last() -> None:
    c = Cluster(4, 4)
    c.use("a", 4)
    c.use("b", 4)
    got: list[str] = []

    def ask_a() -> None:
        if c.ask_and_use("a", 2):
            got.append("a")

    def ask_b() -> None:
        if c.ask_and_use("b", 2):
            got.append("b")

    seam.parallel(ask_a, ask_b)
    assert len(got) == 1, f"{got} got the last share"


@scenario("a worker asks for what another does not use x that one uses it after all")
def shares_recalled() -> None:
    c = Cluster(8)
    c.use("a", 2)
    got: list[str] = []

    def use_a() -> None:
        if c.use("a", 6):
            got.append("a")

    def ask_b() -> None:
        if c.ask_and_use("b", 6):
            got.append("b")

    seam.parallel(use_a, ask_b)
    assert len(got) < 2, f"{got} got a share that is there once"
    c.age()
    assert got or c.ask_and_use("b", 6), "what nobody uses cannot be had"


@scenario("two workers ask for what the other has and does not use")
def shares_crossed() -> None:
    c = Cluster(5, 5)
    got: list[str] = []

    def ask_a() -> None:
        if c.ask_and_use("a", 6):
            got.append("a")

    def ask_b() -> None:
        if c.ask_and_use("b", 6):
            got.append("b")

    seam.parallel(ask_a, ask_b)
    assert len(got) < 2, f"{got} got a share that is there once"
    if not got:
        c.age()
        assert c.ask_and_use("a", 6), "what nobody uses cannot be had"


@scenario("a share is given twice: each message arrives twice x the share is given back and on")
def shares_repeated() -> None:
    c = Cluster()
    holder = c.holders["a"]
    repeated: list[Any] = []
    send = holder.send

    def send_and_note(report: Any) -> None:
        repeated.append(("ledger", report))
        send(report)

    def deliver_and_note(name: str, grant: Any) -> None:
        repeated.append((name, grant))
        c.holders[name].hear(grant)

    holder.send, c.deliver = send_and_note, deliver_and_note  # type: ignore[method-assign]
    assert c.ask_and_use("a", 6)
    c.let_go("a", 6)
    holder.done(6)
    send_and_note(holder.tidy())  # the share is 0 again
    first = list(repeated)

    def again() -> None:
        for name, message in first:
            if name == "ledger":
                send(message)
            else:
                c.holders[name].hear(message)

    def ask_a() -> None:
        c.ask_and_use("a", 6)

    def ask_b() -> None:
        c.ask_and_use("b", 10)

    seam.parallel(again, ask_a, ask_b)


@scenario("a worker is lost with its share and goes on for a while x another asks for that share")
def shares_lost() -> None:
    c = Cluster(10)
    c.use("a", 4)

    def use_a() -> None:
        c.use("a", 6)

    def clocks() -> None:
        c.tell(lambda: c.ledger.lose("a", 0))
        c.tell(lambda: c.ledger.tick(1))
        c.holders["a"].tick(1)
        c.end("a")
        c.tell(lambda: c.ledger.tick(2))

    def ask_b() -> None:
        c.ask_and_use("b", 6)

    seam.parallel(use_a, clocks, ask_b)
    assert c.ask_and_use("b", LIMIT - c.places["b"].held), "the lost share is not free again"


@scenario("a grant is on its way to a worker that is lost x the worker's clock stops it")
def shares_late_grant() -> None:
    c = Cluster(4)
    late: list[Any] = []
    deliver = c.deliver
    c.deliver = lambda name, grant: late.append((name, grant))  # type: ignore[method-assign]
    c.holders["a"].ask(6, wait=0)
    c.deliver = deliver  # type: ignore[method-assign]

    def arrive() -> None:
        for name, grant in late:
            deliver(name, grant)
        c.use("a", 10)

    def clocks() -> None:
        c.tell(lambda: c.ledger.lose("a", 0))
        c.holders["a"].tick(1)
        c.end("a")
        c.tell(lambda: c.ledger.tick(2))
        assert c.ask_and_use("b", LIMIT), "the lost share is not free again"

    seam.parallel(arrive, clocks)
    assert c.places["a"].share == 0, "a worker that has ended got a share"


@scenario("two threads of one worker ask x the limit is lowered")
def shares_lowered() -> None:
    c = Cluster(2)

    def ask_a() -> None:
        c.ask_and_use("a", 4)

    def ask_too() -> None:
        c.holders["a"].ask(4)

    def lower() -> None:
        c.tell(lambda: c.ledger.set_limit(6))

    seam.parallel(ask_a, ask_too, lower)
    c.age()
    c.tell(lambda: c.ledger.tick(1))
    seam.quietly(lambda: _check_lowered(c))


def _check_lowered(c: Cluster) -> None:
    share = c.holders["a"].share
    assert share <= max(c.places["a"].held, 6), "an idle share is past the lowered limit"
    assert share == c.ledger.out, "the ledger and the holder disagree at rest"
