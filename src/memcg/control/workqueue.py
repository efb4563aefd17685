# SPDX-License-Identifier: Apache-2.0
"""A transient worker does the work that the data plane asks for.

Events wait in the data plane's queue. `wake` starts a worker thread if none is at work. The worker
drains the queue and ends, so a process at rest has no thread of ours. There is one worker at a
time, so many events do not start many threads.

Kernel: kernel/workqueue.c (``schedule_work``, ``flush_workqueue``).
Where we differ: no worker stands by; a handler's exception is shown and kept in `failures`.
Locks: `wq_lock` protects the worker's place. It is innermost and held for a few stores.
"""

from __future__ import annotations

from .. import core
from ..locking import (
    Event,
    Mutex,
    assert_held,
    at_exit,
    current_task,
    report_exception,
    shared,
    spawn,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

wq_lock = Mutex("wq_lock")


@shared(running="wq_lock", stopped="published")
class _Place:
    """The place of the one worker.

    Attributes
    ----------
    running : bool
        A thread has the place; `wq_lock` protects it.
    stopped : bool
        No thread takes the place any more; it is stored under `wq_lock`.
    """

    def __init__(self) -> None:
        self.running = False
        self.stopped = False


_place = _Place()
# The task that has the place, or None. Every task compares it only with itself, and only that task
# writes its own name; a stale value can therefore never equal the reader. Hence no lock, and no
# scheduling point.
_worker_task: Hashable = None
_idle = Event("wq_idle")
_idle.set()
_handlers: dict[str, Callable[[core.Event], None]] = {}
# Which task handles which event. A forked child handles anew the events of threads that are gone.
_in_hand: list[tuple[Hashable, core.Event]] = []
_left: list[core.Event] = []
failures: list[BaseException] = []  # what handlers raised; each is a defect, so tests look at it


def register(kind: str, handler: Callable[[core.Event], None]) -> None:
    """Name the function that handles events of one kind."""
    _handlers[kind] = handler


def wake() -> None:
    """Start a worker unless one is at work. Context: wherever a thread may be started."""
    with wq_lock:
        if _place.running or _place.stopped:
            return
        _idle.clear()
        _place.running = True
    try:
        spawn(_worker, "memcg-worker")
    except BaseException as error:  # the next `wake` tries again
        with wq_lock:
            __rest()
        if not isinstance(error, (RuntimeError, MemoryError)):  # these mean: no thread can start
            raise


def _worker() -> None:
    global _worker_task
    _worker_task = current_task()
    _drain()


def work() -> None:
    """Be the worker unless one is at work. Context: a thread that the data plane started."""
    _be_worker()


def _be_worker(*, stopped_too: bool = False) -> bool:
    """Handle all events unless another thread is the worker; tell whether the place was free."""
    global _worker_task
    me = current_task()
    try:
        with wq_lock:
            if _place.running or (_place.stopped and not stopped_too):
                return False
            _worker_task = me  # first: after an interrupt from here on, the place is given back
            _place.running = True
            _idle.clear()
        _drain()
    except BaseException:  # an interrupt: give the place back
        with wq_lock:
            if _worker_task == me:
                __rest()
        raise
    return True


def _drain() -> None:
    while True:
        with wq_lock:
            event = __next_event()
            if event is None:
                __rest()
                return
        _handle(event)


def __next_event() -> core.Event | None:
    return _left.pop() if _left else core.next_event()


def __rest() -> None:
    """Give the worker's place back. Context: `wq_lock` held."""
    global _worker_task
    assert_held(wq_lock)
    _place.running = False
    _idle.set()
    _worker_task = None  # last: a finalizer that forks before this line must not wait for itself


def uninterrupted(fn: Callable[..., object], *args: object) -> None:
    """Run `fn` in a thread of its own, where no asynchronous exception reaches it, and wait.

    If the wait is interrupted, by KeyboardInterrupt for example, `fn` still runs to its end.

    Raises
    ------
    BaseException
        What `fn` raised.

    Notes
    -----
    Context: blocks; the caller holds no mutex that `fn` takes.
    """
    done = Event("uninterrupted")
    raised: list[BaseException] = []

    def run() -> None:
        core.stop_account()
        try:
            fn(*args)
        except BaseException as failure:
            raised.append(failure)
        finally:
            done.set()  # before `resume_account`, because that lets an alarm be raised
            core.resume_account()

    # At the interpreter's end a new thread would never run. The worker, in a shrinker or a
    # finalizer, would wait for a thread that waits for the worker.
    here = _place.stopped or _worker_task == current_task()
    if not here:
        try:
            spawn(run, "memcg-uninterrupted")
        except RuntimeError:  # no thread can start: an interruptible call is better than none
            here = True
    if here:
        run()
    else:
        done.wait()
    if raised:
        try:
            raise raised[0]
        finally:
            raised.clear()  # the traceback refers to this list, which would be a cycle


def run_pending() -> None:
    """Handle queued events in the calling thread until the queue is empty."""
    while (event := __next_event()) is not None:
        _handle(event)


def settled(event: core.Event) -> None:
    """Note that all is done but the drop of the event's css reference.

    A forked child would otherwise handle the event again and drop the reference twice.
    """
    _in_hand[:] = [(task, e) for task, e in _in_hand if e is not event]


def _handle(event: core.Event) -> None:
    _in_hand.append((current_task(), event))
    core.stop_account()
    try:
        _handlers[event.kind](event)
    except BaseException as failure:
        failures.append(failure)
        report_exception(failure)
    finally:
        settled(event)
        core.resume_account()


def flush() -> None:
    """Wait until all work is done that was asked for before the call.

    An empty queue is not enough, because a worker may still handle the last event.
    Kernel: ``flush_workqueue``.

    Notes
    -----
    Context: blocks; the caller holds no mutex that a handler takes.
    """
    if _worker_task == current_task():  # in a shrinker or a finalizer
        run_pending()
        return
    while not _be_worker(stopped_too=True):
        _idle.wait()


def wait_idle(within: float = -1) -> bool:
    """Wait until the worker has ended. The worker itself does not wait.

    Parameters
    ----------
    within : float
        How many seconds to wait at most; below 0 there is no bound.

    Returns
    -------
    bool
        Whether no worker is left.
    """
    if _worker_task == current_task():
        return True
    return _idle.wait(within) and core.wait_worker(within)


def is_idle() -> bool:
    """Tell whether no other thread is at work as the worker. Context: `wq_lock` held."""
    assert_held(wq_lock)
    return not _place.running or _worker_task == current_task()


def after_fork_in_child() -> None:
    """Give the events that a vanished worker was handling to the next worker."""
    me = current_task()
    _left.extend(event for task, event in _in_hand if task != me)
    _in_hand[:] = [(task, event) for task, event in _in_hand if task == me]
    held = wq_lock.held()  # by the fork
    if not held:
        wq_lock.acquire()
    if not is_idle():
        __rest()
    if not held:
        wq_lock.release()


core.set_waker(wake, work)


def stop() -> None:
    """Let no worker start from now on, so that none is stopped at exit while it holds a lock."""
    with wq_lock:
        _place.stopped = True
    wait_idle()
    wq_lock.acquire()  # the worker sets `_idle` while it holds the lock, so wait for its release
    wq_lock.release()


at_exit(stop)
