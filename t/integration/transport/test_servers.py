"""The Redis transport on servers that are old, restricted, full or forgetful; and in a hub."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis
from kombu import Connection, Consumer, Exchange, Producer, Queue
from kombu.asynchronous import Hub

from celery._transport import _redis_link
from celery._transport.connection import BrokerConnection
from t.harness.proxy import Proxy
from t.harness.servers import RedisServer, wait_until

pytestmark = pytest.mark.redis

QUEUE = "work"
PATIENCE_S = 60.0


class Client:
    """A connection that consumes, and what it got."""

    def __init__(self, url: str, prefetch: int = 4, **options: Any) -> None:
        self.connection = BrokerConnection(url, transport_options=options)
        self.channel = self.connection.default_channel
        self.channel.basic_qos(0, prefetch, False)
        self.got: list[Any] = []
        self.consumer = Consumer(self.channel, [Queue(QUEUE)], on_message=self._take)
        self.consumer.consume()

    def _take(self, message: Any) -> None:
        self.got.append(message.payload)
        message.ack()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *error: object) -> None:
        self.connection.release()

    def turn(self, timeout: float = 0.1) -> None:
        with suppress(TimeoutError):
            self.connection.drain_events(timeout=timeout)

    def wait_for(self, count: int) -> list[Any]:
        end = monotonic() + PATIENCE_S
        while len(self.got) < count:
            assert monotonic() < end, self.got
            self.turn()
        return self.got

    def settle(self, store: Any) -> None:
        """Wait until nothing is filed, and nothing is left in the queue."""

        def is_settled() -> bool:
            self.turn()
            return not store.exists(QUEUE, "unacked", "unacked_index")

        wait_until(is_settled, "settling", PATIENCE_S)

    def send(self, *bodies: Any) -> None:
        producer = self.connection.Producer()
        for body in bodies:
            producer.publish(body, routing_key=QUEUE)


def exchange_messages(url: str) -> set[bytes]:
    """Send and get messages, before and after waiting; returns the keys that are left."""
    with Client(url) as client:
        client.send(1, 2)
        assert client.wait_for(2) == [1, 2]
        client.turn(0.3)
        with BrokerConnection(url) as other:
            other.Producer().publish(3, routing_key=QUEUE)
        assert client.wait_for(3) == [1, 2, 3]
        client.turn(0.3)
    with redis.Redis.from_url(url) as store:
        return set(store.keys("*"))


def test_a_server_without_blmove() -> None:
    with RedisServer("--rename-command", "BLMOVE", "") as server:
        assert not exchange_messages(server.url)


def test_a_server_that_forbids_the_client_command() -> None:
    with RedisServer("--rename-command", "CLIENT", "") as server:
        left = exchange_messages(server.url)
        with redis.Redis(port=server.port) as store:
            # An inbox may still be filled, so others are told to look into it.
            (name,) = store.zrange("unacked.owners", 0, -1)
            assert name.startswith(b"~")
            assert left == {b"unacked.owners", b"unacked.owner:" + name[1:]}


def test_a_client_without_hiredis(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_redis_link, "hiredis", None)
    assert not exchange_messages(redis_url)


def test_a_server_that_forgets_scripts(redis_url: str) -> None:
    with Client(redis_url) as client, redis.Redis.from_url(redis_url) as store:
        for number in range(5):
            store.script_flush()
            client.send(number)
            client.wait_for(number + 1)
        assert client.got == [0, 1, 2, 3, 4]


def test_more_waits_end_at_once_than_there_is_room(redis_url: str) -> None:
    """Each brings a message into an inbox; none is forgotten there."""
    with Client(redis_url, prefetch=1) as client, redis.Redis.from_url(redis_url) as store:
        steps = client.channel.priority_steps

        def is_waiting() -> bool:
            client.turn()
            listed: Any = store.client_list()
            return sum("b" in entry["flags"] for entry in listed) == len(steps)

        for number in range(5):
            wait_until(is_waiting, "a wait for each step of priority", PATIENCE_S)
            for step in steps:
                client.connection.Producer().publish(step, routing_key=QUEUE, priority=step)
            client.wait_for((number + 1) * len(steps))
        assert sorted(client.got) == sorted(5 * [*steps])


def test_messages_leave_a_server_that_is_full() -> None:
    with (
        RedisServer("--maxmemory-policy", "noeviction") as server,
        Client(server.url) as client,
        redis.Redis.from_url(server.url) as store,
    ):
        client.send(*range(20))
        store.config_set("maxmemory", 1)
        with pytest.raises(redis.exceptions.OutOfMemoryError):
            store.set("more", 1)

        assert client.wait_for(20) == [*range(20)]
        client.settle(store)
        client.turn(1.0)

        store.config_set("maxmemory", 0)
        client.send("more")
        assert client.wait_for(21)[-1] == "more"


def test_a_message_that_cannot_be_read_is_dropped_and_told_of(
    redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    with Client(redis_url) as client, redis.Redis.from_url(redis_url) as store:
        store.lpush(QUEUE, b"\xff not a message")
        client.send("good")
        assert client.wait_for(1) == ["good"]
        client.settle(store)
    assert "not a message" in caplog.text


def test_many_queues_are_served_without_a_connection_for_each(redis_url: str) -> None:
    names = [f"queue{number}" for number in range(40)]
    got: list[Any] = []
    with BrokerConnection(redis_url) as connection, redis.Redis.from_url(redis_url) as store:
        channel = connection.default_channel
        # Those of the tests before may still be among them.
        others = len(store.client_list())
        consumer = Consumer(
            channel, [Queue(name) for name in names], on_message=lambda m: got.append(m.payload)
        )
        consumer.consume()
        with suppress(TimeoutError):
            connection.drain_events(timeout=0.2)
        assert len(store.client_list()) - others < 45
        producer = connection.Producer()
        for name in names:
            producer.publish(name, routing_key=name, priority=9)
        end = monotonic() + PATIENCE_S
        while len(got) < len(names):
            assert monotonic() < end
            with suppress(TimeoutError):
                connection.drain_events(timeout=0.2)
    assert sorted(got) == sorted(names)


@pytest.fixture
def hub() -> Iterator[Hub]:
    """An event loop."""
    hub = Hub()
    yield hub
    hub.close()


def turn_until(hub: Hub, condition: Any) -> None:
    end = monotonic() + PATIENCE_S
    loop = hub.create_loop()
    while not condition():
        assert monotonic() < end
        next(loop)


def test_a_channel_declares_sends_counts_and_deletes_on_one_connection(redis_url: str) -> None:
    at = urlsplit(redis_url)
    with (
        Proxy(at.port or 0) as proxy,
        BrokerConnection(f"redis://127.0.0.1:{proxy.port}{at.path}") as connection,
    ):
        channel = connection.default_channel
        queue = Queue(QUEUE, channel=channel, expires=60.0)
        broadcast = Queue("heard", Exchange("wide", type="fanout"), channel=channel)
        for each in (queue, broadcast):
            each.declare()
        Producer(channel).publish("text", routing_key=QUEUE)

        assert queue.queue_declare(passive=True).message_count == 1
        assert queue.purge() == 1
        for each in (queue, broadcast):
            each.delete()

        assert proxy.accepted == 1


@pytest.mark.parametrize("prefix", ["", "apart:"])
@pytest.mark.parametrize("expires", [None, 60.0])
def test_queues_are_the_same_to_channels_of_kombu(
    redis_url: str, prefix: str, expires: float | None
) -> None:
    options = {"global_keyprefix": prefix}
    with (
        BrokerConnection(redis_url, transport_options=options) as ours,
        Connection(redis_url, transport_options=options) as kombus,
        redis.Redis.from_url(redis_url) as store,
    ):
        queue = Queue("seen", Exchange("seen"), "key", expires=expires)
        here, there = queue.bind(ours.default_channel), queue.bind(kombus.default_channel)
        here.declare()
        written = {key: store.type(key) for key in store.scan_iter()}
        members = store.smembers(f"{prefix}_kombu.binding.seen")

        assert ours.default_channel.get_table("seen") == kombus.default_channel.get_table("seen")
        Producer(ours.default_channel).publish("text", exchange="seen", routing_key="key")
        # kombu asks for the queue itself without the prefix, and does not find it.
        assert kombus.default_channel._size("seen") == 1
        assert here.queue_declare(passive=True).message_count == 1
        here.delete()
        assert not kombus.default_channel.get_table("seen")
        with pytest.raises(ours.channel_errors):
            here.queue_declare(passive=True)

        store.flushdb()
        there.declare()
        assert {key: store.type(key) for key in store.scan_iter()} == written
        assert store.smembers(f"{prefix}_kombu.binding.seen") == members


def test_bindings_of_queues_that_expire_are_kept_while_consumed_and_swept_after(
    redis_url: str,
) -> None:
    with (
        BrokerConnection(redis_url, transport_options={"global_keyprefix": "apart:"}) as connection,
        redis.Redis.from_url(redis_url) as store,
    ):
        channel = connection.default_channel
        queue = Queue("seen", Exchange("seen"), "key", channel=channel, expires=60.0)
        consumer = Consumer(channel, [queue])
        consumer.consume()
        table, deadlines = "apart:_kombu.binding.seen", "apart:_kombu.binding_deadlines"
        bound = store.smembers(table)
        assert bound

        store.delete(table)
        channel.maybe_refresh_binding_expiry()
        assert store.smembers(table) == bound

        store.zadd(deadlines, {"seen": 1})
        assert channel.sweep_bindings() == 1
        assert not store.exists(table, deadlines)


def test_a_queue_of_broadcasts_ends_with_its_channel(redis_url: str) -> None:
    with (
        BrokerConnection(redis_url) as connection,
        redis.Redis.from_url(redis_url) as store,
    ):
        channel = connection.channel()
        exchange = Exchange("wide", type="fanout")
        Queue("heard", exchange, channel=channel, auto_delete=True).declare()
        Queue("stays", exchange, channel=channel).declare()
        assert store.scard("_kombu.binding.wide") == 2

        channel.close()

        assert [
            member.split(b"\x06\x16")[2] for member in store.smembers("_kombu.binding.wide")
        ] == [b"stays"]


def test_an_event_loop_delivers_many_messages_with_few_commands(redis_url: str, hub: Hub) -> None:
    with Client(redis_url, prefetch=50) as client, redis.Redis.from_url(redis_url) as store:
        client.connection.register_with_event_loop(hub)
        client.send(*range(500))
        before = store.info("commandstats")["cmdstat_evalsha"]["calls"]

        turn_until(hub, lambda: len(client.got) == 500)
        turn_until(hub, lambda: not store.exists("unacked"))

        assert client.got == [*range(500)]
        assert store.info("commandstats")["cmdstat_evalsha"]["calls"] - before < 30


def test_a_large_message_leaves_the_server_once(hub: Hub) -> None:
    """Also one that a blocking move has brought, which a claim then files."""
    text, count = "x" * 75_000, 10
    with (
        # Of its own: what others read from it counts as well.
        RedisServer() as server,
        Client(server.url) as client,
        redis.Redis.from_url(server.url) as store,
    ):
        client.connection.register_with_event_loop(hub)
        before = store.info("stats")["total_net_output_bytes"]
        for number in range(count):
            turn_until(hub, lambda: only_waits(client))
            client.send(text)
            turn_until(hub, lambda number=number: len(client.got) == number + 1)
        turn_until(hub, lambda: not store.exists("unacked"))

        assert client.got == [text] * count
        # A body grows by a third where it is base64.
        assert store.info("stats")["total_net_output_bytes"] - before < 1.3 * count * 100_000


def only_waits(client: Client) -> bool:
    """Say whether a blocking move is under way, and no claim, which would fetch what comes."""
    claims = client.channel.claims
    waits = any(wait.sent_at for wait in claims.waits.by_key.values())
    return waits and claims.is_settled and not claims._is_claiming


def test_an_event_loop_that_waits_gets_a_message_at_once(redis_url: str, hub: Hub) -> None:
    with Client(redis_url) as client, redis.Redis.from_url(redis_url) as store:
        client.connection.register_with_event_loop(hub)
        hub.timer.call_after(0.3, lambda: None)
        turn_until(hub, lambda: store.exists(f"unacked.owner:{client.channel.claims.owner}"))

        client.send("hello")
        turn_until(hub, lambda: client.got)
        turn_until(hub, lambda: not store.exists("unacked"))

    assert client.got == ["hello"]


def test_an_event_loop_hands_out_once_what_it_waited_for(redis_url: str, hub: Hub) -> None:
    with Client(redis_url) as client, redis.Redis.from_url(redis_url) as store:
        client.connection.register_with_event_loop(hub)
        for number in range(30):
            turn_until(hub, lambda: not store.exists("unacked"))
            client.send(number)
            turn_until(hub, lambda number=number: len(client.got) > number)
        turn_until(hub, lambda: not store.exists("unacked"))
        assert client.got == [*range(30)]


def test_an_early_message_can_be_requeued_at_once(redis_url: str, hub: Hub) -> None:
    with Client(redis_url) as client, redis.Redis.from_url(redis_url) as store:
        client.connection.register_with_event_loop(hub)
        turn_until(hub, lambda: store.exists(f"unacked.owner:{client.channel.claims.owner}"))
        seen: list[Any] = []

        def on_message(message: Any) -> None:
            seen.append(message.payload)
            message.requeue() if len(seen) == 1 else message.ack()

        client.consumer.on_message = on_message
        client.send("again")
        turn_until(hub, lambda: len(seen) == 2)
        turn_until(hub, lambda: not store.exists("unacked", QUEUE))
        assert seen == ["again", "again"]


def test_an_event_loop_raises_what_ends_the_connection(redis_url: str, hub: Hub) -> None:
    with Client(redis_url) as client, redis.Redis.from_url(redis_url) as store:
        client.connection.register_with_event_loop(hub)
        hub.propagate_errors = client.connection.connection_errors
        turn_until(hub, lambda: store.exists(f"unacked.owner:{client.channel.claims.owner}"))
        store.client_kill_filter(_type="normal", skipme=True)

        with pytest.raises(client.connection.connection_errors):
            turn_until(hub, lambda: False)


def test_a_closed_connection_leaves_nothing_in_the_event_loop(redis_url: str, hub: Hub) -> None:
    for _ in range(3):
        with Client(redis_url) as client:
            client.connection.register_with_event_loop(hub)
            client.send("x")
            turn_until(hub, lambda client=client: client.got)
    assert not hub.on_tick
    assert not hub.readers
    assert all(entry.canceled for _, _, entry in hub.timer.queue)


def test_a_silent_server_ends_the_connection_of_an_event_loop(hub: Hub) -> None:
    with RedisServer() as server, Client(server.url, socket_timeout=0.5, claim_lease=1) as client:
        client.connection.register_with_event_loop(hub)
        hub.propagate_errors = client.connection.connection_errors
        client.send("one")
        turn_until(hub, lambda: client.got)
        with server.frozen(), pytest.raises(client.connection.connection_errors):
            turn_until(hub, lambda: False)
