# SPDX-License-Identifier: Apache-2.0
"""A small exhaustive checker of C11 release/acquire executions.

A program is a few threads: Python generators that yield accesses and are sent what was read.
`explore` runs every execution: every interleaving, and for each access every message it may read
and every place in the modification order it may write to.

The semantics are operational and view based: Kang et al., "A promising semantics for
relaxed-memory concurrency" (POPL 2017), without promises; that is RC11 (Lahav et al., PLDI 2017).

- A location is its messages in modification order. A thread's *view* has, for each location, the
  message that the thread has seen. It reads this message or a later one and writes behind it.
- A release message carries the writer's view, and an acquire load that reads the message joins
  that view. A relaxed message carries the view of the last release fence, and an acquire fence
  joins the views that relaxed loads have read.
- A read-modify-write reads the message right before its own, and no message is put between the
  two. It carries on the view of the message it read. As in C++20, only these continue a release
  sequence.
- A seq_cst fence exchanges views with one global view. A seq_cst access is behind the last seq_cst
  write of its location.
- membarrier(2) is a seq_cst fence in the caller, then one in every other thread, each at a moment
  of its own, and then one more in the caller.
- Plain accesses race unless happens-before orders them. Races are found with vector clocks
  (FastTrack, PLDI 2009). seq_cst fences make views agree but do not order plain accesses.

Two kinds of execution are not tried. One is load buffering: po and rf together have no cycle, as
in RC11, although Arm could reorder relaxed accesses so. The other is a seq_cst order that
contradicts the interleaving. A waiting loop is one `wait`, which reads a value that ends it. A
thread that waits for ever is a deadlock.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable
from typing import Any, NamedTuple

RELAXED, ACQUIRE, RELEASE, ACQ_REL, SEQ_CST = "RELAXED", "ACQUIRE", "RELEASE", "ACQ_REL", "SEQ_CST"
FREED = "freed"
Thread = Generator["Access", Any, Hashable]


class Access(NamedTuple):
    """One step of a thread; `what` is its arguments."""

    kind: str
    location: str = ""
    what: tuple[Any, ...] = ()
    order: str = RELAXED

    def __str__(self) -> str:
        shown = ", ".join(x.__name__ if callable(x) else repr(x) for x in self.what)
        atomic = self.kind in ("load", "store", "rmw", "wait", "fence")
        return f"{self.kind} {self.location} {shown}{' ' + self.order if atomic else ''}"


def load(location: str, order: str = RELAXED) -> Access:
    return Access("load", location, (), order)


def store(location: str, value: Hashable, order: str = RELAXED) -> Access:
    return Access("store", location, (value,), order)


def exchange(location: str, value: Hashable, order: str = RELAXED) -> Access:
    """Sends the old value."""
    return Access("rmw", location, (lambda old: value,), order)


def add(location: str, n: int, order: str = RELAXED) -> Access:
    """Sends the old value."""
    return Access("rmw", location, (lambda old: old + n,), order)


def cas(location: str, expected: Hashable, value: Hashable, order: str = RELAXED) -> Access:
    """Sends the value read, which is `expected` on success. A failure is a relaxed load."""
    return Access("cas", location, (expected, value), order)


def wait(location: str, until: Callable[[Any], bool], order: str = RELAXED) -> Access:
    """Make a load that is repeated until the value satisfies `until`."""
    return Access("wait", location, (until,), order)


def fence(order: str = SEQ_CST) -> Access:
    return Access("fence", order=order)


def interrupt(thread: int) -> Access:
    """Make a seq_cst fence in another thread."""
    return Access("interrupt", what=(thread,))


def membarrier(*others: int) -> Thread:
    """Make the accesses of membarrier(2), for ``yield from``, from the other threads' numbers."""
    yield fence()
    for thread in others:
        yield interrupt(thread)
    yield fence()


def read(location: str) -> Access:
    """Make a plain load."""
    return Access("read", location)


def write(location: str, value: Hashable) -> Access:
    """Make a plain store."""
    return Access("write", location, (value,))


def free(location: str) -> Access:
    """Make a plain store of a value that no thread may read."""
    return Access("write", location, (FREED,))


def lock(location: str) -> Access:
    return Access("lock", location)


def unlock(location: str) -> Access:
    return Access("unlock", location)


def join(*threads: int) -> Access:
    """Make a wait for the end of other threads."""
    return Access("join", what=threads)


class Violation(AssertionError):
    """A broken rule, with one of the shortest executions that break it."""


class Result(NamedTuple):
    outcomes: frozenset[tuple[Hashable, ...]]  # what the threads returned
    finals: frozenset[tuple[Hashable, ...]]  # last values by location
    executions: int  # paths through the states
    states: int


class View(NamedTuple):
    seen: tuple[int, ...]  # location -> index of a message
    clock: tuple[int, ...]  # for each thread, what happened before


class Message(NamedTuple):
    value: Hashable
    view: View
    glued: bool  # written by a read-modify-write of the message before it


class Task(NamedTuple):
    history: tuple[Hashable, ...]  # all that it was sent, which determines the generator
    now: View
    acquired: View  # `now` after an acquire fence
    released: View  # `now` at the last release fence


class State(NamedTuple):
    tasks: tuple[Task, ...]
    memory: tuple[tuple[Message, ...], ...]
    sc: tuple[int, ...]
    accesses: tuple[tuple[tuple[int, ...], ...], ...]  # (location, kind) -> clocks of the last


PLAIN_READ, PLAIN_WRITE, ATOMIC_READ, ATOMIC_WRITE = range(4)
_CONFLICTS = {
    PLAIN_READ: (PLAIN_WRITE, ATOMIC_WRITE),
    PLAIN_WRITE: (PLAIN_READ, PLAIN_WRITE, ATOMIC_READ, ATOMIC_WRITE),
    ATOMIC_READ: (PLAIN_WRITE,),
    ATOMIC_WRITE: (PLAIN_READ, PLAIN_WRITE),
}


def _max(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
    return a if a == b else tuple(map(max, a, b))


def _join(a: View, b: View) -> View:
    return a if a is b else View(_max(a.seen, b.seen), _max(a.clock, b.clock))


def _put(t: tuple[Any, ...], i: int, x: Any) -> tuple[Any, ...]:
    return (*t[:i], x, *t[i + 1 :])


class _Explorer:
    def __init__(self, initial: dict[str, Hashable], threads: list[Callable[[], Thread]]) -> None:
        self.index = {name: i for i, name in enumerate(initial)}
        self.names = list(initial)
        self.threads = threads
        self.code: dict[tuple[int, tuple[Hashable, ...]], Access | tuple[str, Hashable]] = {}
        nothing = View((0,) * len(initial), (0,) * len(threads))
        self.start = State(
            tuple(
                Task((), now, now, nothing)
                for i in range(len(threads))
                for now in [View(nothing.seen, _put(nothing.clock, i, 1))]
            ),
            tuple((Message(value, nothing, False),) for value in initial.values()),
            nothing.seen,
            (((0,) * len(threads),) * 4,) * len(initial),
        )

    def next(self, i: int, history: tuple[Hashable, ...]) -> Access | tuple[str, Hashable]:
        """Return the access that thread i makes after `history`, or ("end", its result)."""
        key = (i, history)
        if key not in self.code:
            running = self.threads[i]()
            found: Access | tuple[str, Hashable]
            try:
                found = running.send(None)
                for value in history:
                    found = running.send(value)
            except StopIteration as end:
                found = ("end", end.value)
            except AssertionError as broken:
                found = ("broken", f"a rule is broken: {broken}")
            self.code[key] = found
        return self.code[key]

    # -- one step

    def access(self, s: State, i: int, at: int, kind: int) -> State:
        clock = s.tasks[i].now.clock
        for other in _CONFLICTS[kind]:
            for thread, when in enumerate(s.accesses[at][other]):
                if thread != i and when > clock[thread]:
                    raise Violation(f"data race on {self.names[at]}: threads {thread} and {i}")
        if s.accesses[at][kind][i] == clock[i]:
            return s
        kinds = _put(s.accesses[at], kind, _put(s.accesses[at][kind], i, clock[i]))
        return s._replace(accesses=_put(s.accesses, at, kinds))

    def sent(self, s: State, i: int, value: Hashable) -> State:
        task = s.tasks[i]
        return s._replace(tasks=_put(s.tasks, i, task._replace(history=(*task.history, value))))

    def take(self, s: State, i: int, at: int, pos: int, order: str) -> State:
        """Thread i reads message `pos`."""
        task, message = s.tasks[i], s.memory[at][pos]
        if message.value == FREED:
            raise Violation(f"{self.names[at]} is used after it was freed")
        now = task.now
        if now.seen[at] < pos:
            now = now._replace(seen=_put(now.seen, at, pos))
        acquired = _join(_join(task.acquired, now), message.view)
        if order in (ACQUIRE, ACQ_REL, SEQ_CST):
            now = _join(now, message.view)
        return s._replace(tasks=_put(s.tasks, i, task._replace(now=now, acquired=acquired)))

    def give(
        self, s: State, i: int, at: int, pos: int, value: Hashable, order: str, over: View | None
    ) -> State:
        """Thread i's message becomes number `pos`. `over` is the message that it modifies."""

        def moved(seen: tuple[int, ...]) -> tuple[int, ...]:
            return _put(seen, at, seen[at] + 1) if seen[at] >= pos else seen

        def shifted(view: View) -> View:
            return view._replace(seen=moved(view.seen)) if view.seen[at] >= pos else view

        if pos < len(s.memory[at]):  # the messages behind it move up
            s = State(
                tuple(Task(t.history, *map(shifted, t[1:])) for t in s.tasks),
                tuple(tuple(m._replace(view=shifted(m.view)) for m in ms) for ms in s.memory),
                moved(s.sc),
                s.accesses,
            )
            over = over and shifted(over)
        task = s.tasks[i]
        now = task.now._replace(seen=_put(task.now.seen, at, pos))
        release = order in (RELEASE, ACQ_REL, SEQ_CST)
        view = now if release else task.released
        if over is not None:
            view = _join(view, over)
        messages = s.memory[at]
        new = Message(value, view, over is not None)
        if release:
            now = now._replace(clock=_put(now.clock, i, now.clock[i] + 1))
        task = task._replace(now=now, acquired=_join(task.acquired, now))
        return s._replace(
            tasks=_put(s.tasks, i, task),
            memory=_put(s.memory, at, (*messages[:pos], new, *messages[pos:])),
            sc=_put(s.sc, at, max(pos, s.sc[at])) if order == SEQ_CST else s.sc,
        )

    def fence(self, s: State, i: int, order: str) -> State:
        task = s.tasks[i]
        now, released, sc = task.now, task.released, s.sc
        if order in (ACQUIRE, ACQ_REL, SEQ_CST):
            now = task.acquired
        if order == SEQ_CST:
            sc = _max(sc, now.seen)
            now = now._replace(seen=sc)
        acquired = _join(task.acquired, now)
        if order in (RELEASE, ACQ_REL, SEQ_CST):
            released = now
            now = now._replace(clock=_put(now.clock, i, now.clock[i] + 1))
            acquired = _join(acquired, now)
        task = Task(task.history, now, acquired, released)
        return s._replace(tasks=_put(s.tasks, i, task), sc=sc)

    def steps(self, s: State, i: int, a: Access) -> list[State]:
        """Return all states to which access `a` of thread i can lead; none if it has to wait."""
        match a.kind:
            case "fence":
                return [self.sent(self.fence(s, i, a.order), i, None)]
            case "interrupt":
                return [self.sent(self.fence(s, a.what[0], SEQ_CST), i, None)]
            case "join":
                for thread in a.what:
                    if not isinstance(self.next(thread, s.tasks[thread].history), Access):
                        task = s.tasks[i]
                        now = _join(task.now, s.tasks[thread].now)
                        task = task._replace(now=now, acquired=_join(task.acquired, now))
                        s = s._replace(tasks=_put(s.tasks, i, task))
                    else:
                        return []
                return [self.sent(s, i, None)]
        at = self.index[a.location]
        messages = s.memory[at]
        last = len(messages) - 1
        match a.kind:
            case "read":
                s = self.take(self.access(s, i, at, PLAIN_READ), i, at, last, RELAXED)
                return [self.sent(s, i, messages[last].value)]
            case "write":
                s = self.access(s, i, at, PLAIN_WRITE)
                return [self.sent(self.give(s, i, at, last + 1, a.what[0], RELAXED, None), i, None)]
            case "lock" | "unlock":
                if (messages[last].value is None) != (a.kind == "lock"):
                    return []
                s = self.take(s, i, at, last, ACQUIRE)
                held = i if a.kind == "lock" else None
                view = messages[last].view
                return [self.sent(self.give(s, i, at, last + 1, held, RELEASE, view), i, None)]
        first = s.tasks[i].now.seen[at]
        if a.order == SEQ_CST:
            first = max(first, s.sc[at])
        if a.kind == "store":
            s = self.access(s, i, at, ATOMIC_WRITE)
            return [
                self.sent(self.give(s, i, at, pos, a.what[0], a.order, None), i, None)
                for pos in range(first + 1, last + 2)
                if pos > last or not messages[pos].glued
            ]
        s = self.access(s, i, at, ATOMIC_READ)
        if a.kind != "load" and a.kind != "wait":
            written = self.access(s, i, at, ATOMIC_WRITE)
        found = []
        for pos in range(first, last + 1):
            value = messages[pos].value
            if a.kind == "load" or (a.kind == "wait" and a.what[0](value)):
                found.append(self.sent(self.take(s, i, at, pos, a.order), i, value))
            elif a.kind == "cas" and value != a.what[0]:
                found.append(self.sent(self.take(s, i, at, pos, RELAXED), i, value))
            elif a.kind in ("rmw", "cas") and (pos == last or not messages[pos + 1].glued):
                t = self.take(written, i, at, pos, a.order)
                new = a.what[0](value) if a.kind == "rmw" else a.what[1]
                t = self.give(t, i, at, pos + 1, new, a.order, messages[pos].view)
                found.append(self.sent(t, i, value))
        return found

    # -- all of them

    def successors(self, s: State) -> list[tuple[int, Access, State]]:
        """Put plain accesses first: with any other they commute, or race in either order."""
        todo = [
            (i, a)
            for i, task in enumerate(s.tasks)
            if isinstance(a := self.next(i, task.history), Access)
        ]
        for i, a in todo:
            if a.kind in ("read", "write"):
                todo = [(i, a)]
                break
        found = []
        for i, a in todo:
            try:
                found += [(i, a, t) for t in self.steps(s, i, a)]
            except Violation as v:
                raise Violation(f"{v}; last: thread {i}: {a}") from None
        if todo and not found:
            waiting = "; ".join(f"thread {i}: {a}" for i, a in todo)
            raise Violation(f"deadlock: {waiting}")
        return found

    def ends(self, s: State) -> tuple[Hashable, ...]:
        found = [self.next(i, task.history) for i, task in enumerate(s.tasks)]
        return tuple(f[1] for f in found if not isinstance(f, Access))


def explore(
    initial: dict[str, Hashable],
    *threads: Callable[[], Thread],
    check: Callable[[dict[str, Any], tuple[Any, ...]], None] | None = None,
    max_states: int = 400_000,
) -> Result:
    """Run every execution.

    Parameters
    ----------
    initial : dict
        The locations and their values; every access of a thread is to one of these. A mutex
        is a location with None.
    *threads : callable
        Makes a thread's generator. It must keep nothing outside itself.
    check : callable, optional
        Called at each end with the last values and what the threads returned; it asserts.

    Raises
    ------
    Violation
        There is a race, a use after free, a deadlock, or an AssertionError of a thread or `check`.
    """
    explorer = _Explorer(initial, list(threads))
    level: dict[State, int] = {explorer.start: 1}
    came: dict[State, tuple[State, int, Access] | None] = {explorer.start: None}
    executions, outcomes, finals = 0, set(), set()
    s = explorer.start
    try:
        while level:
            below: dict[State, int] = {}
            for s, paths in level.items():
                for i, access, t in explorer.successors(s):
                    if t not in came:
                        came[t] = (s, i, access)
                    below[t] = below.get(t, 0) + paths
                    following = explorer.next(i, t.tasks[i].history)
                    if not isinstance(following, Access) and following[0] == "broken":
                        s = t
                        raise Violation(following[1])
                ends = explorer.ends(s)
                if len(ends) == len(threads):
                    last = tuple(messages[-1].value for messages in s.memory)
                    executions += paths
                    outcomes.add(ends)
                    finals.add(last)
                    if check is not None:
                        try:
                            check(dict(zip(explorer.names, last, strict=True)), ends)
                        except AssertionError as broken:
                            raise Violation(f"a rule is broken: {broken}") from None
            level = below
            assert len(came) <= max_states, f"more than {max_states} states"
    except Violation as v:
        raise Violation(f"{v}\n{_trace(explorer, came, s)}") from None
    return Result(frozenset(outcomes), frozenset(finals), executions, len(came))


def _trace(
    explorer: _Explorer, came: dict[State, tuple[State, int, Access] | None], s: State
) -> str:
    lines = []
    while (step := came[s]) is not None:
        before, i, access = step
        lines.append(f"  thread {i}: {access} -> {s.tasks[i].history[-1]!r}")
        s = before
    return "\n".join(reversed(lines))
