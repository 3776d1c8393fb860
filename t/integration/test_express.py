"""The straight way of a call and the general one: the same message, byte for byte."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
from kombu import Exchange, Queue

from celery import Celery, signals
from celery.app._express import Express
from t.harness.servers import RabbitMQServer, RedisServer

FRAME_MAX = 131072


@pytest.fixture(scope="module", params=[RedisServer, RabbitMQServer])
def broker(request) -> Iterator[str]:
    with request.param() as server:
        yield server.url


@pytest.fixture
def app(broker) -> Iterator[Celery]:
    app = Celery("p", broker=broker, set_as_current=False)
    name = f"q-{uuid4().hex}"
    app.conf.update(
        task_default_queue=name,
        task_queues=[Queue(name), Queue(f"{name}-t", Exchange(f"{name}-x", "topic"), "a.b")],
        task_routes={"p.routed": {"queue": f"{name}-r", "priority": 3}},
    )
    with app:
        yield app


class Written:
    """Counts the messages that went the straight way."""

    def __init__(self, monkeypatch) -> None:
        self.count = 0
        write = Express.write

        def counting(express: Express, *args: Any) -> Any:
            written = write(express, *args)
            self.count += written is not None
            return written

        monkeypatch.setattr(Express, "write", counting)


@pytest.fixture
def written(monkeypatch) -> Written:
    return Written(monkeypatch)


def message_of(app: Celery, queue: str) -> Any:
    """Take a message off the queue: all that a consumer sees of it."""
    with app.connection_for_read() as connection:
        message = connection.default_channel.basic_get(queue, no_ack=True)
    assert message is not None
    properties = {k: v for k, v in message.properties.items() if k != "delivery_tag"}
    body = message.body
    return {
        "headers": message.headers,
        "header names": list(message.headers),
        "properties": properties,
        "content": (message.content_type, message.content_encoding),
        "body": body if isinstance(body, str) else bytes(body).decode(),
    }


def both_ways(app: Celery, written: Written, place: str, name: str, *args: Any, **call: Any) -> Any:
    """Return the message of a call that went the general way, and of the same one, straight."""
    for _ in range(2):
        # One for the declaration, one that the form is learned from.
        app.send_task(name, *args, **call)
        message_of(app, place)
    general, straight = {**call}, {**call}
    with_listener: list[Any] = []

    def listen(**kwargs: Any) -> None:
        with_listener.append(kwargs)

    before = written.count
    signals.after_task_publish.connect(listen)
    try:
        app.send_task(name, *args, **general)
    finally:
        signals.after_task_publish.disconnect(listen)
    assert len(with_listener) == 1
    assert written.count == before
    sent_generally = message_of(app, place)
    app.send_task(name, *args, **straight)
    assert written.count == before + 1
    return sent_generally, message_of(app, place)


CALLS = {
    "nothing": ((), {}),
    "arguments": (((1, "two", None, 2.5), {"x": [True, {"y": "ü€"}]}), {}),
    "types of kombu": (((Decimal("1.5"), uuid4(), b"bytes"),), {}),
    "long arguments": ((("x" * (2 * FRAME_MAX),), {"y": "z" * 5000}), {}),
    "a list": (([1, 2], {}), {}),
    "options": (
        ((1,),),
        {
            "priority": 5,
            "time_limit": 10,
            "soft_time_limit": 5.5,
            "shadow": "sh%s",
            "message_id": "m",
        },
    ),
    "a group": (((1,),), {"group_id": "g", "group_index": 70000, "root_id": "r", "parent_id": "p"}),
    "a moment": (((1,),), {"eta": "2030-01-01T00:00:00+00:00"}),
    "no result": (((1,),), {"ignore_result": True, "delivery_mode": 1, "reply_to": "me"}),
    "callbacks": (
        ((1,),),
        {
            "link": [{"task": "a", "args": [], "kwargs": {}, "options": {}}],
            "link_error": [{"task": "b", "args": [], "kwargs": {}, "options": {}}],
        },
    ),
    "a percent sign": ((("%s %d %%",), {"%": "%"}), {"user_id": None, "app_id": "100%"}),
}


@pytest.mark.parametrize("case", CALLS)
def test_both_ways_make_the_same_message(app, written, case):
    args, options = CALLS[case]
    general, straight = both_ways(
        app, written, app.conf.task_default_queue, "p.t", *args, task_id="i%d", **options
    )
    assert straight == general


def test_both_ways_lead_to_the_same_queue(app, written, broker):
    name = app.conf.task_default_queue
    general, straight = both_ways(app, written, f"{name}-r", "p.routed", (1,), task_id="i")
    assert straight == general
    general, straight = both_ways(
        app, written, f"{name}-o", "p.t", (1,), task_id="i", queue=f"{name}-o"
    )
    assert straight == general
    if broker.startswith("amqp"):
        general, straight = both_ways(
            app, written, f"{name}-t", "p.t", (1,), task_id="i", queue=f"{name}-t"
        )
        assert straight == general
        assert straight["properties"]["delivery_mode"] == 2
