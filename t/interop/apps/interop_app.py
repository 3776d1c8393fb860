"""One app for both implementations: whatever ``import celery`` finds; public API only."""

import os

from celery import Celery

app = Celery(
    "interop_app",
    broker=os.environ["INTEROP_BROKER"],
    backend=os.environ["INTEROP_BACKEND"],
)
app.conf.update(
    accept_content=["json", "pickle", "yaml", "msgpack"],
    result_accept_content=["json", "pickle", "yaml", "msgpack"],
    broker_connection_retry_on_startup=True,
    result_extended=True,
    task_default_queue=os.environ.get("INTEROP_QUEUE", "celery"),
    worker_prefetch_multiplier=1,
)


class Refused(Exception):
    """An error with arguments of its own."""

    def __init__(self, code, reason):
        super().__init__(code, reason)
        self.code = code
        self.reason = reason


@app.task(name="interop.add")
def add(x, y):
    return x + y


@app.task(name="interop.echo")
def echo(value):
    return value


@app.task(name="interop.fail")
def fail():
    raise Refused(42, "no")


@app.task(name="interop.missing")
def missing():
    return {}["nothing"]


@app.task(name="interop.retry", bind=True, max_retries=3)
def retry(self, until):
    if self.request.retries < until:
        raise self.retry(countdown=0.05)
    return self.request.retries


@app.task(name="interop.started", bind=True)
def started(self):
    import time

    return time.time()


@app.task(name="interop.request", bind=True)
def request(self, *args, **kwargs):
    seen = self.request
    return {
        "args": list(seen.args),
        "kwargs": dict(seen.kwargs),
        "argsrepr": seen.argsrepr,
        "retries": seen.retries,
        "timelimit": list(seen.timelimit),
        "headers": seen.headers,
        "root_is_own": seen.root_id == seen.id,
        "parent_id": seen.parent_id,
        "stamps": seen.stamps,
        "delivery": sorted(seen.delivery_info),
    }


@app.task(name="interop.failed")
def failed(request, exc, traceback, key):
    app.backend.client.rpush(key, request.id)


@app.task(name="interop.replaced", bind=True)
def replaced(self, n):
    raise self.replace(add.s(n, n) | add.s(1))


@app.task(name="interop.grow", bind=True)
def grow(self, n):
    self.add_to_chord(add.s(n, n))
    return n


@app.task(name="interop.total")
def total(values):
    return sum(values)
