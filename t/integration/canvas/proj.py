"""The app that workers run in these tests: tasks of workflows, and tasks that end badly."""

from __future__ import annotations

import json
import os
import signal
import threading
from typing import Any

from celery import Celery, chain, chord, group
from celery.exceptions import Ignore, Reject
from t.harness.worker import CONF_VARIABLE

#: Environment variable with the path of the ledger.
LEDGER_VARIABLE = "T_LEDGER"


def note(line: str) -> None:
    """Write a line to the ledger, in one system call."""
    ledger = os.open(os.environ[LEDGER_VARIABLE], os.O_WRONLY | os.O_APPEND)
    os.write(ledger, f"{line}\n".encode())
    os.close(ledger)


def wrap(self: Any, x: Any, name: Any) -> list[Any]:
    note(f"ran {self.request.id}")
    return [name, x]


def ident(x: Any = None) -> Any:
    return x


def inc(x: int) -> int:
    return x + 1


def total(values: Any) -> Any:
    return sum(values)


def retried(self: Any, x: int) -> int:
    """Add one at the second attempt."""
    if not self.request.retries:
        raise self.retry(countdown=0)
    return x + 1


def replaced(self: Any, x: int, how: str) -> Any:
    """Let something else add one."""
    tasks = self.app.tasks
    add, same, summed = (tasks[f"flow.{name}"] for name in ("inc", "ident", "total"))
    match how:
        case "task":
            sig = add.s(x)
        case "chain":
            sig = chain(add.s(x - 2), add.s(), add.s())
        case "chord":
            sig = chord([same.s(x), add.s(0)], summed.s())
        case "group":
            sig = group(same.s(x), same.s(1)) | summed.s()
        case "twice":
            sig = self.s(x, how="chain")
    raise self.replace(sig)


def in_order(values: list[Any]) -> int:
    """Return how many values there are, which are those from 0."""
    assert values == list(range(len(values)))
    return len(values)


def body(values: Any, cell: str) -> str:
    note(f"body {cell}")
    return cell


def errback(request: Any, exc: Any, traceback: Any, cell: str) -> None:
    note(f"errback {cell}")


def faulty(self: Any, *args: Any, fault: str) -> None:
    """End as *fault* says."""
    note(f"ran {self.request.id}")
    match fault:
        case "raise":
            raise ValueError("raised")
        case "retry":
            raise self.retry(exc=ValueError("retried"), countdown=0, max_retries=1)
        case "lost":
            os.kill(os.getpid(), signal.SIGKILL)
        case "limit":
            threading.Event().wait(60)
        case "ignore":
            raise Ignore
        case "reject":
            raise Reject("no", requeue=False)
        case "requeue":
            raise Reject("later", requeue=True)
    raise AssertionError(f"{fault} should not have come so far")


def make_app(conf: dict[str, Any]) -> Celery:
    """Return an app with these tasks."""
    made = Celery("canvas_proj", set_as_current=False)
    made.conf.update(conf)
    for function in (ident, inc, total, in_order, body, errback):
        made.task(name=f"flow.{function.__name__}", shared=False)(function)
    made.task(name="flow.quiet", shared=False, ignore_result=True)(inc)
    made.task(name="flow.retried", bind=True, shared=False)(retried)
    made.task(name="flow.retried_late", bind=True, shared=False, acks_late=True)(retried)
    made.task(name="flow.replaced", bind=True, shared=False)(replaced)
    made.task(name="flow.wrap", bind=True, shared=False)(wrap)
    made.task(name="flow.faulty", bind=True, shared=False)(faulty)
    made.task(name="flow.faulty_late", bind=True, shared=False, acks_late=True)(faulty)
    return made


app = make_app(json.loads(os.environ.get(CONF_VARIABLE, "{}")))
