# SPDX-License-Identifier: Apache-2.0
"""The application that `test_celery.py` runs workers of."""

from __future__ import annotations

import os

from celery import Celery

import memcg

app = Celery("app", broker=os.environ["REDIS"], backend=os.environ["REDIS"],
             task_cls="memcg.celery:MemcgTask")  # fmt: skip
app.conf.update(
    memcg_task_max="32MiB", worker_prefetch_multiplier=1,
    result_serializer=os.environ["SERIALIZER"],
    accept_content=["json", "pickle"], broker_connection_retry_on_startup=True,
)  # fmt: skip
runs = []


@app.task
def add(x, y):
    return x + y


@app.task
def objects(n):
    return len([[i] for i in range(n)])


@app.task(memcg_max="4MiB")
def at_once(n):
    return len(bytes(n))


@app.task(bind=True, autoretry_for=(MemoryError,), retry_kwargs={"max_retries": 2, "countdown": 0})
def again(self):
    runs.append(1)
    if self.request.retries < 2:
        bytes(1 << 30)
    return self.request.retries


@app.task
def plain():
    raise MemoryError("the program's own")


@app.task
def where():
    return memcg.current().path


@app.task
def pause(n):
    import time

    kept = bytearray(n)
    time.sleep(0.2)  # under gevent other tasks run meanwhile
    return memcg.current().path, len(kept)


@app.task
def used():
    with memcg.root:
        return memcg.group("celery").current
