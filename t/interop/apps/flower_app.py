"""Tasks that Flower shows."""

import os
import time

from celery import Celery

app = Celery(
    "flower_app", broker=os.environ["INTEROP_BROKER"], backend=os.environ["INTEROP_BACKEND"]
)
app.conf.broker_connection_retry_on_startup = True


@app.task(name="flower.add")
def add(x, y):
    return x + y


@app.task(name="flower.fail")
def fail():
    raise ValueError("boom")


@app.task(name="flower.wait_for")
def wait_for(path):
    while not os.path.exists(path):
        time.sleep(0.01)
