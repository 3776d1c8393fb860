"""Publishing to brokers that are there, but do not answer: it ends in time, and says who it was."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from kombu import Queue
from kombu.exceptions import OperationalError

from celery import Celery
from celery._transport import _amqp_outlet, _amqp_publishing
from celery._transport.redis import Channel as RedisChannel
from celery.exceptions import TasksNotSent
from t.harness.proxy import Proxy
from t.harness.servers import RabbitMQServer, RedisServer

#: Seconds that these tests give a broker to answer.
ANSWER_S = 0.5


@pytest.fixture(autouse=True)
def impatience(monkeypatch) -> None:
    monkeypatch.setattr(_amqp_outlet, "ANSWER_S", ANSWER_S)
    monkeypatch.setattr(_amqp_publishing, "ANSWER_S", ANSWER_S)
    monkeypatch.setattr(RedisChannel, "socket_timeout", ANSWER_S)


@pytest.fixture(scope="module")
def rabbitmq() -> Iterator[RabbitMQServer]:
    with RabbitMQServer() as server:
        yield server


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


def client(url: str, **settings: object) -> Celery:
    app = Celery("client", broker=url, set_as_current=False)
    app.conf.update(
        task_ignore_result=True,
        broker_connection_timeout=ANSWER_S,
        task_publish_retry_policy={"max_retries": 1, "interval_start": 0},
        **settings,
    )
    return app


def send(app: Celery) -> Exception | None:
    """Send a task; return the error of it."""
    try:
        app.send_task("x")
    except OperationalError as exc:
        return exc
    return None


@contextmanager
def fails_soon(port: int, within_s: float = 60.0) -> Iterator[None]:
    """Expect an error that names the broker."""
    began = time.monotonic()
    with pytest.raises((OperationalError, TasksNotSent)) as caught:
        yield
    assert time.monotonic() - began < within_s
    error: BaseException | None = caught.value
    texts = []
    while error is not None:
        texts.append(str(error))
        error = error.__cause__
    assert any(f":{port}" in text for text in texts), texts


@pytest.mark.parametrize("server_name", ["redis", "rabbitmq"])
@pytest.mark.parametrize("fault", ["blackhole", "refuse"])
def test_a_broker_that_never_answers_is_an_error_in_time(request, server_name, fault):
    """B-CALL-028: whether connections are accepted or not."""
    server = request.getfixturevalue(server_name)
    with Proxy(server.port) as proxy:
        getattr(proxy, fault)()
        app = client(server.url.replace(str(server.port), str(proxy.port)))
        with fails_soon(proxy.port):
            app.send_task("x")


@pytest.mark.parametrize("server_name", ["redis", "rabbitmq"])
def test_a_broker_that_falls_silent_is_an_error_in_time(request, server_name):
    """What has to be answered, is not: the message itself, or the declaration of its queue."""
    server = request.getfixturevalue(server_name)
    with Proxy(server.port) as proxy:
        app = client(server.url.replace(str(server.port), str(proxy.port)))
        for _ in range(3):
            app.send_task("x")
        proxy.blackhole()
        with fails_soon(proxy.port):
            app.send_task("x", queue="another")
        with fails_soon(proxy.port):
            app.send_tasks([app.signature("x", queue="another") for _ in range(3)])


@pytest.mark.parametrize("server_name", ["redis", "rabbitmq"])
def test_a_broker_that_fell_silent_is_asked_once_more(request, server_name):
    """Each attempt to connect would take its time, so the retry policy ends before its end."""
    server = request.getfixturevalue(server_name)
    with Proxy(server.port) as proxy:
        app = client(server.url.replace(str(server.port), str(proxy.port)))
        app.conf.task_publish_retry_policy = {"max_retries": 9, "interval_start": 0}
        calls = [
            lambda: app.send_task("x", queue="another"),
            lambda: app.send_tasks([app.signature("x", queue="another") for _ in range(3)]),
        ]
        if server_name == "redis":
            # It answers for each message, so this is noticed.
            calls.append(lambda: app.send_task("x"))
        for call in calls:
            proxy.restore()
            for _ in range(3):
                app.send_task("x")
            proxy.blackhole()
            accepted = proxy.accepted
            with fails_soon(proxy.port):
                call()
            assert proxy.accepted == accepted + 1


@pytest.mark.parametrize("server_name", ["redis", "rabbitmq"])
@pytest.mark.parametrize("was_heard", [False, True])
def test_the_next_server_is_asked_when_one_is_silent(request, server_name, was_heard):
    """Also the first time: the time to connect is that of each server."""
    server = request.getfixturevalue(server_name)
    with Proxy(server.port) as first, Proxy(server.port) as second:
        urls = [server.url.replace(str(server.port), str(proxy.port)) for proxy in (first, second)]
        app = client(";".join(urls))
        for _ in range(3 * was_heard):
            app.send_task("x")
        first.blackhole()
        app.send_task("x", queue="another")
        assert second.accepted


def test_a_broker_that_stops_reading_is_an_error_in_time(rabbitmq):
    """Once no more fits into the buffers on the way."""
    with Proxy(rabbitmq.port) as proxy:
        app = client(rabbitmq.url.replace(str(rabbitmq.port), str(proxy.port)))
        for _ in range(3):
            app.send_task("x")
        with rabbitmq.frozen(), fails_soon(proxy.port, within_s=30):
            for _ in range(1000):
                app.send_task("x", ("y" * 1_000_000,))


def test_messages_for_a_quorum_queue_are_confirmed(rabbitmq):
    app = client(rabbitmq.url, task_default_queue="safe", task_default_queue_type="quorum")
    with app.connection_for_read() as connection:
        for _ in range(4):
            app.send_task("x")
        app.send_tasks([app.signature("x") for _ in range(250)])
        # The broker has answered for each, so it counts them all.
        assert connection.default_channel.queue_declare("safe", passive=True).message_count == 254


def test_a_refused_message_is_an_error():
    """A full queue that rejects what is published says so, alone or in a batch."""
    arguments = {"x-queue-type": "quorum", "x-max-length": 1, "x-overflow": "reject-publish"}
    with RabbitMQServer() as server:
        queue = Queue("full", routing_key="full", queue_arguments=arguments)
        app = client(server.url, task_default_queue="full", task_queues=[queue])
        refused = [send(app) for _ in range(10)]
        assert refused[0] is None
        assert "refused" in str(refused[-1])
        with pytest.raises(TasksNotSent):
            app.send_tasks([app.signature("x") for _ in range(5)])


def test_a_broker_that_takes_nothing_for_now_is_an_error_in_time():
    """``connection.blocked``: after one message that it does not read."""
    with RabbitMQServer() as server:
        app = client(server.url)
        for _ in range(3):
            app.send_task("x")
        server.ctl("set_vm_memory_high_watermark", "absolute", "1MB")
        with fails_soon(server.port, within_s=30):
            for _ in range(1000):
                app.send_task("x")
        server.ctl("set_vm_memory_high_watermark", "absolute", "1GB")
        end = time.monotonic() + 20
        while True:
            try:
                app.send_task("x")
            except OperationalError:
                assert time.monotonic() < end
            else:
                break
