# SPDX-License-Identifier: Apache-2.0
"""Forks: the child finds the control plane whole.

No other thread is inside the control plane when a process forks. The thread that forks may hold,
or take before it forks, locks of the program's own, which other threads want while they hold our
mutexes or wait for one. So it never waits without an end, and it lends the mutexes that it has
taken: another thread takes one that it cannot do without. After that, and in a fork in a finalizer
or signal handler that has interrupted our own work, the child mends what is halfway.

Kernel: no counterpart, for a process there shares no lock of the kernel's with its child.

Locks: all mutexes of the control plane, outermost first, for the time of the fork.
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


FORK_PATIENCE_S = 1.0  # for each mutex, and for the worker, which may run the users' code
_nested_forks: set[Hashable] = set()  # tasks that fork while somebody may be in our own work


def _before_fork() -> None:
    core.hold_workers()  # else there may always be one, where other threads give them work
    # A nested fork takes no mutex: the thread that holds it may wait for one of this task's.
    if is_nested():
        _nested_forks.add(current_task())
        return
    try:
        if not _take_mutexes():
            _nested_forks.add(current_task())
    except BaseException:  # Ctrl-C: shown, for nobody can catch it here, and the fork goes on
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
    _nested_forks.intersection_update((current_task(),))  # the others' names are free again
    if not _nested_forks and all(mutex.held() for mutex in _MUTEXES):
        return
    if not _nested_forks:  # another thread has taken one of those that this one had lent
        _release_mutexes()
    for mutex in _MUTEXES:  # the threads that held the others may be gone
        if not mutex.held():
            mutex.forget_holder()
    workqueue.after_fork_in_child()
    if not is_nested():
        mem_cgroup_mend_caches()


def _take_mutexes() -> bool:
    """Take all mutexes and lend them; tell whether they were to be had."""
    while workqueue.wait_idle(FORK_PATIENCE_S):
        if not all(mutex.acquire_within(FORK_PATIENCE_S) for mutex in _MUTEXES):
            break
        if workqueue.is_idle():
            for mutex in _MUTEXES:
                mutex.lend()
            return True
        _release_mutexes()  # a worker came in between and needs what we hold
    _release_mutexes()
    return False


def _release_mutexes() -> None:
    for mutex in reversed(_MUTEXES):
        if mutex.held():
            mutex.release()


at_fork(_before_fork, _after_fork, _after_fork_in_child)
