# SPDX-License-Identifier: Apache-2.0
"""Forks: the child finds the control plane whole.

As a rule no other thread is inside the control plane when a process forks, because the thread that
forks holds all its mutexes. That thread may also hold locks of the program's own, or take them
before it forks. Other threads may want these locks while they hold our mutexes or wait for one. So
the thread that forks waits for a limited time only, and it lends the mutexes that it has taken:
another thread that cannot go on takes one. If the time was over or a mutex was taken, the child
mends what is unfinished. It does so too after a fork in a finalizer or signal handler that has
interrupted our own work.

Kernel: there is no counterpart, because a process shares no lock of the kernel's with its child.

Locks: all mutexes of the control plane are held during the fork. The outermost is taken first.
"""

from __future__ import annotations

from .. import core
from ..locking import at_fork, current_task
from . import workqueue
from .cgroup import cgroup_mutex, is_nested
from .memcontrol import activate_kmem_mutex, mem_cgroup_mend_caches, memcg_slab_mutex
from .slab_common import slab_mutex

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Hashable

_MUTEXES = (
    cgroup_mutex, activate_kmem_mutex, memcg_slab_mutex, slab_mutex, *core.LOCKS, workqueue.wq_lock,
)  # fmt: skip


FORK_PATIENCE_S = 1.0  # seconds for each mutex, and for the worker, which may run the users' code
_nested_forks: set[Hashable] = set()  # tasks that fork in the middle of their own work with memcg


def _before_fork() -> None:
    core.hold_workers()  # or else new ones might start for ever, if other threads give them work
    # A nested fork takes no mutex: the thread that holds one may wait for a mutex of this task.
    if is_nested():
        _nested_forks.add(current_task())
        return
    try:
        _take_mutexes()
    except BaseException:  # Ctrl-C: CPython shows it, since no code can catch it, and forks
        _release_mutexes()
        _take_mutexes()
        raise


def _after_fork() -> None:
    if current_task() in _nested_forks:
        _nested_forks.discard(current_task())
    else:
        _release_mutexes()
    core.release_workers()


def _after_fork_in_child() -> None:
    core.after_fork_in_child()
    _nested_forks.intersection_update((current_task(),))  # new threads may get the others' names
    if all(mutex.held() for mutex in _MUTEXES):
        return  # no other thread was in our own work
    if not _nested_forks:  # another thread has taken a mutex that this one had lent
        _release_mutexes()
    for mutex in _MUTEXES:  # a thread that is gone may have held one
        if not mutex.held():
            mutex.forget_holder()
    workqueue.after_fork_in_child()
    if not is_nested():
        mem_cgroup_mend_caches()


def _take_mutexes() -> None:
    """Take all mutexes and lend them; take none if one cannot be taken in time."""
    while workqueue.wait_idle(FORK_PATIENCE_S):
        if not all(mutex.acquire_within(FORK_PATIENCE_S) for mutex in _MUTEXES):
            break
        if workqueue.is_idle():
            for mutex in _MUTEXES:
                mutex.lend()
            return
        _release_mutexes()  # a worker started in between and needs the mutexes that we hold
    _release_mutexes()


def _release_mutexes() -> None:
    for mutex in reversed(_MUTEXES):
        if mutex.held():
            mutex.release()


at_fork(_before_fork, _after_fork, _after_fork_in_child)
