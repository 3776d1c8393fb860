"""What a worker is made of, without broker, processes or time."""

from __future__ import annotations

import json
from collections import Counter
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from kombu.message import Message

from celery import Celery
from celery.worker import state
from celery.worker.request import Request, create_request_cls

OK_BODY = [[2, 2], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]


class Channel:
    """Records what the broker is told."""

    no_ack_consumers = None

    def __init__(self) -> None:
        self.told: list[tuple[str, Any]] = []

    def basic_ack(self, tag: Any, multiple: bool = False) -> None:
        self.told.append(("ack", tag))

    def basic_reject(self, tag: Any, requeue: bool) -> None:
        self.told.append(("requeue" if requeue else "reject", tag))


class Eventer:
    """Records events."""

    def __init__(self, enabled: bool = True, groups: Any = None) -> None:
        self.enabled = enabled
        self.groups = groups or set()
        self.sent: list[tuple[str, dict[str, Any]]] = []
        self.on_enabled: set[Any] = set()
        self.on_disabled: set[Any] = set()

    def send(self, type: str, **fields: Any) -> None:
        self.sent.append((type, fields))

    @property
    def types(self) -> list[str]:
        return [type for type, _ in self.sent]


class Job:
    def __init__(self) -> None:
        self.done = False

    def ready(self) -> bool:
        return self.done


class Pool:
    """Takes calls and does nothing with them."""

    uses_semaphore = True
    is_green = False
    body_can_be_buffer = False
    num_processes = 2

    def __init__(self) -> None:
        self.calls: list[SimpleNamespace] = []
        self.terminated: list[tuple[int, int]] = []
        self.flushed = 0

    def apply_async(self, target: Any, args: Any = (), kwargs: Any = None, **options: Any) -> Job:
        job = Job()
        self.calls.append(SimpleNamespace(target=target, args=args, kwargs=kwargs, **options))
        return job

    def terminate_job(self, pid: int, signal: int) -> None:
        self.terminated.append((pid, signal))

    def flush(self) -> None:
        self.flushed += 1


class Backend:
    """Records states."""

    def __init__(self) -> None:
        self.marked: list[tuple[str, Any]] = []

    def mark_as_done(self, task_id: str, result: Any, *args: Any, **kwargs: Any) -> None:
        self.marked.append(("SUCCESS", result))

    def process_cleanup(self) -> None:
        pass

    def mark_as_failure(self, task_id: str, exc: Any, *args: Any, **kwargs: Any) -> None:
        self.marked.append(("FAILURE", exc))

    def mark_as_revoked(self, task_id: str, reason: str = "", **kwargs: Any) -> None:
        self.marked.append(("REVOKED", reason))

    def mark_as_retry(self, task_id: str, exc: Any, *args: Any, **kwargs: Any) -> None:
        self.marked.append(("RETRY", exc))


@pytest.fixture(autouse=True)
def clean_registers():
    """Each test begins and ends with empty registers."""
    state.reset_state()
    state.should_stop = state.should_terminate = None
    yield
    state.reset_state()
    state.should_stop = state.should_terminate = None


@pytest.fixture
def app():
    app = Celery("w", broker="memory://", backend="cache+memory://", set_as_current=False)
    app.conf.broker_connection_retry_on_startup = True
    return app


@pytest.fixture
def backend():
    return Backend()


@pytest.fixture
def task(app, backend):
    """A task whose results go to a list."""

    @app.task(name="add")
    def add(x, y):
        return x + y

    app.finalize()
    task = app.tasks["add"]
    type(task).backend = backend
    return task


@pytest.fixture
def eventer():
    return Eventer()


@pytest.fixture
def pool():
    return Pool()


@pytest.fixture
def channel():
    return Channel()


@pytest.fixture
def make_message(channel):
    """Make messages as kombu hands them over."""

    def make(body: Any = OK_BODY, *, raw: Any = None, kind: str = "application/json", **headers):
        fields = {
            "lang": "py", "task": "add", "id": str(uuid4()), "argsrepr": "(2, 2)",
            "kwargsrepr": "{}", **headers,
        }  # fmt: skip
        return Message(
            body=json.dumps(body) if raw is None else raw,
            delivery_tag="tag",
            content_type=kind,
            content_encoding="utf-8",
            delivery_info={"exchange": "ex", "routing_key": "rk", "consumer_tag": "1"},
            properties={"reply_to": "me", "correlation_id": fields["id"], "priority": 3},
            headers={name: value for name, value in fields.items() if value is not ...},
            channel=channel,
        )

    return make


@pytest.fixture
def make_request(app, task, pool, eventer, make_message):
    """Make requests bound to the recording pool."""

    def make(message: Any = None, cls: type[Request] = Request, **headers: Any) -> Request:
        message = message or make_message(**headers)
        bound = create_request_cls(cls, task, pool, "w@test", eventer, app=app)
        return bound(
            message,
            on_ack=message.ack_log_error,
            on_reject=message.reject_log_error,
            hostname="w@test",
            eventer=eventer,
            app=app,
            task=task,
            connection_errors=(OSError,),
        )

    return make


class Consumer:
    """What strategies ask of a consumer."""

    hostname = "w@test"
    connection_errors = (OSError,)

    def __init__(self, app: Any, pool: Any, eventer: Any) -> None:
        self.app, self.pool, self.event_dispatcher = app, pool, eventer
        self.task_buckets: dict[str, Any] = {}
        self.ran: list[Any] = []
        self.held: list[Any] = []
        self.throttled: list[Any] = []
        self.counts: Counter[str] = Counter()

    def on_task_request(self, request: Any) -> None:
        self.ran.append(request)

    def hold(self, request: Any, until: float) -> None:
        self.held.append((request, until))

    def throttle(self, request: Any, bucket: Any) -> None:
        self.throttled.append(request)


@pytest.fixture
def consumer(app, pool, eventer):
    return Consumer(app, pool, eventer)
