# SPDX-License-Identifier: Apache-2.0
"""Ordinary code for `explorers.py`, which knows nothing of any explorer."""

from __future__ import annotations

import threading


class Counter:
    def __init__(self):
        self.n = 0

    def add(self):
        self.n += 1


class Pool:
    """It looks whether there is room before it takes the lock, unless it is sound."""

    def __init__(self, sound=False):
        self.made, self.lock, self.sound, self.got = 0, threading.Lock(), sound, 0

    def get(self):
        if not self.sound and self.made >= 1:
            return
        with self.lock:
            if self.sound and self.made >= 1:
                return
            self.made += 1


class Jobs:
    """It wakes a thread up only if the queue was empty."""

    def __init__(self):
        self.items, self.condition = [], threading.Condition()

    def put(self):
        with self.condition:
            self.items.append(1)
            if len(self.items) == 1:
                self.condition.notify()

    def get(self):
        with self.condition:
            while not self.items:
                self.condition.wait()
            self.items.pop()


class Cached:
    """It computes outside its lock."""

    def __init__(self):
        self.lock, self.found, self.computed = threading.Lock(), {}, 0

    def get(self):
        with self.lock:
            if 3 in self.found:
                return
        self.computed += 1
        with self.lock:
            self.found[3] = 9


class Accounts:
    """It takes two locks in the order of the transfer."""

    def __init__(self):
        self.a, self.b = threading.Lock(), threading.Lock()

    def forth(self):
        with self.a, self.b:
            pass

    def back(self):
        with self.b, self.a:
            pass
