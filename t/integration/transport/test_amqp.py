"""The AMQP transport over TLS, and where the server or the network fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from kombu import Connection, Consumer, Queue
from kombu.asynchronous import Hub

from celery._transport import amqp
from celery._transport.connection import BrokerConnection
from t.harness.proxy import Proxy
from t.harness.servers import RabbitMQServer, free_port

pytestmark = pytest.mark.rabbitmq

QUEUE = "work"
PATIENCE_S = 60.0


class Consuming:
    """A consumer in an event loop or without, that acknowledges all it gets."""

    def __init__(self, url: str, in_hub: bool, **options: Any) -> None:
        self.connection: Any = BrokerConnection(url, **options)
        self.got: list[Any] = []
        self._hub: Any = Hub() if in_hub else None
        channel = self.channel = self.connection.channel()
        if in_hub:
            self._hub.propagate_errors = (Exception,)
            self.connection.transport.register_with_event_loop(
                self.connection.connection, self._hub
            )
        consumer = Consumer(channel, [Queue(QUEUE)], on_message=self._on_message)
        consumer.consume()

    def _on_message(self, message: Any) -> None:
        self.got.append(message.payload)
        message.ack()

    def turn(self, timeout_s: float = 0.1) -> None:
        if self._hub is None:
            with suppress(TimeoutError):
                self.connection.drain_events(timeout=timeout_s)
        else:
            self._hub.call_later(timeout_s, lambda: None)
            self._hub.run_once()

    def drain_until(self, condition: Callable[[], bool]) -> None:
        end = monotonic() + PATIENCE_S
        while not condition():
            assert monotonic() < end, f"it never happened; {len(self.got)} messages"
            self.turn()

    def wait_for(self, count: int) -> list[Any]:
        self.drain_until(lambda: len(self.got) >= count)
        return self.got

    def close(self) -> None:
        with suppress(Exception):
            self.connection.release()


def send(url: str, *bodies: Any) -> None:
    with Connection(url) as connection:
        producer = connection.Producer()
        for body in bodies:
            producer.publish(body, routing_key=QUEUE, declare=[Queue(QUEUE)])


@pytest.fixture(params=[False, True], ids=["draining", "in a loop"])
def consuming(request: pytest.FixtureRequest) -> Iterator[Callable[..., Consuming]]:
    """Return a function that begins to consume."""
    opened = []

    def begin(url: str, **options: Any) -> Consuming:
        opened.append(Consuming(url, request.param, **options))
        return opened[-1]

    yield begin
    for each in opened:
        each.close()


@pytest.fixture
def tls_server(certificate: tuple[Path, Path]) -> Iterator[tuple[RabbitMQServer, int]]:
    """A node that also speaks TLS, and the port for it."""
    cert, key = certificate
    port = free_port()
    options = [
        f"listeners.ssl.1 = 127.0.0.1:{port}",
        f"ssl_options.cacertfile = {cert}",
        f"ssl_options.certfile = {cert}",
        f"ssl_options.keyfile = {key}",
    ]
    with RabbitMQServer(*options) as server:
        yield server, port


def test_messages_pass_over_tls(
    tls_server: tuple[RabbitMQServer, int], certificate: tuple[Path, Path]
) -> None:
    """A record that holds more than was asked for leaves nothing for a poll to see."""
    server, port = tls_server
    url = f"amqps://guest:guest@127.0.0.1:{port}//"
    ssl = {"ca_certs": str(certificate[0]), "server_hostname": "127.0.0.1"}
    bodies = [f"{size} " + size * "x" for size in (1, 70_000, 300_000, *range(16_000, 17_000, 60))]
    for in_hub in (False, True):
        consumer = Consuming(url, in_hub, ssl=ssl)
        assert type(consumer.connection.transport) is amqp.SSLTransport
        producer = consumer.connection.Producer()
        for body in bodies:
            producer.publish(body, routing_key=QUEUE)
        assert consumer.wait_for(len(bodies)) == bodies
        consumer.close()

    with Connection(server.url) as connection:
        assert Queue(QUEUE)(connection.channel()).get() is None


def test_a_silent_server_is_noticed_by_its_heartbeats(
    amqp_url: str, rabbitmq_server: RabbitMQServer, consuming: Any
) -> None:
    with Proxy(rabbitmq_server.port) as proxy:
        url = amqp_url.replace(f":{rabbitmq_server.port}/", f":{proxy.port}/")
        consumer = consuming(url, heartbeat=1)
        send(amqp_url, 1)
        consumer.wait_for(1)
        consumer.turn()
        proxy.swallow()

        def beats() -> bool:
            consumer.connection.heartbeat_check(rate=2)
            return False

        with pytest.raises(consumer.connection.connection_errors, match="heartbeat"):
            consumer.drain_until(beats)


def test_heartbeats_keep_an_idle_connection_open(amqp_url: str, consuming: Any) -> None:
    """The server closes connections that say nothing for two intervals."""
    consumer = consuming(amqp_url, heartbeat=1)
    end = monotonic() + 4

    def beats() -> bool:
        consumer.connection.heartbeat_check(rate=2)
        return monotonic() > end

    consumer.drain_until(beats)
    send(amqp_url, 1)

    assert consumer.wait_for(1) == [1]


def test_a_server_that_closes_the_connection_is_heard(
    amqp_url: str, rabbitmq_server: RabbitMQServer, consuming: Any
) -> None:
    consumer = consuming(amqp_url)
    rabbitmq_server.disconnect_clients()

    with pytest.raises(consumer.connection.connection_errors, match="closed by a test"):
        consumer.drain_until(lambda: False)


def test_a_blocked_connection_still_delivers(
    amqp_url: str, rabbitmq_server: RabbitMQServer, consuming: Any
) -> None:
    """A server short of memory takes no messages, but gives them away."""
    told: list[Any] = []
    send(amqp_url, 1, 2)
    consumer = consuming(
        amqp_url,
        transport_options={
            "on_blocked": told.append,
            "on_unblocked": lambda: told.append("unblocked"),
        },
    )
    consumer.wait_for(2)
    rabbitmq_server.ctl("set_vm_memory_high_watermark", "absolute", "1MB")
    try:
        consumer.connection.Producer().publish(3, routing_key=QUEUE)
        consumer.drain_until(lambda: bool(told))
    finally:
        rabbitmq_server.ctl("set_vm_memory_high_watermark", "absolute", "1GB")

    consumer.drain_until(lambda: "unblocked" in told)
    assert consumer.wait_for(3) == [1, 2, 3]


@pytest.mark.parametrize("fault", ["cut", "half_open"])
def test_what_was_acknowledged_does_not_come_again(
    amqp_url: str, rabbitmq_server: RabbitMQServer, consuming: Any, fault: str
) -> None:
    send(amqp_url, *range(20))
    with Proxy(rabbitmq_server.port) as proxy:
        url = amqp_url.replace(f":{rabbitmq_server.port}/", f":{proxy.port}/")
        consumer = consuming(url)
        consumer.wait_for(20)
        consumer.turn()
        consumer.connection.channel()
        getattr(proxy, fault)()
        send(amqp_url, *range(20, 30))
        again = consuming(url)

        assert again.wait_for(10) == [*range(20, 30)]


def test_an_answer_that_does_not_come_ends_the_connection(
    amqp_url: str, rabbitmq_server: RabbitMQServer, consuming: Any
) -> None:
    """Within the time for reading; and whoever asks next need not wait again."""
    with Proxy(rabbitmq_server.port) as proxy:
        url = amqp_url.replace(f":{rabbitmq_server.port}/", f":{proxy.port}/")
        consumer = consuming(url, transport_options={"read_timeout": 1})
        other = consumer.connection.channel()
        consumer.turn()
        proxy.swallow()
        begin = monotonic()
        with pytest.raises(consumer.connection.connection_errors, match="did not answer"):
            other.queue_declare("never")
        for channel in (other, consumer.channel):
            with pytest.raises(consumer.connection.connection_errors):
                channel.queue_declare("never")

        assert 0.9 < monotonic() - begin < 60
