"""Publishing to brokers that go away, come back, or are not there."""

from __future__ import annotations

import time

import pytest
from kombu.exceptions import OperationalError

from celery import Celery
from t.harness.servers import RabbitMQServer, RedisServer, free_port


def client(url: str) -> Celery:
    app = Celery("client", broker=url, set_as_current=False)
    app.conf.task_ignore_result = True
    return app


def waiting(app: Celery, queue: str = "celery") -> int:
    with app.connection_for_read() as connection:
        return connection.default_channel.queue_declare(queue, passive=True).message_count


@pytest.mark.parametrize("server_class", [RedisServer, RabbitMQServer])
def test_a_client_survives_a_restart_of_its_broker(server_class):
    """B-CALL-027: the retry policy reconnects; the message arrives once."""
    with server_class() as server:
        app = client(server.url)
        app.send_task("before")
        server.stop()
        server.start()
        before = waiting(app) if server_class is RabbitMQServer else 0

        app.send_task("after")

        # Redis forgets what it held, for it keeps no files here.
        assert waiting(app) == before + 1


def test_a_queue_is_declared_again_after_a_restart():
    with RedisServer() as server:
        app = client(server.url)
        app.send_task("one", queue="q1")
        server.stop()
        server.start()
        app.send_task("two", queue="q1")
        assert waiting(app, "q1") == 1


@pytest.mark.parametrize("scheme", ["redis", "amqp"])
def test_an_unreachable_broker_is_an_operational_error_soon(scheme):
    """B-BACK-034, B-CALL-028: after the policy's retries, with or without ``retry``."""
    app = client(f"{scheme}://127.0.0.1:{free_port()}//")
    for retry in (True, False):
        began = time.monotonic()
        with pytest.raises(OperationalError):
            app.send_task("x", retry=retry)
        assert time.monotonic() - began < 60
