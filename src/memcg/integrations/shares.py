# SPDX-License-Identifier: Apache-2.0
"""Shares of one limit: a ledger hands them out to holders as they need them, and takes them back.

The ledger is at one place, such as a cluster's scheduler. A holder is at each worker, and keeps
what the worker uses within its share. The two exchange `Report` and `Grant`. How these travel is
not known here: a program hands each message that it gets to `hear`, and sends what that returns.

**What must hold**: the shares of all holders never add up to more than the limit. The ledger counts
a share as out from before the holder gets it until after the holder has let go of it. So messages
may be late, lost, repeated or in any order:

- What was given and what was given back are totals of the holder's life, which only grow. A message
  that is repeated or overtaken says nothing new, and a later one makes up for one that was lost.
- A holder that gives back lowers its limit first. It then reads its usage, and takes the limit back
  if a charge was faster. Only then does it report.
- A holder that is lost may still be running. Its share stays out for a *term*, after which the
  ledger may give it away. A holder whose reports are not answered for half of a term stops itself:
  it is *fenced*, and its limit is 0. Clocks may differ, because each side counts from its own
  messages. They must not differ in speed by half.

An ask waits at the ledger while others are asked to give back what they do not use: first as few as
may be enough, and if they have less to spare than it seemed, the next ones. It is then refused, so
no ask waits for ever.

Counterparts: escrow of a bound (O'Neil, The escrow transactional method, 1986), leases (Gray and
Cheriton, 1989) and counters that merge by their maximum (PN-counters). The kernel's per-CPU stock
of a page counter is a share too.
Where we differ: a share is taken back by asking; a stock is drained by force.

Locks: a ledger belongs to one thread, or to one event loop. `shares_mutex` of a holder protects its
figures, because tasks ask in their threads while messages arrive in another.
"""

from __future__ import annotations

from ..locking import Event, Mutex, shared

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NamedTuple, Protocol

    class Place(Protocol):
        """Where a share is held: a group, for example."""

        def used(self) -> int:
            """Return how many bytes are charged."""

        def limit(self, share: int) -> None:
            """Let at most so many bytes be charged. A charge sees this, or `used` sees it."""

else:
    from collections import namedtuple

if TYPE_CHECKING:

    class Report(NamedTuple):
        """What a holder says. Sizes are in bytes."""

        life: str  # which life of the holder it is; names that return have another
        granted: int  # given so far, in total, as far as the holder knows
        returned: int  # given back so far, in total
        used: int  # and what was granted to an ask a moment ago
        ask: int  # the number of the last ask; 0: there was none
        answered: int  # the number of the last ask to which the holder knows the answer
        least: int  # the share without which the ask is of no use
        wanted: int  # the share that is asked for
        recall: int  # the number of the last recall that was answered

    class Grant(NamedTuple):
        """What the ledger says. Sizes are in bytes."""

        life: str
        granted: int  # given so far, in total
        answered: int  # the number of the last ask that was answered, by a larger share or not
        recall: int  # the number of the last recall; 0: there was none
        spare: int  # how much that recall asks for

else:
    Report = namedtuple("Report", "life granted returned used ask answered least wanted recall")
    Grant = namedtuple("Grant", "life granted answered recall spare")


ROUNDS = 2  # of recalls for one ask


class _Account:
    """What the ledger knows of one holder. Sizes are in bytes."""

    def __init__(self, life: str, granted: int) -> None:
        self.life = life
        self.granted = granted
        self.returned = 0
        self.used = granted
        self.ask = self.answered = 0
        self.least = self.wanted = 0
        self.recall = self.recall_answered = 0
        self.spare = 0
        self.patience = 0.0  # until when the last recall is waited for

    @property
    def out(self) -> int:
        """The most that the holder may have now."""
        return self.granted - self.returned

    def grant(self) -> Grant:
        return Grant(self.life, self.granted, self.answered, self.recall, self.spare)


class Ledger:
    """One limit and the shares of it that are out. Context: one thread.

    Parameters
    ----------
    limit : int
        In bytes.
    term : float
        For how many seconds the share of a lost holder stays out.
    patience : float
        For how many seconds an ask waits for a holder that was asked to give back.
    """

    def __init__(self, limit: int, *, term: float = 60.0, patience: float = 5.0) -> None:
        self.limit = limit
        self.term = term
        self.patience = patience
        self.now = 0.0  # of the last `tick`
        self.accounts: dict[str, _Account] = {}
        self.lost: list[tuple[float, int]] = []  # when it ends, and how much it was
        self._queue: list[str] = []  # holders with an ask that waits, the first is served first
        self._asked: set[str] = set()  # the holders that were asked for the first ask's sake
        self._rounds = 0
        self._out = 0
        self._recalled: set[str] = set()  # holders that may have a recall to answer
        self.refused = 0  # asks that were answered without what they needed

    @property
    def out(self) -> int:
        """How many bytes are out: the shares of holders, and of lost ones whose term runs."""
        return self._out

    @property
    def free(self) -> int:
        return max(self.limit - self.out, 0)

    def join(self, holder: str, life: str, used: int, now: float) -> list[tuple[str, Grant]]:
        """Take in a holder, whose share is what it uses already. It may put the sum past the limit.

        Then nothing is given until enough has been given back.
        """
        known = self.accounts.get(holder)
        if known is not None and known.life == life:
            return [(holder, known.grant())]
        sends = self.lose(holder, now)
        self.accounts[holder] = _Account(life, used)
        self._out += used
        return sends

    def hear(self, holder: str, report: Report) -> list[tuple[str, Grant]]:
        """Take in a report, and return the grants to send: each with the holder that gets it.

        A report of an earlier life, or of a holder that was lost, changes nothing.
        """
        account = self.accounts.get(holder)
        if account is None or account.life != report.life:
            return []
        before = account.out
        account.returned = max(account.returned, report.returned)
        self._out += account.out - before
        account.recall_answered = max(account.recall_answered, report.recall)
        account.used = report.used
        if report.ask > account.ask:
            account.ask, account.least, account.wanted = report.ask, report.least, report.wanted
            if holder not in self._queue:
                self._queue.append(holder)
        sends = self._serve()
        behind = report.granted < account.granted or report.answered < account.answered
        if behind and all(name != holder for name, _ in sends):
            sends.append((holder, account.grant()))  # it was lost, or is still on its way
        return sends

    def set_limit(self, limit: int) -> list[tuple[str, Grant]]:
        """Change the limit. Below what is out, holders are asked for what they do not use."""
        self.limit = limit
        return [*self._serve(), *self._recall(self.out - limit, set())]

    def lose(self, holder: str, now: float) -> list[tuple[str, Grant]]:
        """Note that a holder is gone, or cannot be reached. Its share is free after the term.

        `now` is in seconds of any clock that runs, the same for `tick`.
        """
        account = self.accounts.pop(holder, None)
        if account is None:
            return []
        if account.out:
            self.lost.append((now + self.term, account.out))
        if holder in self._queue:
            self._drop(holder)
        return self._serve()

    def tick(self, now: float) -> list[tuple[str, Grant]]:
        """Free the shares of holders that have been lost for a term. Call it once a second."""
        self.now = now
        self._out -= sum(n for end, n in self.lost if end <= now)
        self.lost = [(end, n) for end, n in self.lost if end > now]
        sends = self._serve()
        if not self._recall_runs():  # those that were asked may have less to do now
            sends += self._recall(self.out - self.limit, set())
        return sends

    def _drop(self, holder: str) -> None:
        if self._queue[0] == holder:
            self._asked, self._rounds = set(), 0
        self._queue.remove(holder)

    def _serve(self) -> list[tuple[str, Grant]]:
        """Answer the asks that wait, in their order, and recall what the first of them lacks."""
        sends: list[tuple[str, Grant]] = []
        while self._queue:
            holder = self._queue[0]
            account = self.accounts[holder]
            free = self.free
            if account.out + free < account.least:
                if self._recall_runs():
                    break
                missing = account.least - account.out - free if self._rounds < ROUNDS else 0
                recalls = self._recall(missing, self._asked | {holder})
                if recalls:
                    self._rounds += 1
                    self._asked |= {name for name, _ in recalls}
                    sends += recalls
                    break
                self.refused += 1
            else:
                more = min(max(account.wanted - account.out, 0), free)
                account.granted += more
                self._out += more
            account.answered = account.ask
            self._drop(holder)
            sends.append((holder, account.grant()))
        return sends

    def _recall_runs(self) -> bool:
        self._recalled = {name for name in self._recalled if self._is_recalled(name)}
        return bool(self._recalled)

    def _is_recalled(self, holder: str) -> bool:
        account = self.accounts.get(holder)
        if account is None or account.recall == account.recall_answered:
            return False
        return account.patience > self.now

    def _recall(self, missing: int, without: set[str]) -> list[tuple[str, Grant]]:
        """Ask as few holders as possible for what they do not use, until it may be enough."""
        sends = []
        if missing <= 0:
            return []
        idle = sorted(
            ((a.out - a.used, name) for name, a in self.accounts.items() if name not in without),
            reverse=True,
        )
        for spare, name in idle:
            if missing <= 0 or spare <= 0:
                break
            account = self.accounts[name]
            account.recall += 1
            self._recalled.add(name)
            account.spare = min(spare, missing)
            account.patience = self.now + self.patience
            missing -= spare
            sends.append((name, account.grant()))
        return sends


@shared(
    granted="shares_mutex", returned="shares_mutex", answered="shares_mutex", asks="shares_mutex",
    recall="shares_mutex", fenced="shares_mutex", waiting="shares_mutex", life=None, place=None,
    acked="shares_mutex", fresh="shares_mutex", term=None, slack=None, send=None, shares_mutex=None,
)  # fmt: skip
class Holder:
    """A share, and the place that is kept within it. Any thread may use it.

    Parameters
    ----------
    life : str
        It must differ from that of an earlier holder of the same name.
    place : Place
        Its limit is set by this object alone.
    send : callable
        It sends a `Report` to the ledger; it may be called in any thread, and must not wait.
    slack : int
        How many bytes an ask wants beyond what it needs, so that there are fewer asks.
    term : float
        The ledger's, in seconds.
    """

    def __init__(
        self, life: str, place: Place, send: Callable[[Report], object], *,
        slack: int = 0, term: float = 60.0,
    ) -> None:  # fmt: skip
        self.shares_mutex = Mutex("shares_mutex")
        self.life = life
        self.place = place
        self.send = send
        self.slack = slack
        self.term = term
        self.acked = 0.0
        self.granted = self.returned = 0
        self.answered = self.asks = self.recall = 0
        self.fenced = False
        self.fresh = [0, 0]  # granted to asks since the last `tidy` and between the last two
        # number of an ask -> its bytes, its end, whether they are kept
        self.waiting: dict[int, tuple[int, Event, bool]] = {}

    def begin(self, now: float) -> int:
        """Take what the place uses for the first share, and return it for `Ledger.join`.

        The limit is set first, and then the usage is read, until none was charged in between.
        `now` is in seconds of the clock of `ack` and `tick`.
        """
        with self.shares_mutex:
            self.acked = now
            while True:
                used = self.place.used()
                self.place.limit(used)
                if self.place.used() <= used:
                    self.granted = used
                    return used

    @property
    def share(self) -> int:
        """How many bytes the place may use now."""
        with self.shares_mutex:
            return self._share()

    def _share(self) -> int:
        return 0 if self.fenced else self.granted - self.returned

    def report(self) -> Report:
        """Return what the ledger should know. It may be sent at any time."""
        with self.shares_mutex:
            return self._report()

    def _report(self) -> Report:
        used = self.place.used()
        least = used + sum(n for n, _, _ in self.waiting.values())
        kept = min(used + sum(self.fresh), max(self._share(), used))
        return Report(
            self.life, self.granted, self.returned, kept, self.asks, self.answered, least,
            least + self.slack, self.recall,
        )  # fmt: skip

    def ask(self, nbytes: int, wait: float = -1, *, keep: bool = True) -> bool:
        """Ask for room for `nbytes` more than are used, and wait for the answer.

        Parameters
        ----------
        nbytes : int
            Nothing is asked for if the share has so much room already.
        wait : float
            The longest time to wait in seconds; 0 does not wait, and below 0 there is no bound.
        keep : bool
            Do not give back for a moment what is granted, although it is not used yet; see `tidy`.

        Returns
        -------
        bool
            Whether there is room now. Other threads may use it up.
        """
        with self.shares_mutex:
            if self._has_room(nbytes):
                return True
            if self.fenced:
                return False
            self.asks += 1
            number, answer = self.asks, Event("share_answered")
            self.waiting[number] = nbytes, answer, keep
            report = self._report()
        self.send(report)
        if wait:
            answer.wait(wait)
        with self.shares_mutex:
            if wait:
                self.waiting.pop(number, None)
            return self._has_room(nbytes)

    def done(self, nbytes: int) -> None:
        """Note that what an ask was granted is in use, or is not needed any more."""
        with self.shares_mutex:
            for i in (0, 1):
                less = min(self.fresh[i], nbytes)
                self.fresh[i] -= less
                nbytes -= less

    def _has_room(self, nbytes: int) -> bool:
        return self._share() - self.place.used() >= nbytes

    def hear(self, grant: Grant) -> None:
        """Take in a grant: a larger share, or the wish to have some of it back."""
        if grant.life != self.life:
            return
        ends = []
        report = None
        with self.shares_mutex:
            if grant.granted > self.granted:
                self.granted = grant.granted
                self.place.limit(self._share())
            if grant.answered > self.answered:
                self.answered = grant.answered
                for number in [n for n in self.waiting if n <= grant.answered]:
                    nbytes, end, keep = self.waiting.pop(number)
                    ends.append(end)
                    if keep and self._has_room(nbytes):
                        self.fresh[0] += nbytes
            if grant.recall > self.recall:
                self.recall = grant.recall
                self._give_back(grant.spare)
                report = self._report()
        for end in ends:
            end.set()
        if report is not None:
            self.send(report)

    def tidy(self) -> Report:
        """Give back what is far more than is used, and return a report of it.

        Call it once a second. What an ask was granted is kept until `done`, or until the second
        call after that.
        """
        with self.shares_mutex:
            self.fresh = [0, self.fresh[0]]
            idle = self._share() - self.place.used()
            if idle > 2 * self.slack and not self.waiting:
                self._give_back(idle - self.slack)
            return self._report()

    def _give_back(self, most: int) -> None:
        """Lower the limit by up to `most`, to what is used. A charge that is faster keeps it."""
        share = self._share()
        less = min(most, share - self.place.used() - sum(self.fresh))
        if less <= 0:
            return
        self.place.limit(share - less)
        if self.place.used() > share - less:
            self.place.limit(share)
            return
        self.returned += less

    def ack(self, sent: float) -> None:
        """Note that something that was sent at `sent`, in seconds, has been answered."""
        with self.shares_mutex:
            self.acked = max(self.acked, sent)

    def tick(self, now: float) -> None:
        """Stop if nothing that was sent in the last half of a term has been answered."""
        with self.shares_mutex:
            late = now >= self.acked + self.term / 2
        if late:
            self.fence()

    def fence(self) -> None:
        """Stop: the limit is 0 from now on, and all asks are refused. A second call does nothing.

        What is charged already stays, so the process should end.
        """
        with self.shares_mutex:
            if self.fenced:
                return
            self.fenced = True
            self.place.limit(0)
            ends = [end for _, end, _ in self.waiting.values()]
            self.waiting.clear()
        for end in ends:
            end.set()
