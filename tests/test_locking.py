from __future__ import annotations

import threading

from memcg.locking import Event


def test_waiting_for_an_event_that_is_set_leaves_nothing_behind():
    event = Event("e")
    event.set()
    for _ in range(3):
        event.wait()
    assert not event._waiters


def test_all_who_wait_are_let_go_and_who_comes_later_is_not_held():
    event, passed = Event("e"), []
    threads = [threading.Thread(target=lambda: (event.wait(), passed.append(1))) for _ in range(8)]
    for thread in threads:
        thread.start()
    while len(event._waiters) < len(threads):
        pass
    assert not passed
    event.set()
    event.wait()
    for thread in threads:
        thread.join()
    assert len(passed) == len(threads)
