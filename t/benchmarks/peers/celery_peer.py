"""Celery, by its public API only: this tree's, or another's."""

import asyncio
import time

from client import BROKER, LARGE, PAUSE_S, POOL, RESULTS, count_run

import celery

app = celery.Celery("bench", broker=BROKER, backend=RESULTS or None)
app.conf.update(broker_connection_retry_on_startup=True, task_ignore_result=not RESULTS)


@app.task(name="bench.add")
def add(x, y):
    count_run()
    return x + y


@app.task(name="bench.measure")
def measure(text):
    count_run()
    return len(text)


@app.task(name="bench.total")
def total(parts):
    return sum(parts)


if POOL == "asyncio":

    @app.task(name="bench.pause")
    async def pause():
        count_run()
        await asyncio.sleep(PAUSE_S)
        count_run()

else:

    @app.task(name="bench.pause")
    def pause():
        count_run()
        time.sleep(PAUSE_S)
        count_run()


def send_pauses(number):
    with app.producer_or_acquire() as producer:
        for _ in range(number):
            pause.apply_async(producer=producer)


def send_many(number):
    if hasattr(app, "send_tasks"):
        app.send_tasks(add.s(2, 2) for _ in range(number))
        return
    with app.producer_or_acquire() as producer:
        for _ in range(number):
            add.apply_async((2, 2), producer=producer)


def send_later(number):
    with app.producer_or_acquire() as producer:
        for _ in range(number):
            add.apply_async((2, 2), countdown=3600, producer=producer)


def group(number):
    found = celery.group(add.s(2, 2) for _ in range(number)).apply_async().get(timeout=120)
    assert sum(found) == 4 * number


def chord(number):
    header = [add.s(2, 2) for _ in range(number)]
    assert celery.chord(header)(total.s()).get(timeout=120) == 4 * number


VERBS = {
    "send": lambda: add.delay(2, 2),
    "send_many": send_many,
    "send_large": lambda: measure.delay(LARGE),
    "send_later": send_later,
    "send_pauses": send_pauses,
    "call": lambda: add.delay(2, 2).get(timeout=30),
    "group": group,
    "chord": chord,
}
