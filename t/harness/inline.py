"""A worker without processes, for tests: runs the messages of one app, in order, in this thread."""

from __future__ import annotations

from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any, NamedTuple
from uuid import uuid4

from kombu.serialization import prepare_accept_content

from celery import Celery
from celery._protocol.message import TASK_HEADERS
from celery.app import trace
from celery.exceptions import Ignore, Reject


class Sent(NamedTuple):
    """One task message as it was found in the queue."""

    headers: dict[str, Any]
    properties: dict[str, Any]
    body: Any

    @property
    def task(self) -> str:
        return self.headers["task"]

    @property
    def id(self) -> str:
        return self.headers["id"]

    @property
    def embed(self) -> dict[str, Any]:
        return self.body[2]


def memory_app(**conf: Any) -> Celery:
    """Return an app with a queue and a result store of its own, both in memory."""
    app = Celery("p", broker="memory://", backend="cache+memory://", set_as_current=False)
    app.conf.update(task_default_queue=f"q-{uuid4().hex}", **conf)
    return app


def take_messages(app: Celery) -> list[Any]:
    """Take all messages from the app's default queue."""
    with app.connection_for_read() as connection:
        queue = app.amqp.default_queue(connection)
        queue.declare()
        return list(iter(lambda: queue.get(no_ack=True), None))


def declare_tasks(app: Celery) -> SimpleNamespace:
    """Return the tasks of the tests by name; ``calls`` notes what errbacks and notes got."""
    calls: list[Any] = []

    @app.task(name="p.add", shared=False)
    def add(x: Any, y: Any) -> Any:
        return x + y

    @app.task(name="p.tsum", shared=False)
    def tsum(xs: Any) -> Any:
        return sum(xs)

    @app.task(name="p.ident", shared=False)
    def ident(x: Any) -> Any:
        return x

    @app.task(name="p.boom", shared=False)
    def boom(*args: Any) -> None:
        raise ValueError("boom")

    @app.task(name="p.note", shared=False)
    def note(*args: Any, **kwargs: Any) -> None:
        calls.append((args, kwargs))

    @app.task(name="p.direct", shared=False)
    def direct(request: Any, exc: Any, traceback: Any) -> None:
        calls.append((request, exc, traceback))

    @app.task(name="p.by_id", shared=False)
    def by_id(task_id: str) -> None:
        calls.append(task_id)

    @app.task(name="p.ignoring", shared=False)
    def ignoring(*args: Any) -> None:
        raise Ignore("not now")

    @app.task(name="p.rejecting", shared=False)
    def rejecting(*args: Any) -> None:
        raise Reject("no", requeue=False)

    @app.task(name="p.whoami", shared=False, bind=True)
    def whoami(self: Any, *args: Any) -> Any:
        r = self.request
        return {
            "id": r.id,
            "root": r.root_id,
            "parent": r.parent_id,
            "group": r.group,
            "index": r.group_index,
        }

    return SimpleNamespace(
        add=add,
        tsum=tsum,
        ident=ident,
        boom=boom,
        note=note,
        direct=direct,
        by_id=by_id,
        ignoring=ignoring,
        rejecting=rejecting,
        whoami=whoami,
        calls=calls,
    )


class InlineWorker:
    """Takes messages off the default queue of an app and runs them."""

    def __init__(self, app: Celery) -> None:
        self.app = app
        #: All messages taken so far, in order.
        self.seen: list[Sent] = []
        self._open = ExitStack()
        connection = self._open.enter_context(app.connection_for_read())
        self._channel = self._open.enter_context(connection.channel())
        app.amqp.queues[app.conf.task_default_queue](self._channel).declare()

    def close(self) -> None:
        self._open.close()

    def _next(self) -> Any:
        message = self._channel.basic_get(self.app.conf.task_default_queue, no_ack=True)
        if message is not None:
            message.accept = prepare_accept_content(self.app.conf.accept_content)
            self.seen.append(Sent(message.headers, dict(message.properties), message.decode()))
        return message

    def sent(self) -> list[Sent]:
        """Take all waiting messages without running them, and return them."""
        before = len(self.seen)
        while self._next() is not None:
            pass
        return self.seen[before:]

    def run(self, limit: int = 1000) -> list[Sent]:
        """Run messages until none is left, and return them."""
        before = len(self.seen)
        while len(self.seen) - before < limit:
            message = self._next()
            if message is None:
                return self.seen[before:]
            headers, properties = message.headers, message.properties
            request = {
                **headers,
                "headers": {name: headers[name] for name in headers.keys() - TASK_HEADERS} or None,
                "reply_to": properties.get("reply_to"),
                "correlation_id": properties.get("correlation_id"),
                "hostname": "inline@test",
                "delivery_info": {
                    "exchange": message.delivery_info["exchange"],
                    "routing_key": message.delivery_info["routing_key"],
                    "priority": properties.get("priority"),
                    "redelivered": False,
                },
            }
            trace.trace_task_ret(
                message.headers["task"],
                message.headers["id"],
                request,
                message.body,
                message.content_type,
                message.content_encoding,
                app=self.app,
            )
        raise AssertionError(f"more than {limit} messages")
