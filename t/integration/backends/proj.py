"""The app of `test_with_workers`: small tasks that end in every way."""

from __future__ import annotations

import json
import os
import signal
import time

from celery import Celery
from celery.exceptions import Ignore, Reject
from celery.signals import after_task_publish
from t.harness.servers import wait_until

app = Celery("proj", set_as_current=False)
app.conf.update(json.loads(os.environ.get("T_WORKER_CONF", "{}")))


@app.task
def add(x, y):
    return x + y


@app.task
def total(values):
    return sum(values)


@app.task
def same(value):
    return value


@app.task(ignore_result=True)
def ignored(value):
    return value


@app.task
def boom(*args):
    raise ValueError("boom")


@app.task(bind=True, max_retries=1, default_retry_delay=0)
def boom_after_retry(self):
    raise self.retry(exc=KeyError("again"))


@app.task(bind=True, max_retries=1, default_retry_delay=0)
def outrun(self):
    raise self.retry(exc=KeyError("again"))


@after_task_publish.connect(sender=outrun.name, weak=False)
def let_the_retry_overtake(headers=None, **kwargs):
    """Hold the first attempt, whose state is not stored yet, until the second one has ended."""
    if headers["retries"]:
        result = app.AsyncResult(headers["id"])
        wait_until(result.ready, "the second attempt", timeout_s=10)


@app.task
def refuse():
    raise Reject("no", requeue=False)


@app.task
def silent():
    raise Ignore


@app.task
def killed():
    os.kill(os.getpid(), signal.SIGKILL)


@app.task(time_limit=1)
def slow():
    time.sleep(60)


@app.task(bind=True)
def grows(self):
    self.add_to_chord(same.s(99))
    return 1


@app.task(bind=True)
def progress(self):
    self.update_state(state="PROGRESS", meta={"done": 1})
    return "end"
