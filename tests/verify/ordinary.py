# SPDX-License-Identifier: Apache-2.0
"""Ordinary code that knows nothing of the explorer. Each class has one known bug, or none."""

from __future__ import annotations

import functools
import queue
import threading
import time
from collections import OrderedDict
from time import monotonic as now

registry_lock = threading.Lock()
registry: dict[str, int] = {}
hits = 0


class Cache(dict):
    """A cache with a size, which loses updates when two threads put at a time."""

    def __init__(self, room):
        self.room, self.size = room, 0

    def put(self, key, value):
        if self.size < self.room:
            self[key] = value
            self.size += 1


class Pool:
    """A pool that looks whether there is room, and then takes it: the limit can be passed."""

    limit = 1

    def __init__(self):
        self.idle, self.made, self.lock = [], 0, threading.Lock()

    def get(self):
        if self.idle:
            return self.idle.pop()
        if self.made >= self.limit:
            return None
        with self.lock:
            self.made += 1
        return object()

    def put(self, it):
        self.idle.append(it)


class SafePool(Pool):
    """The same, in one critical section."""

    def get(self):
        with self.lock:
            if self.idle:
                return self.idle.pop()
            if self.made >= self.limit:
                return None
            self.made += 1
            return object()

    def put(self, it):
        with self.lock:
            self.idle.append(it)


class Jobs:
    """A queue made at home: `put` wakes a thread up only if the queue was empty."""

    def __init__(self):
        self.items, self.condition = [], threading.Condition()

    def put(self, item):
        with self.condition:
            self.items.append(item)
            if len(self.items) == 1:
                self.condition.notify()

    def get(self):
        with self.condition:
            while not self.items:
                self.condition.wait()
            return self.items.pop()


class SafeJobs(Jobs):
    def put(self, item):
        with self.condition:
            self.items.append(item)
            self.condition.notify()


def cached(function, lock):
    """Remember results. The lock is not held while the function computes one."""
    found: dict[object, object] = {}

    @functools.wraps(function)
    def wrapper(key):
        with lock:
            if key in found:
                return found[key]
        value = function(key)
        with lock:
            found[key] = value
        return value

    return wrapper


class Once:
    """It makes its value when first asked, and looks for it without a lock."""

    _instance = None

    @classmethod
    def get(cls):
        if cls._instance is None:
            cls._instance = cls()
        return cls._instance


class Worker(threading.Thread):
    """It takes jobs until one is None, and gives up when none arrives in time."""

    def __init__(self, jobs, sleep=time.sleep):
        super().__init__(name="worker")
        self.jobs, self.done, self.sleep = jobs, [], sleep
        self.began = now()

    def run(self):
        self.sleep(0.1)
        while True:
            try:
                job = self.jobs.get(timeout=1)
            except queue.Empty:
                return
            if job is None:
                return
            self.done.append(job)


class Ring:
    """A queue with one writer and one reader, which needs no lock."""

    def __init__(self, n):
        self.slots, self.head, self.tail = [None] * n, 0, 0

    def put(self, item):
        if self.tail - self.head == len(self.slots):
            return False
        self.slots[self.tail % len(self.slots)] = item
        self.tail += 1
        return True

    def get(self):
        if self.head == self.tail:
            return None
        item = self.slots[self.head % len(self.slots)]
        self.head += 1
        return item


def register(name):
    """Count a name, without the lock that is there for it."""
    registry[name] = registry.get(name, 0) + 1


def register_safely(name):
    with registry_lock:
        registry[name] = registry.get(name, 0) + 1


def hit():
    global hits
    hits += 1


class Recent:
    """The keys that were used last. Another thread may change them while they are walked."""

    def __init__(self):
        self.keys = OrderedDict()

    def use(self, key):
        self.keys[key] = None
        self.keys.move_to_end(key)

    def names(self):
        return [str(key) for key in self.keys]
