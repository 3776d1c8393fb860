"""Publishing to brokers that go away, come back, or are not there."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from kombu.exceptions import OperationalError

from celery import Celery, states
from t.harness.servers import RabbitMQServer, RedisServer, ask, free_port, wait_until

PATIENCE_S = 60.0


def client(url: str) -> Celery:
    app = Celery("client", broker=url, set_as_current=False)
    app.conf.task_ignore_result = True
    return app


def waiting(app: Celery, queue: str = "celery") -> int:
    with app.connection_for_read() as connection:
        return connection.default_channel.queue_declare(queue, passive=True).message_count


def patient(on_error: Callable[[BaseException], object]) -> dict[str, object]:
    """Return a retry policy that lasts, and calls *on_error* with each error."""
    return {
        "max_retries": 5_000,
        "interval_step": 0.05,
        "interval_max": 0.05,
        "errback": lambda exc, interval: on_error(exc),
    }


@pytest.mark.parametrize("server_class", [RedisServer, RabbitMQServer])
def test_a_client_survives_a_restart_of_its_broker(server_class):
    """B-CALL-027: the retry policy reconnects; each message arrives once."""
    with server_class() as server, ThreadPoolExecutor() as threads:
        app = client(server.url)
        app.send_task("before")
        server.stop()
        refused = threading.Event()
        policy = patient(lambda exc: "refused" in str(exc) and refused.set())
        sending = threads.submit(app.send_task, "while it is away", retry_policy=policy)
        assert refused.wait(PATIENCE_S)
        server.start()
        sending.result(PATIENCE_S)

        app.send_task("after")

        # Redis forgets what it held, for it keeps no files here.
        assert waiting(app) == (3 if server_class is RabbitMQServer else 2)


class LongRead(RedisServer):
    """A Redis server that keeps its data, and needs long to read them when it starts again."""

    def __init__(self) -> None:
        super().__init__("--appendonly", "yes", "--aof-use-rdb-preamble", "no")

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Crash and start; the server reads until the end of the block."""
        # It looks at its clients after each thousand commands.
        fill = b"EVAL \"for i = 1, 50000 do redis.call('INCR', 'read') end\" 0\r\n"
        assert ask(self.port, fill) == b"$-1\r\n"
        self.kill()
        self.options += ("--key-load-delay", "300")
        self.start()
        yield
        assert ask(self.port, b"CONFIG SET key-load-delay 0\r\n") == b"+OK\r\n"
        wait_until(super().is_ready, "the end of reading")

    def is_ready(self) -> bool:
        """PING, whatever the answer is."""
        return ask(self.port, b"PING\r\n").startswith((b"+PONG", b"-LOADING"))


def test_a_client_waits_while_redis_reads_its_data(caplog):
    """B-CALL-027, B-BACK-006: LOADING is no answer to give up on, for a call or for a result."""
    with LongRead() as server, ThreadPoolExecutor() as threads:
        known, new = client(server.url), client(server.url)
        for app in (known, new):
            app.conf.update(result_backend=f"{server.url[:-1]}1", broker_connection_timeout=60)
        known.send_task("before")
        known.backend.store_result("an-id", 42, states.SUCCESS)
        reading = {app: threading.Event() for app in (known, new)}

        with server.reading():
            sending = [
                threads.submit(
                    app.send_task,
                    "while it reads",
                    retry_policy=patient(
                        lambda exc, app=app: "loading" in str(exc) and reading[app].set()
                    ),
                )
                for app in (known, new)
            ]
            getting = [
                threads.submit(app.AsyncResult("an-id").get, timeout=PATIENCE_S)
                for app in (known, new)
            ]
            assert all(seen.wait(PATIENCE_S) for seen in reading.values())
            wait_until(lambda: caplog.text.count("Redis is loading") >= 2, "two refused reads")

        for call in sending:
            call.result(PATIENCE_S)
        assert [call.result(PATIENCE_S) for call in getting] == [42, 42]
        assert waiting(known) == 3


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
