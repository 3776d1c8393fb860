"""What consumers and producers may rely on, from our Redis transport as from kombu's own.

The suite runs with each as the consumer and each as the producer where that matters: both work
on the same keys.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
import redis
from kombu import Connection, Consumer, Exchange, Queue
from kombu.exceptions import MessageStateError, OperationalError

from celery._transport.connection import BrokerConnection
from t.contract.inbox import PATIENCE_S, QUEUE, Inbox, drain_until, send
from t.harness.servers import RedisServer, free_port, wait_until

pytestmark = pytest.mark.redis

CLASSES: dict[str, Callable[..., Connection]] = {"ours": BrokerConnection, "kombu": Connection}


@pytest.fixture(params=CLASSES)
def connect(request: pytest.FixtureRequest, redis_url: str) -> Iterator[Callable[..., Connection]]:
    """Return a function that opens connections of the class under test."""
    opened: list[Connection] = []

    def open_connection(kind: str = request.param, **options: Any) -> Connection:
        connection = CLASSES[kind](redis_url, transport_options=options)
        opened.append(connection)
        return connection

    yield open_connection
    for connection in opened:
        connection.release()


@pytest.fixture
def store(redis_url: str) -> Iterator[Any]:
    """Return a plain client of the server."""
    with redis.Redis.from_url(redis_url) as client:
        yield client


def subscribe(connection: Connection) -> None:
    """Let *connection* do what it has to before broadcasts reach it."""
    with suppress(TimeoutError):
        while True:
            connection.drain_events(timeout=0.2)


def test_messages_arrive_in_order(connect: Any) -> None:
    send(connect(), *range(20))

    assert Inbox(connect()).wait_for(20) == [*range(20)]


def test_a_message_reaches_a_consumer_that_waits(connect: Any) -> None:
    inbox = Inbox(connect())
    assert inbox.is_quiet(0.3)

    send(connect(), "hello")

    assert inbox.wait_for(1) == ["hello"]


@pytest.mark.parametrize("producer", CLASSES)
def test_either_producer_serves_either_consumer(connect: Any, producer: str) -> None:
    body = {"text": "ä€𝄞", "number": 1.5, "nothing": None, "list": [1, [2]], "bytes": "00"}
    send(connect(producer), body)

    assert Inbox(connect()).wait_for(1) == [body]


def test_headers_properties_and_content_survive(connect: Any) -> None:
    connection = connect()
    connection.Producer().publish(
        b"\x00\xff",
        routing_key=QUEUE,
        content_type="application/data",
        content_encoding="binary",
        headers={"a": "ü", "n": [1, None]},
        correlation_id="c",
        reply_to="r",
    )

    inbox = Inbox(connect())
    inbox.drain_until(lambda: bool(inbox.messages))

    (message,) = inbox.messages
    assert message.body == b"\x00\xff"
    assert message.headers == {"a": "ü", "n": [1, None]}
    assert message.properties["correlation_id"] == "c"
    assert message.properties["reply_to"] == "r"
    assert (message.content_type, message.content_encoding) == ("application/data", "binary")
    assert message.delivery_info["routing_key"] == QUEUE


def test_a_compressed_message_is_unpacked(connect: Any) -> None:
    send(connect(), {"long": "x" * 5000}, compression="zlib")

    assert Inbox(connect()).wait_for(1) == [{"long": "x" * 5000}]


def test_an_acknowledged_message_leaves_nothing_behind(connect: Any, store: Any) -> None:
    """B-ROUT-031: Held messages stand in `unacked` and `unacked_index`."""
    connection = connect()
    send(connection, 1, 2)
    inbox = Inbox(connection)
    inbox.wait_for(2)
    assert store.hlen("unacked") == store.zcard("unacked_index") == 2

    inbox.ack_all()
    connection.release()

    assert store.exists("unacked", "unacked_index", QUEUE) == 0
    assert not store.keys("unacked*")


def test_a_message_can_be_settled_only_once(connect: Any) -> None:
    send(connect(), 1)
    inbox = Inbox(connect())
    inbox.wait_for(1)
    inbox.messages[0].ack()

    with pytest.raises(MessageStateError):
        inbox.messages[0].ack()
    with pytest.raises(MessageStateError):
        inbox.messages[0].reject()


def test_a_rejected_message_is_gone(connect: Any, store: Any) -> None:
    connection = connect()
    send(connection, 1)
    inbox = Inbox(connection)
    inbox.wait_for(1)

    inbox.messages[0].reject()
    connection.release()

    assert store.exists("unacked", "unacked_index", QUEUE) == 0


def test_a_requeued_message_comes_again_after_the_others_and_says_so(connect: Any) -> None:
    send(connect(), 1, 2)
    inbox = Inbox(connect(), prefetch=1)
    inbox.wait_for(1)

    inbox.messages[0].requeue()
    inbox.wait_for(2)
    inbox.messages[1].ack()

    assert inbox.wait_for(3) == [1, 2, 1]
    assert inbox.messages[2].delivery_info["redelivered"] is True
    assert inbox.messages[2].headers["redelivered"] is True


def test_no_more_than_the_prefetch_count_are_held(connect: Any, store: Any) -> None:
    send(connect(), *range(10))
    inbox = Inbox(connect(), prefetch=3)

    assert inbox.wait_for(3) == [0, 1, 2]
    assert inbox.is_quiet(0.3)
    assert store.llen(QUEUE) == 7
    inbox.messages[0].ack()
    inbox.messages[1].ack()

    assert inbox.wait_for(5) == [0, 1, 2, 3, 4]
    assert inbox.is_quiet(0.3)


def test_a_higher_prefetch_count_lets_more_in(connect: Any) -> None:
    send(connect(), *range(4))
    inbox = Inbox(connect(), prefetch=1)
    inbox.wait_for(1)

    inbox.channel.basic_qos(0, 3, False)

    assert inbox.wait_for(3) == [0, 1, 2]
    assert inbox.is_quiet(0.3)


def test_a_message_for_a_full_consumer_goes_to_another(connect: Any) -> None:
    full, other = Inbox(connect(), prefetch=1), Inbox(connect(), prefetch=1)
    send(connect(), "first")
    full.wait_for(1)
    send(connect(), "second")

    assert other.wait_for(1) == ["second"]
    assert full.bodies == ["first"]


def test_lower_numbers_of_priority_come_first(connect: Any) -> None:
    """B-ROUT-028: 0 is highest."""
    connection = connect()
    for priority in (9, 3, 0, 6, 4):
        send(connection, priority, priority=priority)

    inbox = Inbox(connect(), prefetch=1)
    for count in range(1, 6):
        inbox.wait_for(count)
        inbox.ack_all()

    # 3 and 4 share a step.
    assert inbox.bodies == [0, 3, 4, 6, 9]


def test_a_consumer_waits_at_all_priorities(connect: Any) -> None:
    inbox = Inbox(connect())
    assert inbox.is_quiet(0.3)

    send(connect(), "late", priority=9)

    assert inbox.wait_for(1) == ["late"]


def test_queues_take_turns(connect: Any) -> None:
    connection = connect()
    send(connection, *[f"a{n}" for n in range(6)], queue="a")
    send(connection, *[f"b{n}" for n in range(6)], queue="b")

    inbox = Inbox(connect(), "a", "b", prefetch=4)

    assert sorted(inbox.wait_for(4)) == ["a0", "a1", "b0", "b1"]


def test_the_strict_order_empties_the_first_queue_first(connect: Any) -> None:
    connection = connect()
    send(connection, "b0", queue="b")
    send(connection, "a0", "a1", queue="a")

    inbox = Inbox(connect(queue_order_strategy="priority"), "a", "b")

    assert inbox.wait_for(3) == ["a0", "a1", "b0"]


def test_what_is_not_settled_goes_back_when_the_connection_closes(
    connect: Any, store: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """B-BROK-006: Messages return at once, and the log says so."""
    connection = connect()
    send(connection, 1, 2, 3)
    inbox = Inbox(connection, prefetch=2)
    inbox.wait_for(2)
    inbox.messages[0].ack()

    with caplog.at_level(logging.INFO, "kombu"):
        connection.release()

    assert store.llen(QUEUE) == 2
    assert store.exists("unacked", "unacked_index") == 0
    again = Inbox(connect())
    assert again.wait_for(2) == [2, 3]
    assert again.messages[0].delivery_info["redelivered"] is True
    assert "Restoring 1 unacknowledged message(s)" in caplog.text


def test_messages_that_go_back_keep_their_priority(connect: Any, store: Any) -> None:
    """B-ROUT-028: A list for each step of priority."""
    connection = connect()
    send(connection, "low", priority=9)
    Inbox(connection).wait_for(1)

    connection.release()

    assert store.llen(f"{QUEUE}\x06\x169") == 1


def test_a_message_of_a_named_exchange_goes_back_to_its_queue(connect: Any, store: Any) -> None:
    connection = connect()
    exchange = Exchange("topics", type="topic")
    queue = Queue(QUEUE, exchange, routing_key="a.*")
    connection.Producer().publish(1, exchange=exchange, routing_key="a.b", declare=[queue])
    inbox = Inbox(connection)
    inbox.wait_for(1)
    assert inbox.messages[0].delivery_info["exchange"] == "topics"

    connection.release()

    assert store.llen(QUEUE) == 1


@pytest.mark.parametrize("other", CLASSES)
def test_the_visibility_timeout_holds_between_both(connect: Any, store: Any, other: str) -> None:
    """B-ROUT-032, B-BROK-004: What kombu holds too long is delivered again."""
    send(connect(), 1)
    Inbox(connect("kombu", visibility_timeout=3600)).wait_for(1)
    for tag in store.hkeys("unacked"):
        store.zadd("unacked_index", {tag: 1.0})

    inbox = Inbox(
        connect(
            other, visibility_timeout=30, unacked_restore_interval=1, unacked_restore_throttle=1
        )
    )

    assert inbox.wait_for(1) == [1]


def test_a_consumer_without_acknowledgement_leaves_nothing_behind(connect: Any, store: Any) -> None:
    send(connect(), 1, 2)
    inbox = Inbox(connect(), no_ack=True)

    assert inbox.wait_for(2) == [1, 2]
    assert store.exists("unacked", QUEUE) == 0


def test_a_single_message_can_be_fetched(connect: Any, store: Any) -> None:
    connection = connect()
    queue = Queue(QUEUE)(connection.default_channel)
    queue.declare()
    assert queue.get() is None
    send(connection, 1, 2)

    first = queue.get()
    assert first.payload == 1
    assert store.hlen("unacked") == 1
    first.ack()
    second = queue.get(no_ack=True)

    assert second.payload == 2
    wait_until(lambda: not store.exists("unacked", QUEUE), "the acknowledgement", PATIENCE_S)


def test_a_fetched_message_goes_back_when_the_connection_closes(connect: Any, store: Any) -> None:
    connection = connect()
    send(connection, 1)
    assert Queue(QUEUE)(connection.default_channel).get().payload == 1

    connection.release()

    assert store.llen(QUEUE) == 1


def test_sizes_and_purges_count_all_priorities(connect: Any) -> None:
    connection = connect()
    send(connection, 1, 2)
    send(connection, 3, priority=9)
    queue = Queue(QUEUE)(connection.default_channel)

    assert queue.queue_declare(passive=True).message_count == 3
    assert queue.purge() == 3
    assert queue.queue_declare().message_count == 0


def test_a_deleted_queue_is_empty(connect: Any, store: Any) -> None:
    connection = connect()
    exchange = Exchange("direct-one", type="direct")
    queue = Queue(QUEUE, exchange, routing_key="k")(connection.default_channel)
    queue.declare()
    connection.Producer().publish(1, exchange=exchange, routing_key="k")

    queue.delete()

    assert store.exists(QUEUE, "_kombu.binding.direct-one") == 0


def test_every_consumer_of_a_fanout_exchange_gets_a_copy(connect: Any) -> None:
    exchange = Exchange("news", type="fanout")
    inboxes = []
    for name in ("one", "two"):
        connection = connect()
        channel = connection.channel()
        got: list[Any] = []
        queue = Queue(name, exchange, auto_delete=True)
        keep = [lambda body, message, got=got: got.append(body)]
        Consumer(channel, [queue], callbacks=keep, no_ack=True).consume()
        subscribe(connection)
        inboxes.append((connection, got))

    connect().Producer().publish("hello", exchange=exchange, declare=[exchange])

    for connection, got in inboxes:
        while not got:
            connection.drain_events(timeout=PATIENCE_S)
        assert got == ["hello"]


def test_a_broadcast_reaches_the_other_kind(connect: Any) -> None:
    exchange = Exchange("mixed", type="fanout")
    for publisher, subscriber in (("ours", "kombu"), ("kombu", "ours")):
        connection = connect(subscriber)
        got: list[Any] = []
        queue = Queue(f"{subscriber}.q", exchange)
        keep = [lambda body, message, got=got: got.append(body)]
        Consumer(connection.channel(), [queue], callbacks=keep, no_ack=True).consume()
        subscribe(connection)
        connect(publisher).Producer().publish(publisher, exchange=exchange, declare=[exchange])
        while not got:
            connection.drain_events(timeout=PATIENCE_S)
        assert got == [publisher]


@pytest.fixture
def news(connect: Any) -> Any:
    """Return a function that publishes to all who listen to the news."""
    exchange = Exchange("news", type="fanout")
    producer = connect("ours").Producer()
    return lambda body, **how: producer.publish(body, exchange=exchange, declare=[exchange], **how)


def listen(channel: Any, *names: str, **options: Any) -> list[Any]:
    """Return a list of all messages that come to queues of the news."""
    got: list[Any] = []
    for name in names:
        queue = Queue(name, Exchange("news", type="fanout"), auto_delete=True)
        Consumer(channel, [queue], on_message=got.append, **options).consume()
    return got


def test_broadcasts_go_on_after_the_server_has_cut_the_connection(
    connect: Any, store: Any, news: Any
) -> None:
    """With kombu's the connection of the consumer ends."""
    connection = connect("ours")
    got = listen(connection.channel(), "one", no_ack=True)
    subscribe(connection)
    news(1)
    drain_until(connection, lambda: got)

    store.client_kill_filter(_type="pubsub")
    drain_until(connection, store.pubsub_numpat)
    news(2)

    drain_until(connection, lambda: len(got) == 2)
    assert [message.payload for message in got] == [1, 2]


def test_a_broadcast_waits_until_the_prefetch_limit_has_room(connect: Any, news: Any) -> None:
    connection = connect("ours")
    channel = connection.channel()
    channel.basic_qos(0, 1, False)
    got = listen(channel, "one")
    subscribe(connection)
    news(1)
    news(2)
    drain_until(connection, lambda: got)
    with pytest.raises(TimeoutError):
        connection.drain_events(timeout=0.3)

    got[0].ack()
    drain_until(connection, lambda: len(got) == 2)

    assert [message.payload for message in got] == [1, 2]


def test_a_channel_may_listen_to_more_when_it_listens_already(connect: Any, store: Any) -> None:
    """kombu subscribes once for a channel."""
    connection = connect("ours")
    channel = connection.channel()
    got = listen(channel, "one", no_ack=True)
    subscribe(connection)
    other = Exchange("weather", type="fanout")
    queue = Queue("two", other, auto_delete=True)
    second = Consumer(channel, [queue], on_message=got.append, no_ack=True)
    second.consume()
    subscribe(connection)

    connect("ours").Producer().publish("rain", exchange=other, declare=[other])
    drain_until(connection, lambda: got)

    assert [message.payload for message in got] == ["rain"]
    second.cancel()
    assert store.pubsub_numpat() == 1


def test_broadcasts_take_the_prefix_of_the_connection(connect: Any) -> None:
    """B-ROUT-031"""
    exchange = Exchange("news", type="fanout")
    connection = connect(global_keyprefix="app1.")
    got = listen(connection.channel(), "one", no_ack=True)
    subscribe(connection)
    for prefix in ("", "app2.", "app1."):
        producer = connect(global_keyprefix=prefix).Producer()
        producer.publish(prefix, exchange=exchange, declare=[exchange])
    drain_until(connection, lambda: got)

    assert [message.payload for message in got] == ["app1."]


def test_broadcasts_that_nobody_waited_for_have_come_when_the_channel_is_closed(
    connect: Any,
) -> None:
    exchange = Exchange("quick", type="fanout")
    listener, sender = connect("kombu"), connect("ours")
    got: list[Any] = []
    keep = [lambda body, message: got.append(body)]
    queue = Queue("quick.q", exchange)
    Consumer(listener.channel(), [queue], callbacks=keep, no_ack=True).consume()
    subscribe(listener)
    channel = sender.channel()
    channel.posts_broadcasts = True
    producer = sender.Producer(channel)

    for number in range(20):
        producer.publish(number, exchange=exchange, declare=[exchange])
    channel.close()

    while len(got) < 20:
        listener.drain_events(timeout=PATIENCE_S)
    assert got == list(range(20))


def test_nothing_comes_after_a_cancel(connect: Any, store: Any) -> None:
    # kombu's has sent its command to pop the next message, which comes even so.
    inbox = Inbox(connect("ours"))
    assert inbox.is_quiet(0.3)

    inbox.consumer.cancel()
    send(connect(), "later")

    assert store.llen(QUEUE) == 1


def test_one_of_two_queues_can_be_cancelled(connect: Any, store: Any) -> None:
    inbox = Inbox(connect(), "a", "b")
    assert inbox.is_quiet(0.3)

    inbox.consumer.cancel_by_queue("a")
    send(connect(), "left", queue="a")
    send(connect(), "taken", queue="b")

    assert inbox.wait_for(1) == ["taken"]
    assert store.llen("a") == 1


def test_a_consumer_can_begin_again_after_a_cancel(connect: Any) -> None:
    inbox = Inbox(connect())
    assert inbox.is_quiet(0.3)
    inbox.consumer.cancel()
    send(connect(), "later")

    inbox.consumer.consume()

    assert inbox.wait_for(1) == ["later"]


def test_keys_take_the_prefix_of_the_connection(connect: Any, store: Any) -> None:
    """B-ROUT-031: `global_keyprefix` goes before all keys."""
    options = {"global_keyprefix": "app1."}
    inbox = Inbox(connect(**options))
    assert inbox.is_quiet(0.3)
    send(connect(**options), 1)

    assert inbox.wait_for(1) == [1]
    assert all(key.startswith(b"app1.") for key in store.keys("*"))
    inbox.connection.release()
    assert store.keys("*") == [b"app1.work"]
    assert Inbox(connect("kombu", **options)).wait_for(1) == [1]


def test_a_batch_is_sent_when_it_ends(connect: Any, store: Any) -> None:
    producer = connect().Producer()
    with producer.batch(max_size=100):
        for number in range(7):
            producer.publish(number, routing_key=QUEUE)
        assert store.llen(QUEUE) == 0
    assert store.llen(QUEUE) == 7
    assert Inbox(connect()).wait_for(7) == [*range(7)]


def test_a_full_batch_is_sent_at_once_and_an_aborted_one_never(connect: Any, store: Any) -> None:
    producer = connect().Producer()

    def fail_in_batch() -> None:
        with producer.batch(max_size=3):
            for number in range(5):
                producer.publish(number, routing_key=QUEUE)
            assert store.llen(QUEUE) == 3
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_in_batch()
    assert store.llen(QUEUE) == 3


def test_a_queue_expires_with_its_argument(connect: Any, store: Any) -> None:
    connection = connect()
    queue = Queue(QUEUE, expires=60)(connection.default_channel)
    queue.declare()
    connection.Producer().publish(1, routing_key=QUEUE)

    assert 0 < store.pttl(QUEUE) <= 60_000


def test_an_error_of_a_refused_connection_is_an_operational_error(connect: Any) -> None:
    port = free_port()
    broker = type(connect())(f"redis://user:secret@127.0.0.1:{port}/0")

    with pytest.raises(OperationalError) as caught:
        broker.ensure_connection(max_retries=1, interval_start=0)

    assert "secret" not in str(caught.value)


def test_a_password_is_used(connect: Any) -> None:
    with RedisServer("--requirepass", "sesame") as server:
        url = f"redis://:sesame@127.0.0.1:{server.port}/0"
        with type(connect())(url) as connection:
            send(connection, 1)
            assert Inbox(connection).wait_for(1) == [1]


def test_a_provider_of_credentials_is_asked(connect: Any) -> None:
    """B-BROK-005: `credential_provider`."""
    provider = redis.UsernamePasswordCredentialProvider(password="sesame")
    with RedisServer("--requirepass", "sesame") as server:
        kind = type(connect())
        with kind(server.url, credential_provider=provider) as connection:
            send(connection, 1)
            assert Inbox(connection).wait_for(1) == [1]


def test_a_socket_in_the_file_system_is_used(connect: Any, tmp_path: Any) -> None:
    """B-BROK-005: `redis+socket://`."""
    path = tmp_path / "redis.sock"
    with (
        RedisServer("--unixsocket", str(path)),
        type(connect())(f"redis+socket://{path}") as connection,
    ):
        send(connection, 1)
        assert Inbox(connection).wait_for(1) == [1]
