# SPDX-License-Identifier: Apache-2.0
"""Shares of one limit: mutants are caught, and a thousand workers stay within it."""

from __future__ import annotations

import heapq
import random

import pytest

from memcg.integrations import shares
from memcg.verify.scheme import world
from memcg.verify.scheme.scenarios import SCENARIOS

MUTANTS = [  # scenario, text, what the text becomes
    ("shares_last", "            free = self.free\n",
     "            free = self.limit - account.out\n"),
    ("shares_last", "min(max(account.wanted - account.out, 0), free)",
     "max(account.wanted - account.out, 0) + 1"),
    ("shares_recalled", "if self.place.used() > share - less:", "if False:"),
    ("shares_crossed", "                if recalls:", "                if False:"),
    ("shares_repeated", "account.returned = max(account.returned, report.returned)",
     "account.returned += report.returned"),
    ("shares_repeated", "if grant.granted > self.granted:\n"
     "                self.granted = grant.granted",
     "if True:\n                self.granted += grant.granted"),
    ("shares_lost", "self.lost.append((now + self.term, account.out))", "pass"),
    ("shares_lost", "if end > now]", "if end > now + 1]"),
    ("shares_lost", "            self.fenced = True\n            self.place.limit(0)\n",
     "            self.fenced = True\n"),
    ("shares_lost", "now >= self.acked + self.term / 2", "now >= self.acked + self.term"),
    ("shares_late_grant", "return 0 if self.fenced else ", "return "),
    ("shares_lowered", "        for end in ends:\n            end.set()\n        if report",
     "        if report"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "text", "becomes"), MUTANTS)
def test_a_mutant_of_the_shares_is_killed(name, text, becomes):
    source = world.source("shares")
    assert source.count(text) == 1, "the mutant does not apply any more"
    with world.other_source("shares", source.replace(text, becomes)):
        assert SCENARIOS[name].explore(minimise=0).failure is not None


# -- a thousand workers


MIB = 1 << 20


class Place:
    def __init__(self, cluster):
        self.cluster = cluster
        self.usage = self.max = 0

    def used(self):
        return self.usage

    def limit(self, share):
        self.cluster.shares += share - self.max
        self.max = share
        assert self.cluster.shares <= self.cluster.ledger.limit

    def charge(self, n):
        if self.usage + n > self.max:
            return False
        self.usage += n  # so the usages add up to no more than the shares do
        return True


class Simulation:
    """Workers whose messages travel for a random time, and of which some are lost and come back.

    Time is simulated. Each worker reports once a second, as Dask's heartbeats do by themselves.
    """

    def __init__(self, workers, limit, seed):
        self.random = random.Random(seed)
        self.ledger = shares.Ledger(limit, term=10.0)
        self.now = 0.0
        self.wire = []  # a heap of (when, number, name of the receiver, message)
        self.places, self.holders = {}, {}
        self.messages = self.asks = self.got = self.lives = self.shares = 0
        for i in range(workers):
            self.join(f"w{i}")

    def join(self, name):
        self.lives += 1
        life = f"{name}.{self.lives}"
        place = self.places[name] = Place(self)
        holder = shares.Holder(life, place, lambda report: self.post(None, (name, report)),
                               slack=8 * MIB, term=10.0)  # fmt: skip
        self.holders[name] = holder
        self.post_all(self.ledger.join(name, life, holder.begin(self.now), self.now))

    def post(self, to, message):
        self.messages += 1
        arrives = self.now + self.random.uniform(0.0005, 0.05)
        heapq.heappush(self.wire, (arrives, self.messages, to, message))

    def post_all(self, sends):
        for name, grant in sends:
            self.post(name, grant)

    def deliver(self, until):
        while self.wire and self.wire[0][0] <= until:
            self.now, _, to, message = heapq.heappop(self.wire)
            if to is None:
                self.post_all(self.ledger.hear(*message))
            elif to in self.holders:
                self.holders[to].hear(message)
        self.now = max(self.now, until)

    def second(self, busy):
        """Let a second pass, in which `busy` workers want more and others let go of some."""
        names = list(self.holders)
        sample = self.random.sample(names, busy)
        wants = {name: self.random.randrange(1, 64) * MIB for name in sample}
        wants = {name: n for name, n in wants.items() if not self.places[name].charge(n)}
        for name, n in wants.items():
            self.asks += 1
            self.holders[name].ask(n, wait=0)
            self.deliver(self.now + self.random.uniform(0, 0.01))
        self.deliver(self.now + 0.5)
        self.got += sum(self.places[name].charge(n) for name, n in wants.items())
        for name in self.random.sample(names, busy):
            self.places[name].usage = self.random.choice([0, self.places[name].usage // 2])
        if self.random.random() < 0.3:  # a worker dies, and another one starts in its place
            name = self.random.choice(names)
            self.holders.pop(name).fence()
            self.post_all(self.ledger.lose(name, self.now))
            self.join(name)
        for name, holder in self.holders.items():  # what rides on heartbeats is no message
            self.post_all(self.ledger.hear(name, holder.tidy()))
        self.post_all(self.ledger.tick(self.now))
        self.deliver(self.now + 0.5)


@pytest.mark.parametrize("seed", [0, *(pytest.param(n, marks=pytest.mark.long) for n in (1, 2))])
def test_a_thousand_workers_never_have_more_than_the_limit(seed, record_property):
    s = Simulation(1000, 65536 * MIB, seed)
    for _ in range(20):
        s.second(busy=100)
    assert s.asks > 500
    assert s.got > s.asks * 0.9, "asks that are refused while there is room"
    # an ask and its answer, and now and then a recall and its answer
    each = s.messages / s.asks
    record_property("messages_per_ask", each)
    assert 2 <= each < 3
    assert s.ledger.out <= s.ledger.limit


def test_when_the_limit_is_short_the_rest_is_refused_and_the_messages_stay_bounded():
    s = Simulation(1000, 1024 * MIB, 7)
    for _ in range(10):
        s.second(busy=100)
    assert s.ledger.refused > 100
    assert s.messages / s.asks < 20


def test_a_ledger_forgets_a_recall_that_is_not_answered():
    ledger = shares.Ledger(10, patience=5)
    ledger.join("hangs", "1", 0, 0)
    ledger.join("asks", "1", 0, 0)
    ledger.hear("hangs", shares.Report("1", 0, 0, 0, 1, 0, 10, 10, 0))
    assert ledger.accounts["hangs"].granted == 10
    ledger.hear("hangs", shares.Report("1", 10, 0, 0, 1, 1, 10, 10, 0))
    ((name, grant),) = ledger.hear("asks", shares.Report("1", 0, 0, 0, 1, 0, 4, 4, 0))
    assert (name, grant.spare) == ("hangs", 4)
    assert ledger.tick(4) == []
    ((name, grant),) = ledger.tick(5)
    assert (name, grant.answered, grant.granted) == ("asks", 1, 0)
    assert ledger.refused == 1


def test_a_grant_that_was_lost_is_sent_again_when_the_holder_reports():
    ledger = shares.Ledger(10)
    ledger.join("a", "1", 0, 0)
    lost = ledger.hear("a", shares.Report("1", 0, 0, 0, 1, 0, 4, 4, 0))
    assert ledger.hear("a", shares.Report("1", 0, 0, 0, 1, 0, 4, 4, 0)) == lost
    assert ledger.hear("a", shares.Report("1", 4, 0, 0, 1, 1, 4, 4, 0)) == []


def test_a_holder_that_could_not_spare_enough_for_a_lowered_limit_is_asked_again():
    ledger = shares.Ledger(10)
    ledger.join("a", "1", 8, 0)
    assert ledger.set_limit(4) == []  # all of it is used
    ledger.hear("a", shares.Report("1", 8, 0, 3, 0, 0, 3, 3, 0))
    ((_, grant),) = ledger.tick(1)
    assert (grant.recall, grant.spare) == (1, 4)


def test_a_lowered_limit_asks_for_what_is_not_used():
    ledger = shares.Ledger(10)
    ledger.join("a", "1", 8, 0)
    ledger.hear("a", shares.Report("1", 8, 0, 3, 0, 0, 3, 3, 0))
    ((name, grant),) = ledger.set_limit(4)
    assert (name, grant.recall, grant.spare) == ("a", 1, 4)
