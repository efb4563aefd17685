# SPDX-License-Identifier: Apache-2.0
"""Random small programs, as lists of operations, and how to run them under the explorer."""

from __future__ import annotations

import random

from memcg.verify import seam

OPERATIONS = (
    "lock", "unlock", "read", "write", "add", "cas", "set", "clear", "wait", "load",
    "enter", "leave", "synchronize", "choose", "slot", "spawn",
)  # fmt: skip
PALETTES = [
    OPERATIONS,
    ("lock", "lock", "unlock", "read", "write"),
    ("lock", "unlock", "wait", "set", "clear"),
    ("set", "clear", "wait", "read", "write"),
    ("add", "cas", "load", "read", "write"),
    ("enter", "enter", "leave", "synchronize", "read", "write"),
    ("enter", "leave", "synchronize", "lock", "write"),
    ("choose", "write", "read", "slot"),
    ("spawn", "write", "read", "wait", "set"),
]
# A task with "expect" fails by an assertion; what it has seen decides whether.
FAILING = [
    ("expect", "expect", "write", "write"),
    ("expect", "write", "read", "add"),
    ("expect", "lock", "unlock", "write"),
    ("expect", "lock", "write", "write"),
    ("expect", "set", "wait", "write"),
    ("expect", "enter", "leave", "synchronize", "write"),
    ("expect", "choose", "write", "slot"),
    ("expect", "refuse", "write", "write"),
    ("expect", "cas", "spawn", "write"),
]
COSTLY = {"spawn": 3, "choose": 9, "slot": 5}  # once, and only in programs of at most this length
Program = list[list[tuple[str, int]]]


def random_program(
    rng: random.Random, sizes: list[int], palettes: list[tuple[str, ...]] = PALETTES
) -> Program:
    """Draw one list of (operation, object 0 or 1) for each task.

    A program draws from a few operations only, mostly on object 0, so that its tasks meet.
    It unlocks and leaves only what it holds, and synchronizes outside sections.
    """
    palette = rng.choice(palettes)
    program, used = [], set()
    for size in sizes:
        task, held, inside = [], [], False
        while len(task) < size:
            kind, obj = rng.choice(palette), rng.choice((0, 0, 1))
            if kind == "lock":
                if obj in held:
                    continue
                held.append(obj)
            elif kind == "unlock":
                if not held:
                    continue
                obj = held.pop(rng.randrange(len(held)))
            elif kind in ("enter", "leave"):
                if inside == (kind == "enter"):
                    continue
                inside = not inside
            elif kind == "synchronize" and inside:
                continue
            elif kind in COSTLY and (len(sizes) > 2 or sum(sizes) > COSTLY[kind] or kind in used):
                kind = "write"  # naive enumeration would take too long
            used.add(kind)
            task.append((kind, obj))
        program.append(task)
    return program


class Forked(Exception):
    """How the child of a fork ends, with its final state."""


class State:
    """What the tasks of one program share, and what each has seen."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.locks = [seam.Mutex(f"lock{i}") for i in range(2)]
        self.cells = [seam.Published(0) for _ in range(2)]
        self.atomics = [seam.Atomic(0) for _ in range(2)]
        self.events = [seam.Event(f"event{i}") for i in range(2)]
        self.array = seam.Published([0, 0])
        self.read_side = seam.ReadSide()
        self.seen = [[] for _ in program]

    def body(self, me: int) -> None:
        """Do a task's operations. At the end, or on an interrupt, release all that it holds."""
        sections, forked = [], False
        try:
            for n, (kind, i) in enumerate(self.program[me]):
                if kind == "enter":
                    self.read_side.__enter__()
                    sections.append(n)
                elif kind == "leave":
                    sections.pop()
                    self.read_side.__exit__(None, None, None)
                elif kind == "fork":
                    seam.fork()
                    forked = True
                else:
                    self.do(kind, i, 10 * (me + 1) + n, self.seen[me])
        finally:
            if sections:
                self.read_side.__exit__(None, None, None)
            for lock in self.locks:
                if lock.held():
                    lock.release()
        if forked:
            seam.settle()
            raise Forked(self.final())

    def do(self, kind: str, i: int, token: int, log: list) -> None:
        match kind:
            case "lock":
                self.locks[i].acquire()
            case "unlock":
                self.locks[i].release()
            case "read":
                log.append(self.cells[i].load())
            case "write":
                self.cells[i].store(token)
            case "add":
                log.append(self.atomics[i].add(token))
            case "cas":
                log.append(self.atomics[i].compare_exchange(0, token))
            case "load":
                log.append(self.atomics[i].get())
            case "set":
                self.events[i].set()
            case "clear":
                self.events[i].clear()
            case "wait":
                self.events[i].wait()
            case "synchronize":
                self.read_side.synchronize()
            case "choose":
                self.cells[i].store(token + 100 * seam.choose(2))
            case "slot":
                slots = self.array.load()
                slots[i] = slots[0] + token
            case "expect":
                seen = self.cells[i].load()
                assert seen == 0, f"t{token // 10 - 1}: cell {i} is {seen}, and before it {log}"
                log.append(seen)
            case "refuse":
                assert not seam.choose(2), f"t{token // 10 - 1} is refused after {log}"
            case "spawn":
                seam.spawn(lambda: self.cells[i].store(token), "spawned")

    def final(self) -> tuple:
        left = [cell.load() for cell in self.cells] + [atomic.get() for atomic in self.atomics]
        slots = self.array.load()
        left += [slots[0], slots[1], *(event.is_set() for event in self.events)]
        return (*map(tuple, self.seen), tuple(left))


def runnable(program: Program, *, joined: bool = True):
    """Return the program as a callable. Its final state is all that the tasks saw and left.

    If the tasks are not `joined`, the first is ``main``, and only what it saw counts.
    """

    def main():
        state = State(program)

        def task(me: int):
            def body() -> None:
                state.body(me)

            body.__name__ = f"t{me}"
            return body

        if not joined:
            for me in range(1, len(program)):
                seam.spawn(task(me), f"t{me}")
            state.body(0)
            return tuple(state.seen[0])
        seam.parallel(*map(task, range(len(program))))
        seam.settle()
        return state.final()

    return main
