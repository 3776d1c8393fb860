"""The app that workers run in these tests: tasks of workflows, and tasks that end badly."""

from __future__ import annotations

import json
import os
import signal
import threading
from typing import Any

from celery import Celery
from celery.exceptions import Ignore, Reject
from t.harness.worker import CONF_VARIABLE

#: Environment variable with the path of the ledger.
LEDGER_VARIABLE = "T_LEDGER"


def note(line: str) -> None:
    """Write a line to the ledger, in one system call."""
    ledger = os.open(os.environ[LEDGER_VARIABLE], os.O_WRONLY | os.O_APPEND)
    os.write(ledger, f"{line}\n".encode())
    os.close(ledger)


def wrap(x: Any, name: Any) -> list[Any]:
    return [name, x]


def ident(x: Any = None) -> Any:
    return x


def count(values: list[Any]) -> int:
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
    for function in (wrap, ident, count, body, errback):
        made.task(name=f"flow.{function.__name__}", shared=False)(function)
    made.task(name="flow.faulty", bind=True, shared=False)(faulty)
    made.task(name="flow.faulty_late", bind=True, shared=False, acks_late=True)(faulty)
    return made


app = make_app(json.loads(os.environ.get(CONF_VARIABLE, "{}")))
