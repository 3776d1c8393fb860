"""The Redis transport with sentinels, and over TLS."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
import redis
from kombu import Consumer, Queue

from celery import Celery
from celery._transport.connection import BrokerConnection
from celery._transport.redis import SentinelTransport, Transport
from t.harness.servers import RedisServer, SentinelServer, TLSRedisServer, ask, wait_until

pytestmark = pytest.mark.redis

QUEUE = "work"
PATIENCE_S = 60.0


@pytest.fixture
def pair() -> Iterator[tuple[RedisServer, RedisServer, SentinelServer]]:
    """A master, its replica, and a sentinel that knows both."""
    with (
        RedisServer() as master,
        RedisServer("--replicaof", "127.0.0.1", str(master.port)) as replica,
        SentinelServer(master) as sentinel,
    ):
        wait_until(lambda: b"master_link_status:up" in replication(replica), "replication")
        wait_until(sentinel.knows_replica, "the sentinel")
        yield master, replica, sentinel


def replication(server: RedisServer) -> bytes:
    """Return what *server* says about its part in replication."""
    return ask(server.port, b"INFO replication\r\n", 4096)


def drain(connection: Any, got: list[Any], count: int) -> None:
    """Consume until *count* messages came, connecting again when the connection is lost."""
    end = monotonic() + PATIENCE_S
    while len(got) < count:
        assert monotonic() < end, f"{len(got)} of {count}"
        try:
            connection.ensure_connection(max_retries=20, interval_start=0.2, interval_step=0)

            def on_message(message: Any) -> None:
                got.append(message.payload)
                message.ack()

            with Consumer(connection.default_channel, [Queue(QUEUE)], on_message=on_message):
                while len(got) < count:
                    with suppress(TimeoutError):
                        connection.drain_events(timeout=0.5)
        except connection.connection_errors:
            connection.close()


def test_a_failover_is_followed(pair: tuple[RedisServer, RedisServer, SentinelServer]) -> None:
    """B-BROK-005: `sentinel://` with `master_name`."""
    master, replica, sentinel = pair
    got: list[Any] = []
    options = {"master_name": "mymaster", "socket_timeout": 2}
    url = f"sentinel://127.0.0.1:{sentinel.port}"
    with BrokerConnection(url, transport_options=options) as connection:
        assert isinstance(connection.transport, SentinelTransport)
        connection.Producer().publish("before", routing_key=QUEUE)
        drain(connection, got, 1)
        master.kill()
        wait_until(lambda: b"role:master" in replication(replica), "failover")

        with BrokerConnection(url, transport_options=options) as other:
            other.Producer().publish("after", routing_key=QUEUE)
        drain(connection, got, 2)

    assert got == ["before", "after"]


def test_messages_pass_over_tls(certificate: tuple[Path, Path]) -> None:
    cert, key = certificate
    with TLSRedisServer("--tls-cert-file", str(cert), "--tls-key-file", str(key)) as server:
        url = f"rediss://127.0.0.1:{server.port}/0"
        ssl = {"ssl_cert_reqs": "required", "ssl_ca_certs": str(cert)}
        bodies = [n * "x" for n in (1, 70_000, 300_000)] * 3
        got: list[Any] = []
        with BrokerConnection(url, ssl=ssl) as connection:
            assert type(connection.transport) is Transport
            for body in bodies:
                connection.Producer().publish(body, routing_key=QUEUE)
            drain(connection, got, len(bodies))
        assert got == bodies


def test_a_queue_is_reached_although_its_binding_was_evicted(redis_url: str) -> None:
    """B-BROK-007: servers must not evict keys; the queue of a task is reached all the same."""
    app = Celery("evicted", broker=redis_url, set_as_current=False)
    with (
        redis.Redis.from_url(redis_url) as store,
        app.connection_for_write() as connection,
        app.amqp.Producer(connection) as producer,
    ):
        app.send_task("add", (1, 2), producer=producer)
        assert store.delete("_kombu.binding.celery") == 1
        app.send_task("add", (3, 4), producer=producer)

        assert store.llen("celery") == 2
    app.close()
