"""What consumers may rely on, from our AMQP transport as from kombu's own.

The suite runs with each as the consumer, and with ours also in an event loop, where
acknowledgements wait for the end of a turn.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from struct import pack
from time import monotonic
from typing import Any

import pytest
from amqp import spec
from amqp.exceptions import ChannelError, ConsumerCancelled, RecoverableConnectionError
from amqp.serialization import dumps
from kombu import Connection, Consumer, Exchange, Queue
from kombu.asynchronous import Hub
from kombu.exceptions import MessageStateError

from celery._transport.connection import BrokerConnection
from t.harness.servers import wait_until

pytestmark = pytest.mark.rabbitmq

CLASSES: dict[str, Callable[..., Connection]] = {"ours": BrokerConnection, "kombu": Connection}
QUEUE = "work"
PATIENCE_S = 60.0


class Client:
    """A connection of the class under test, and how to wait on it."""

    def __init__(self, connection: Any, in_hub: bool) -> None:
        self.connection = connection
        self.channel = connection.channel()
        self._hub: Any = Hub() if in_hub else None
        if self._hub is not None:
            self._hub.propagate_errors = (Exception,)
            connection.transport.register_with_event_loop(connection.connection, self._hub)

    def turn(self, timeout_s: float = 0.1) -> None:
        """Wait for something to happen, for as long at most."""
        if self._hub is None:
            with suppress(TimeoutError):
                self.connection.drain_events(timeout=timeout_s)
            return
        bound = self._hub.call_later(timeout_s, lambda: None)
        try:
            self._hub.run_once()
        except BaseException:
            # A loop that raised is at its end.
            self._hub._loop = None
            raise
        finally:
            bound.cancel()

    def drain_until(self, condition: Callable[[], bool]) -> None:
        end = monotonic() + PATIENCE_S
        while not condition():
            assert monotonic() < end, "it never happened"
            self.turn()

    def finish_turn(self) -> None:
        """Let what was done reach the server."""
        if self._hub is not None:
            self.turn(0.001)
        # The answer comes after all that was sent before.
        self.channel.queue_declare(QUEUE, passive=True)

    def settle(self) -> None:
        """Let the server handle what it was sent: it drops that with a lost connection."""
        assert not self.connection.connection.due
        self.channel.queue_declare(QUEUE, passive=True)

    def abandon(self) -> None:
        """Lose the connection, without a word to the server, and forget what is not written."""
        sock = self.connection.connection.sock
        sock.shutdown(socket.SHUT_RDWR)
        with suppress(Exception):
            self.connection.collect()


class Inbox(Client):
    """A consumer that keeps what it gets."""

    def __init__(
        self,
        connection: Any,
        in_hub: bool,
        *queues: Queue | str,
        prefetch: int = 0,
        on_message: Callable[[Any], Any] | None = None,
        on_decode_error: Callable[[Any, Any], Any] | None = None,
        no_ack: bool = False,
    ) -> None:
        super().__init__(connection, in_hub)
        self.channel.basic_qos(0, prefetch, False)
        self.messages: list[Any] = []
        self.on_message = on_message
        self.consumer = Consumer(
            self.channel,
            [Queue(queue) if isinstance(queue, str) else queue for queue in queues or (QUEUE,)],
            on_message=self._on_message,
            on_decode_error=on_decode_error,
            no_ack=no_ack,
        )
        self.consumer.consume()

    def _on_message(self, message: Any) -> None:
        self.messages.append(message)
        if self.on_message is not None:
            self.on_message(message)

    def wait_for(self, count: int) -> list[Any]:
        """Return the bodies of *count* messages, once they are there."""
        self.drain_until(lambda: len(self.messages) >= count)
        return self.bodies

    def is_quiet(self, seconds: float = 0.2) -> bool:
        """Say whether nothing comes for some time."""
        before = len(self.messages)
        self.turn(seconds)
        return len(self.messages) == before

    @property
    def bodies(self) -> list[Any]:
        return [message.payload for message in self.messages]


@pytest.fixture
def connections(amqp_url: str) -> Iterator[Callable[..., Any]]:
    """Return a function that opens connections, which the test need not close."""
    opened: list[Any] = []

    def connect(kind: str, **options: Any) -> Any:
        connection = CLASSES[kind](amqp_url, transport_options=options)
        opened.append(connection)
        return connection

    yield connect
    for connection in opened:
        with suppress(Exception):
            connection.release()


@pytest.fixture(params=["ours", "ours in a loop", "kombu"])
def inbox(request: pytest.FixtureRequest, connections: Any) -> Callable[..., Inbox]:
    """Return a function that opens a consumer of the class under test."""
    kind, _, way = request.param.partition(" ")

    def open_inbox(*queues: Any, options: Any = None, **kwargs: Any) -> Inbox:
        return Inbox(connections(kind, **(options or {})), bool(way), *queues, **kwargs)

    return open_inbox


@pytest.fixture(params=["ours", "ours in a loop"])
def own(request: pytest.FixtureRequest, connections: Any) -> Callable[..., Inbox]:
    """The same, for what kombu's does not do."""
    _, _, way = request.param.partition(" ")
    return lambda *queues, **kwargs: Inbox(connections("ours"), bool(way), *queues, **kwargs)


@pytest.fixture
def send(connections: Any) -> Callable[..., None]:
    """Return a function that publishes bodies."""
    producer = connections("kombu").Producer()

    def publish(*bodies: Any, queue: str = QUEUE, **options: Any) -> None:
        for body in bodies:
            producer.publish(body, routing_key=queue, declare=[Queue(queue)], **options)

    return publish


def left(connections: Any, queue: str = QUEUE) -> list[Any]:
    """Return what a new consumer gets of *queue*, with whether it was delivered before."""
    found = []
    with connections("kombu") as connection:
        channel = connection.channel()
        wait_until(
            lambda: channel.queue_declare(queue, passive=True).consumer_count == 0,
            "the end of the last consumer",
            PATIENCE_S,
        )
        fetch = Queue(queue)(channel).get
        while (message := fetch()) is not None:
            found.append((message.payload, message.delivery_info["redelivered"]))
            message.ack()
    return found


# -- receiving


def test_messages_arrive_in_order(inbox: Any, send: Any) -> None:
    send(*range(300))

    assert inbox().wait_for(300) == [*range(300)]


def test_a_message_reaches_a_consumer_that_waits(inbox: Any, send: Any) -> None:
    waiting = inbox()
    assert waiting.is_quiet()

    send("hello")

    assert waiting.wait_for(1) == ["hello"]


def test_headers_properties_and_content_are_those_that_kombu_gives(
    inbox: Any, connections: Any, send: Any
) -> None:
    options = {
        "headers": {"text": "ü", "list": [1, None, {"deep": 1.5}], "big": 2**40, "no": False},
        "correlation_id": "c",
        "reply_to": "r",
        "priority": 3,
        "expiration": 60,
        "message_id": "m",
    }
    for queue in (QUEUE, "theirs"):
        send({"a": "ä"}, queue=queue, **options)
        send(b"\x00\xff", queue=queue, content_type="data", content_encoding="binary", **options)
        send(b"latin \xe4", queue=queue, content_type="data", content_encoding="latin-1")

    ours, theirs = inbox(), Inbox(connections("kombu"), False, "theirs")
    ours.wait_for(3)
    theirs.wait_for(3)

    for mine, kombus in zip(ours.messages, theirs.messages, strict=True):
        assert type(mine.body) is type(kombus.body)
        for name in ("body", "headers", "properties", "content_type", "content_encoding"):
            assert getattr(mine, name) == getattr(kombus, name)
        expected = {**kombus.delivery_info, "routing_key": QUEUE}
        expected["consumer_tag"] = mine.delivery_info["consumer_tag"]
        assert mine.delivery_info == expected
        assert mine.payload == kombus.payload


def test_a_compressed_message_is_unpacked(inbox: Any, send: Any) -> None:
    send({"long": "x" * 5000}, compression="zlib")

    assert inbox().wait_for(1) == [{"long": "x" * 5000}]


def test_what_cannot_be_unpacked_is_told(inbox: Any, send: Any) -> None:
    send("no such thing", headers={"compression": "application/x-gzip"})
    refused: list[Any] = []
    consumer = inbox(on_decode_error=lambda message, error: refused.append((message, error)))

    consumer.drain_until(lambda: bool(refused))

    assert refused[0][0].headers == {"compression": "application/x-gzip"}


def test_headers_that_nobody_can_read_are_told(own: Any, connections: Any, send: Any) -> None:
    """The message can be settled, and does not come again with each new connection."""
    send(1)
    publish = pack(">HH", *spec.Basic.Publish) + dumps("Bssbb", (0, "", QUEUE, False, False))
    far_away = b"\x01t" + b"T" + b"\xff" * 8
    header = pack(">HHQHI", 60, 0, 4, 0x2000, len(far_away)) + far_away
    sender = connections("kombu")
    channel = sender.channel()
    for kind, contents in ((1, publish), (2, header), (3, b"body")):
        head = pack(">BHI", kind, channel.channel_id, len(contents))
        sender.connection.transport.write(head + contents + b"\xce")
    channel.queue_declare(QUEUE, passive=True)
    refused: list[Any] = []

    def refuse(message: Any, error: BaseException) -> None:
        refused.append((message.body, type(error)))
        message.ack()

    consumer = own(on_decode_error=refuse)
    consumer.drain_until(lambda: bool(refused) and bool(consumer.messages))
    consumer.finish_turn()
    consumer.abandon()

    assert refused == [(b"body", OverflowError)]
    assert left(connections) == [(1, True)]


def test_big_messages_come_whole(inbox: Any, send: Any) -> None:
    """Bodies go over many frames, and the last ones end in the middle of a read."""
    bodies = [letter * size for letter, size in (("a", 2_000_000), ("b", 131_072), ("c", 300_000))]
    send(*bodies)

    assert inbox().wait_for(3) == bodies


def test_big_messages_of_two_channels_come_whole(inbox: Any, send: Any) -> None:
    send("a" * 3_000_000, "b" * 3_000_000)
    send("c" * 3_000_000, "d" * 3_000_000, queue="other")
    consumer = inbox()
    others: list[Any] = []
    with Consumer(consumer.connection.channel(), [Queue("other")], on_message=others.append):
        consumer.drain_until(lambda: len(others) == len(consumer.messages) == 2)

    assert [body[0] for body in consumer.bodies] == ["a", "b"]
    assert [len(message.payload) for message in others] == [3_000_000] * 2


def test_a_body_may_be_empty(inbox: Any, send: Any) -> None:
    send(b"", content_type="data", content_encoding="binary")

    consumer = inbox()
    consumer.drain_until(lambda: bool(consumer.messages))

    assert not consumer.messages[0].body


def test_commands_may_be_sent_while_a_message_is_handled(inbox: Any, send: Any) -> None:
    """Their answer comes behind further messages, which are delivered meanwhile."""
    send(*range(20))

    def ask(message: Any) -> None:
        if message.payload == 3:
            message.channel.basic_qos(0, 100, False)

    assert sorted(inbox(on_message=ask).wait_for(20)) == [*range(20)]


def test_one_event_is_drained_at_a_time(connections: Any, send: Any) -> None:
    """Callers count on it, as those of `kombu.common.drain_consumer` do."""
    send(1, 2, 3)
    for kind in CLASSES:
        consumer = Inbox(connections(kind), False)
        for count in (1, 2, 3):
            consumer.connection.drain_events(timeout=PATIENCE_S)
            assert len(consumer.messages) == count
        consumer.connection.release()


def test_an_error_of_a_handler_holds_nothing_up(own: Any, send: Any) -> None:
    send(*range(5))

    def fail(message: Any) -> None:
        if message.payload == 1:
            raise LookupError("a handler failed")

    consumer = own(on_message=fail)
    with pytest.raises(LookupError):
        consumer.wait_for(5)

    assert consumer.wait_for(5) == [*range(5)]


# -- settling


def test_a_message_can_be_settled_only_once(inbox: Any, send: Any) -> None:
    send(1)
    consumer = inbox()
    consumer.wait_for(1)
    consumer.messages[0].ack()

    for settle in (consumer.messages[0].ack, consumer.messages[0].reject):
        with pytest.raises(MessageStateError):
            settle()


def test_what_is_settled_is_gone_and_the_rest_comes_again(
    inbox: Any, connections: Any, send: Any
) -> None:
    """Whatever the order; and nobody speaks for a message that is not settled."""
    send(*range(12))
    consumer = inbox()
    consumer.wait_for(12)

    messages = consumer.messages
    for number in (5, 0, 1, 11):
        messages[number].ack()
    messages[3].reject()
    messages[2].ack()
    consumer.finish_turn()
    messages[8].ack()
    messages[4].ack()
    consumer.finish_turn()
    consumer.abandon()

    assert left(connections) == [(6, True), (7, True), (9, True), (10, True)]


def test_acknowledgements_and_rejections_keep_their_order(
    inbox: Any, connections: Any, send: Any
) -> None:
    """One that speaks for several must not speak for a message that goes back."""
    send(*range(6))
    consumer = inbox(prefetch=6)
    consumer.wait_for(6)

    messages = consumer.messages
    messages[0].ack()
    messages[2].ack()
    messages[1].requeue()
    messages[3].ack()
    messages[4].reject(requeue=True)
    messages[5].ack()
    consumer.finish_turn()

    assert consumer.wait_for(8)[6:] == [1, 4]
    consumer.abandon()
    assert [body for body, _ in left(connections)] == [1, 4]


def test_an_acknowledgement_may_speak_for_all_before_it(
    inbox: Any, connections: Any, send: Any
) -> None:
    send(*range(6))
    consumer = inbox()
    consumer.wait_for(6)

    consumer.messages[1].ack()
    consumer.messages[4].ack()
    consumer.messages[3].ack(multiple=True)
    consumer.finish_turn()
    consumer.abandon()

    assert [body for body, _ in left(connections)] == [5]


def test_closing_the_connection_settles_what_was_settled(
    inbox: Any, connections: Any, send: Any
) -> None:
    send(*range(4))
    consumer = inbox()
    consumer.wait_for(4)
    for message in consumer.messages[:3]:
        message.ack()

    consumer.connection.release()

    assert left(connections) == [(3, True)]


def test_a_loop_writes_before_it_waits(connections: Any, send: Any) -> None:
    send(*range(50))
    consumer = Inbox(connections("ours"), True, on_message=lambda message: message.ack())
    consumer.wait_for(50)
    consumer.turn(0.001)
    consumer.turn(0.001)
    consumer.settle()

    consumer.abandon()

    assert left(connections) == []


def test_a_loop_that_ends_writes_what_is_left(connections: Any, send: Any) -> None:
    send(1, 2)
    consumer = Inbox(connections("ours"), True)
    consumer.wait_for(2)
    consumer.messages[0].ack()

    assert consumer._hub is not None
    consumer._hub.close()
    consumer.messages[1].ack()
    consumer.settle()
    consumer.abandon()

    assert left(connections) == []


def test_a_message_in_flight_is_not_lost_with_the_connection(
    inbox: Any, connections: Any, send: Any
) -> None:
    send(*range(3))
    consumer = inbox()
    consumer.wait_for(3)

    consumer.abandon()

    assert left(connections) == [(0, True), (1, True), (2, True)]


def test_settling_after_the_connection_was_lost_is_an_error(own: Any, send: Any) -> None:
    send(*range(3))
    consumer = own()
    consumer.wait_for(3)
    consumer.abandon()

    first, second, third = consumer.messages
    for settle in (first.ack, second.reject, third.requeue):
        with pytest.raises(RecoverableConnectionError):
            settle()
    assert not first.acknowledged


def test_no_more_than_the_prefetch_count_are_held(inbox: Any, send: Any) -> None:
    send(*range(10))
    consumer = inbox(prefetch=3)

    assert consumer.wait_for(3) == [0, 1, 2]
    assert consumer.is_quiet()
    consumer.messages[0].ack()
    consumer.messages[1].ack()

    assert consumer.wait_for(5) == [0, 1, 2, 3, 4]
    assert consumer.is_quiet()


def test_a_consumer_that_settles_goes_on_within_its_prefetch_count(inbox: Any, send: Any) -> None:
    """So none of them waits for more than can come."""
    send(*range(500))

    assert inbox(prefetch=1, on_message=lambda message: message.ack()).wait_for(500)


def test_a_higher_prefetch_count_lets_more_in(inbox: Any, send: Any) -> None:
    send(*range(4))
    consumer = inbox(prefetch=1)
    consumer.wait_for(1)

    consumer.channel.basic_qos(0, 3, True)

    # RabbitMQ counts those of one consumer, and all of the channel: the lower one holds.
    consumer.messages[0].ack()
    assert consumer.wait_for(2) == [0, 1]
    assert consumer.is_quiet()


def test_a_consumer_without_acknowledgement_settles_nothing(
    inbox: Any, connections: Any, send: Any
) -> None:
    send(1, 2)
    consumer = inbox(no_ack=True)
    assert consumer.wait_for(2) == [1, 2]

    consumer.messages[0].ack()
    consumer.finish_turn()
    consumer.abandon()

    assert left(connections) == []


def test_messages_of_both_kinds_of_consumer_share_a_channel(
    inbox: Any, connections: Any, send: Any
) -> None:
    consumer = inbox()
    careless: list[Any] = []
    with Consumer(consumer.channel, [Queue("other")], no_ack=True, on_message=careless.append):
        for number in range(3):
            send(number)
            send(number, queue="other")
        consumer.drain_until(lambda: len(careless) == len(consumer.messages) == 3)
        consumer.messages[2].ack()
        consumer.messages[0].ack()
        consumer.finish_turn()
    consumer.abandon()

    assert [body for body, _ in left(connections)] == [1]


def test_fetched_messages_are_settled_with_the_others(
    inbox: Any, connections: Any, send: Any
) -> None:
    send(*range(3))
    send(*"abc", queue="other")
    consumer = inbox()
    fetch = Queue("other")(consumer.channel).get
    first = fetch()
    consumer.wait_for(3)
    second, third = fetch(no_ack=True), fetch()
    assert (first.payload, second.payload, third.payload) == ("a", "b", "c")
    assert fetch() is None

    for message in (consumer.messages[0], third, consumer.messages[2], consumer.messages[1]):
        message.ack()
    consumer.finish_turn()
    consumer.abandon()

    assert left(connections) == []
    assert left(connections, "other") == [("a", True)]


def test_recovered_messages_come_again_and_can_be_settled(
    inbox: Any, connections: Any, send: Any
) -> None:
    send(*range(3))
    consumer = inbox()
    consumer.wait_for(3)
    consumer.messages[1].ack()

    consumer.channel.basic_recover(requeue=True)

    assert consumer.wait_for(5)[3:] == [0, 2]
    for message in consumer.messages[3:]:
        message.ack()
    consumer.finish_turn()
    consumer.abandon()
    assert left(connections) == []


# -- consumers and errors


def test_nothing_comes_after_a_cancel(inbox: Any, connections: Any, send: Any) -> None:
    consumer = inbox()
    consumer.consumer.cancel()

    send(1)

    assert consumer.is_quiet()
    assert left(connections) == [(1, False)]


def test_a_deleted_queue_is_told(inbox: Any, connections: Any, send: Any) -> None:
    consumer = inbox()
    send(1)
    consumer.wait_for(1)
    consumer.messages[0].ack()
    consumer.finish_turn()

    with connections("kombu") as other:
        other.default_channel.queue_delete(QUEUE)

    with pytest.raises(ConsumerCancelled):
        consumer.drain_until(lambda: False)


def test_an_error_of_the_channel_is_raised(own: Any, connections: Any, send: Any) -> None:
    """The channel opens again; what came before can't be settled any more.

    Its tags start anew, so a late acknowledgement would speak for another message.
    """
    send(1)
    consumer = own()
    consumer.wait_for(1)
    with pytest.raises(ChannelError):
        consumer.channel.queue_declare("nowhere", passive=True)

    consumer.consumer.revive(consumer.channel)
    consumer.wait_for(2)
    old, new = consumer.messages
    assert old.delivery_tag == new.delivery_tag
    with pytest.raises(RecoverableConnectionError):
        old.ack()
    with pytest.raises(RecoverableConnectionError):
        old.reject()
    consumer.finish_turn()
    consumer.abandon()

    assert left(connections) == [(1, True)]


def test_an_acknowledgement_of_nothing_is_refused_by_the_server(own: Any, send: Any) -> None:
    send(1)
    consumer = own()
    consumer.wait_for(1)

    consumer.channel.basic_ack(99)

    with pytest.raises(ChannelError, match="99"):
        consumer.drain_until(lambda: False)


def test_a_lost_connection_is_told(inbox: Any) -> None:
    consumer = inbox()
    consumer.connection.connection.sock.shutdown(socket.SHUT_RDWR)

    with pytest.raises(consumer.connection.connection_errors):
        consumer.drain_until(lambda: False)
    assert not consumer.connection.connected


def test_a_loop_hears_of_a_connection_that_was_given_up(connections: Any) -> None:
    """By somebody who waited in vain for an answer, say, and swallowed the error."""
    consumer = Inbox(connections("ours"), True)
    consumer.turn(0.001)
    consumer.connection.connection.collect()

    with pytest.raises(RecoverableConnectionError):
        consumer.turn()


def test_consumers_of_higher_priority_come_first(inbox: Any, send: Any) -> None:
    low = inbox(prefetch=5)
    high = inbox(Queue(QUEUE, consumer_arguments={"x-priority": 10}), prefetch=2)
    send(1, 2, 3)

    assert high.wait_for(2) == [1, 2]
    assert low.wait_for(1) == [3]


def test_quorum_queues_know_a_prefetch_count_for_each_consumer(inbox: Any, send: Any) -> None:
    queue = Queue("solid", queue_arguments={"x-queue-type": "quorum"})
    consumer = inbox(queue, prefetch=2)
    producer = consumer.connection.Producer()
    for number in range(4):
        producer.publish(number, routing_key="solid")

    assert consumer.wait_for(2) == [0, 1]
    assert consumer.is_quiet()
    for message in list(consumer.messages):
        message.ack()
    assert consumer.wait_for(4) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("kind", "key", "routing_key"),
    [("direct", "a.b", "a.b"), ("topic", "a.*", "a.b"), ("fanout", "", "a.b")],
)
def test_bindings_bring_what_they_name(
    inbox: Any, connections: Any, kind: str, key: str, routing_key: str
) -> None:
    exchange = Exchange(f"of-{kind}", type=kind)
    consumer = inbox(Queue("bound", exchange, routing_key=key))

    connections("kombu").Producer().publish(1, exchange=exchange, routing_key=routing_key)

    assert consumer.wait_for(1) == [1]
    info = consumer.messages[0].delivery_info
    assert (info["exchange"], info["routing_key"]) == (f"of-{kind}", routing_key)
