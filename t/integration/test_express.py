"""The straight way of a call and the general one: the same message, byte for byte."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
from kombu import Exchange, Queue

from celery import Celery, signals
from celery.app._express import Express
from t.harness.forks import forked
from t.harness.servers import RabbitMQServer, RedisServer, wait_until

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
        fill = Express.fill

        def counting(express: Express, *args: Any) -> Any:
            written = fill(express, *args)
            self.count += written is not None
            return written

        monkeypatch.setattr(Express, "fill", counting)


@pytest.fixture(autouse=True)
def silence(monkeypatch) -> None:
    """Nobody listens, whatever packages other tests have loaded."""
    for signal in (signals.before_task_publish, signals.after_task_publish, signals.task_sent):
        monkeypatch.setattr(signal, "receivers", [])


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


def test_many_threads_send_without_mixing_their_messages(app, broker):
    """`delay` is called from any thread; each has a connection while it sends."""
    name = app.conf.task_default_queue
    app.send_task("p.t")
    message_of(app, name)
    threads, each = 8, 200

    def send(number: int) -> None:
        for count in range(each):
            app.send_task("p.t", (number, count), task_id=f"{number}-{count}")

    workers = [threading.Thread(target=send, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    seen: dict[int, list[int]] = {number: [] for number in range(threads)}
    with app.connection_for_read() as connection:
        channel = connection.default_channel

        def all_there() -> bool:
            while (message := channel.basic_get(name, no_ack=True)) is not None:
                number, count = json.loads(message.body)[0]
                assert message.headers["id"] == f"{number}-{count}"
                seen[number].append(count)
            return sum(map(len, seen.values())) == threads * each

        wait_until(all_there, "all messages")
    # A thread may change its connection, but the broker has answered for what it sent before.
    for counts in seen.values():
        assert sorted(counts) == list(range(each))


def test_a_child_never_sends_through_a_connection_of_its_parent(app):
    """After a plain fork, too, of which nobody told the app."""
    name = app.conf.task_default_queue
    for _ in range(3):
        app.send_task("p.t", (0,))
    parents = connections_of(app)

    def live() -> None:
        for count in range(20):
            app.send_task("p.t", (count,))
        assert not connections_of(app) & parents

    with forked(live):
        for count in range(20):
            app.send_task("p.t", (count,))
    assert connections_of(app) == parents
    with app.connection_for_read() as connection:
        wait_until(
            lambda: (
                connection.default_channel.queue_declare(name, passive=True).message_count == 43
            ),
            "all messages",
        )


def connections_of(app: Celery) -> set[Any]:
    """Return the local ports of the connections that tasks are sent through."""
    lanes = app.amqp.lanes
    assert lanes is not None
    ports = set()
    for lane in lanes._idle:
        channel = lane.connection._default_channel
        sock = channel.desk.sock if hasattr(channel, "desk") else channel.connection.sock
        ports.add(sock.getsockname())
    return ports


def test_an_idle_lane_goes_back_to_a_pool_that_runs_dry(broker):
    """``broker_pool_limit`` counts every connection, whoever keeps it."""
    app = Celery("p", broker=broker, set_as_current=False)
    app.conf.update(broker_pool_limit=1, task_default_queue=f"q-{uuid4().hex}")
    with app:
        for _ in range(3):
            app.send_task("p.t")
            with app.pool.acquire(block=True, timeout=5) as connection:
                connection.default_channel.queue_declare("other", passive=False)
        waiting = threading.Event()
        got = threading.Event()

        def take() -> None:
            waiting.set()
            with app.pool.acquire(block=True, timeout=20):
                got.set()

        with app.producer_or_acquire() as producer:
            thread = threading.Thread(target=take)
            thread.start()
            assert waiting.wait(10)
            app.send_task("p.t", producer=producer)
            assert not got.is_set()
        # Whoever waits gets it, although it was kept for the next task.
        assert got.wait(10)
        thread.join()
