"""Events on the wire: dispatcher and receiver on the broker in memory."""

from __future__ import annotations

import json
import socket
import time
from datetime import UTC, datetime
from typing import Any

import pytest
from kombu import Connection, Consumer, Queue

from celery._protocol import events as wire
from celery.events import Event, EventDispatcher, EventReceiver, get_exchange, group_from
from celery.exceptions import ImproperlyConfigured
from t.harness.calls import python_calls


@pytest.fixture
def listener(connection: Any) -> Any:
    """Return a function that gives the messages sent since the last call."""
    channel = connection.channel()
    queue = Queue("listener", get_exchange(connection), routing_key="#", auto_delete=True)
    messages: list[Any] = []
    consumer = Consumer(channel, [queue], on_message=messages.append, no_ack=True)
    consumer.consume()

    def take() -> list[Any]:
        while True:
            try:
                connection.drain_events(timeout=0.01)
            except TimeoutError:
                break
        taken = [
            (m.delivery_info["routing_key"], json.loads(m.body), m.headers, m.properties)
            for m in messages
        ]
        messages.clear()
        return taken

    yield take
    consumer.cancel()


def dispatcher(app: Any, connection: Any, **options: Any) -> Any:
    return app.events.Dispatcher(connection, hostname="w1@h", **options)


def test_an_event_is_a_dictionary_with_type_and_time() -> None:
    event = Event("task-sent", {"uuid": "1"}, name="add")

    assert event["type"] == "task-sent"
    assert (event["uuid"], event["name"]) == ("1", "add")
    assert isinstance(event["timestamp"], float)
    assert Event("x", timestamp=5.0)["timestamp"] == 5.0


def test_the_group_is_what_stands_before_the_dash() -> None:
    assert group_from("task-sent") == "task"
    assert group_from("worker-elect-ack") == "worker"


def test_every_event_says_where_and_when_it_comes_from(
    app: Any, connection: Any, listener: Any
) -> None:
    """B-EVT-004: all events carry hostname, utcoffset, pid, clock, timestamp and type."""
    dispatcher(app, connection).send("worker-online", freq=2.0)

    ((key, event, headers, properties),) = listener()
    assert set(event) >= {"hostname", "utcoffset", "pid", "clock", "timestamp", "type", "freq"}
    assert event["hostname"] == headers["hostname"] == "w1@h"
    # B-EVT-008: the key is the type with dots; messages are not persistent.
    assert key == "worker.online"
    assert properties["delivery_mode"] == 1


def test_the_clock_goes_forward_with_each_event(app: Any, connection: Any, listener: Any) -> None:
    """B-EVT-018: every event carries a Lamport clock."""
    sender = dispatcher(app, connection)
    sender.send("worker-heartbeat")
    sender.send("worker-heartbeat")
    sender.send("worker-heartbeat", blind=True)

    first, second, blind = (event["clock"] for _, event, *_ in listener())
    assert second == first + 1
    assert blind is None


def test_events_of_a_buffered_group_travel_as_a_list(
    app: Any, connection: Any, listener: Any
) -> None:
    """B-EVT-008: task events are sent in groups, key task.multi, body a list."""
    woken = []
    sender = dispatcher(
        app,
        connection,
        buffer_group=["task"],
        buffer_limit=3,
        on_send_buffered=lambda: woken.append(1),
    )
    sender.send("task-received", uuid="a")
    sender.send("task-started", uuid="a")
    assert listener() == []
    assert len(woken) == 2

    sender.flush()
    ((key, batch, *_),) = listener()
    assert key == "task.multi"
    assert [event["type"] for event in batch] == ["task-received", "task-started"]

    # The limit sends without a flush, and an empty buffer sends nothing.
    for uuid in "xyz":
        sender.send("task-received", uuid=uuid)
    assert [len(batch) for _, batch, *_ in listener()] == [3]
    sender.flush()
    assert listener() == []


def test_only_the_chosen_groups_are_sent(app: Any, connection: Any, listener: Any) -> None:
    """B-EVT-007: worker events are sent without -E, task events are not."""
    sender = dispatcher(app, connection, groups=["worker"])
    sender.send("task-received", uuid="a")
    sender.send("worker-heartbeat")

    assert [event["type"] for _, event, *_ in listener()] == ["worker-heartbeat"]


def test_nothing_is_sent_while_disabled(app: Any, connection: Any, listener: Any) -> None:
    calls = []
    sender = dispatcher(app, connection, enabled=False)
    sender.on_enabled.add(lambda: calls.append("on"))
    sender.on_disabled.add(lambda: calls.append("off"))
    sender.send("worker-online")
    sender.enable()
    sender.send("worker-heartbeat")
    sender.disable()
    sender.disable()
    sender.send("worker-offline")

    assert [event["type"] for _, event, *_ in listener()] == ["worker-heartbeat"]
    assert calls == ["on", "off"]


class Unreachable:
    """A producer whose broker is away."""

    def publish(self, *args: Any, **kwargs: Any) -> None:
        raise ConnectionError("away")


def test_events_wait_while_the_broker_is_away(app: Any, connection: Any, listener: Any) -> None:
    sender = dispatcher(app, connection)
    working, sender.producer = sender.producer, Unreachable()
    sender.send("worker-heartbeat")
    sender.flush()
    assert listener() == []

    # After a reconnect a new dispatcher takes over what is left.
    successor = dispatcher(app, connection)
    successor.extend_buffer(sender)
    successor.flush()
    assert [event["type"] for _, event, *_ in listener()] == ["worker-heartbeat"]
    assert working is not None


def test_an_error_is_raised_where_nothing_may_wait(app: Any, connection: Any) -> None:
    sender = dispatcher(app, connection, buffer_while_offline=False)
    sender.producer = Unreachable()

    with pytest.raises(ConnectionError):
        sender.send("worker-heartbeat")


def test_publishing_goes_through_any_producer(app: Any, connection: Any, listener: Any) -> None:
    sender = app.events.default_dispatcher_for_publish()
    assert not sender.enabled

    with app.amqp.producer_pool.acquire(block=True) as producer:
        sender.publish("task-sent", {"uuid": "a", "queue": "q"}, producer)

    ((key, event, *_),) = listener()
    assert key == "task.sent"
    assert (event["uuid"], event["queue"]) == ("a", "q")


def test_the_default_dispatcher_borrows_a_connection_of_the_pool(app: Any, listener: Any) -> None:
    with app.events.default_dispatcher(hostname="c@h") as sender:
        sender.send("task-progress", uuid="a", percent=5)

    ((key, event, *_),) = listener()
    assert (key, event["percent"], event["hostname"]) == ("task.progress", 5, "c@h")


def receive(app: Any, connection: Any, send: Any, **options: Any) -> list[dict[str, Any]]:
    """Return the events that a receiver hands over after *send* was called."""
    seen: list[dict[str, Any]] = []
    receiver = app.events.Receiver(connection, handlers={"*": seen.append}, **options)
    receiver.on_consume_ready = lambda *args, **kwargs: send()
    with pytest.raises(socket.timeout):
        receiver.capture(timeout=0.01, wakeup=False)
    return seen


def test_a_receiver_hands_single_events_and_lists_over(app: Any, connection: Any) -> None:
    def send() -> None:
        with Connection("memory://") as other:
            sender = dispatcher(app, other, buffer_group=["task"])
            sender.send("worker-online")
            sender.send("task-received", uuid="a")
            sender.send("task-started", uuid="a")
            sender.flush()

    events = receive(app, connection, send)

    assert [event["type"] for event in events] == [
        "worker-online",
        "task-received",
        "task-started",
    ]
    # B-EVT-004: the receiver adds local_received.
    assert all(isinstance(event["local_received"], float) for event in events)


def test_the_handler_of_a_type_goes_before_the_one_of_all(app: Any, connection: Any) -> None:
    """B-EVT-010: handlers={'type' or '*': f}."""
    special: list[Any] = []
    rest: list[Any] = []
    receiver = app.events.Receiver(
        connection, handlers={"task-sent": special.append, "*": rest.append}
    )

    receiver.process("task-sent", {"n": 1})
    receiver.process("task-failed", {"n": 2})

    assert (special, rest) == ([{"n": 1}], [{"n": 2}])


def test_capture_gives_up_after_silence(app: Any, connection: Any) -> None:
    """B-EVT-010: timeout raises socket.timeout."""
    receiver = app.events.Receiver(connection)

    with pytest.raises(socket.timeout):
        receiver.capture(timeout=0.01, wakeup=False)


def test_nonsense_on_the_exchange_is_survived(
    app: Any, connection: Any, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[Any] = []
    receiver = app.events.Receiver(connection, handlers={"*": seen.append})

    receiver._receive(["text", {"no": "type"}, {"type": "worker-online"}, 7], None)

    assert [event["type"] for event in seen] == ["worker-online"]
    assert "is no event" in caplog.text


def test_the_queue_of_a_monitor_lives_as_long_as_it_does(app: Any, connection: Any) -> None:
    """B-EVT-009: celeryev.<uuid>, exclusive, messages for 5 seconds, the queue for 60."""
    queue = app.events.Receiver(connection, node_id="some-id").queue

    assert queue.name == "celeryev.some-id"
    assert queue.exclusive
    assert queue.auto_delete
    assert (queue.message_ttl, queue.expires) == (5.0, 60.0)


def test_a_queue_cannot_be_durable_and_exclusive(app: Any, connection: Any) -> None:
    """B-EVT-009: together they raise ImproperlyConfigured."""
    with pytest.raises(ImproperlyConfigured, match="event_queue_durable"):
        app.events.Receiver(connection, queue_durable=True, queue_exclusive=True)


def test_received_clocks_move_ours(app: Any, connection: Any) -> None:
    """B-EVT-018: the clock is forwarded on receive."""
    receiver = app.events.Receiver(connection)
    receiver.event_from_message({"type": "worker-online", "clock": 1000})
    assert app.clock.value > 1000

    # A client's event has no clock of its own.
    _, event = receiver.event_from_message({"type": "task-sent", "clock": 1})
    assert event["clock"] >= 1000


def test_times_are_those_of_our_zone(app: Any, connection: Any) -> None:
    receiver = app.events.Receiver(connection)
    body = {"type": "worker-online", "clock": 1, "timestamp": 100.0, "utcoffset": 5}

    _, event = receiver.event_from_message(
        dict(body), adjust_timestamp=lambda ts, offset: ts + offset * 3600
    )
    assert event["timestamp"] == 100.0 + 5 * 3600

    _, event = receiver.event_from_message(dict(body), localize=False)
    assert event["timestamp"] == 100.0


def test_a_receiver_wakes_the_workers_up(app: Any, connection: Any) -> None:
    """B-EVT-010: wakeup broadcasts a heartbeat command."""
    calls: list[Any] = []
    app.control.broadcast = lambda *args, **kwargs: calls.append(args)
    receiver = app.events.Receiver(connection)

    with pytest.raises(socket.timeout):
        receiver.capture(timeout=0.01)

    assert calls == [("heartbeat",)]


def test_the_classes_of_an_app_know_it(app: Any, connection: Any) -> None:
    assert issubclass(app.events.Receiver, EventReceiver)
    assert app.events.Receiver(connection).app is app
    assert dispatcher(app, connection).app is app
    assert app.events.State().event_count == 0


def test_redis_gets_a_fanout_exchange() -> None:
    assert get_exchange(Connection("memory://"), "ev").type == "topic"
    assert get_exchange(Connection("redis://"), "ev").type == "fanout"
    assert get_exchange(Connection("memory://"), "ev").name == "ev"


def test_buffered_events_are_the_same_on_the_wire_however_they_are_encoded(
    app: Any, connection: Any
) -> None:
    """B-EVT-004, B-EVT-008: what is encoded at once has the fields of any other event."""
    sender = dispatcher(app, connection, buffer_group=["task"])
    odd = 'quote " backslash \\ line \n and ünïcode'
    moment = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    cases: list[dict[str, Any]] = [
        {"uuid": "a", "name": odd, "args": None, "retries": 0, "runtime": 0.5, "ok": True},
        {"uuid": "b", "eta": moment, "nested": {"x": [1, 2]}},
        {},
        {"uuid": "c", "timestamp": 12.5},
        {"uuid": "d", "hostname": "liar"},
    ]
    for fields in cases:
        sender.send('task-"odd"', **fields)
    sender.send("task-blind", blind=True)
    encoded = sender._groups_waiting["task"]
    events = json.loads(sender._joined(encoded))

    assert [type(each) for each in encoded] == [str, str, str, dict, dict, str]
    for event, fields in zip(events, cases, strict=False):
        common = {"hostname", "pid", "utcoffset", "clock", "timestamp", "type"}
        assert event.keys() == common | fields.keys()
        assert event["type"] == 'task-"odd"'
        assert event["hostname"] == sender.hostname
        assert event["pid"] == sender.pid
        assert event["utcoffset"] == sender.tzoffset
    assert [event["clock"] for event in events[:5]] == sorted(
        event["clock"] for event in events[:5]
    )
    assert events[0]["name"] == odd
    assert events[0]["runtime"] == 0.5
    assert events[1]["nested"] == {"x": [1, 2]}
    assert events[3]["timestamp"] == 12.5
    assert events[5]["clock"] is None


SKETCHES: list[tuple[wire.Sketch, tuple[Any, ...]]] = [
    (
        wire.RECEIVED,
        (
            "a", "proj.ädd",
            {"argsrepr": '("x",)', "kwargsrepr": "{}", "root_id": "r", "retries": 2}, None, None,
        ),
    ),
    (wire.RECEIVED, ("b", "add", {"parent_id": "p"}, "2026-01-02T03:04:05+00:00", "later")),
    (wire.STARTED, ('odd " id',)),
    (wire.SUCCEEDED, ("c", "'\\n'", 0.000123456)),
    # Values that nobody expects, as messages of others may hold them.
    (wire.RECEIVED, ("d", "add", {"argsrepr": None, "kwargsrepr": ["x"]}, None, None)),
    (wire.RECEIVED, ("e", "add", {"retries": "many"}, None, None)),
    (wire.SUCCEEDED, ("f", "1", 2)),
]  # fmt: skip


@pytest.mark.parametrize(("sketch", "values"), SKETCHES)
def test_a_sketched_event_has_what_any_other_has(
    app: Any, connection: Any, sketch: wire.Sketch, values: tuple[Any, ...]
) -> None:
    """B-EVT-004, B-EVT-008."""
    sender = dispatcher(app, connection, buffer_group=["task"])
    sender.sketch(sketch, *values)
    sender.send(sketch.type, **sketch.fields(*values))
    sketched, sent = json.loads(sender._joined(sender._groups_waiting["task"]))

    assert sketched.pop("clock") + 1 == sent.pop("clock")
    assert sketched.pop("timestamp") == pytest.approx(sent.pop("timestamp"), abs=30)
    assert sketched == sent


def test_the_moment_of_a_sketched_event_is_that_of_its_note(
    app: Any, connection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sender = dispatcher(app, connection, buffer_group=["task"])
    moments = [1000.25, 1000.999999, 1003.5, 999.125]
    for moment in moments:
        monkeypatch.setattr(time, "time", lambda moment=moment: moment)
        sender.sketch(wire.STARTED, "a")
    events = json.loads(sender._joined(sender._groups_waiting["task"]))

    assert [event["timestamp"] for event in events] == pytest.approx(moments, abs=2e-6)


def test_a_sender_of_ones_own_sees_events_that_could_be_sketched(app: Any, connection: Any) -> None:
    seen = []

    class Mine(EventDispatcher):
        def send(self, type: str, *args: Any, **fields: Any) -> None:
            seen.append((type, fields))

    sender = Mine(connection, app=app, hostname="w1@h", buffer_group=["task"])
    sender.sketch(wire.STARTED, "a")

    assert seen == [("task-started", {"uuid": "a"})]


def test_the_events_of_a_task_cost_few_calls(app: Any, connection: Any) -> None:
    """A busy worker makes three for each task, so what is dear would show."""
    sender = dispatcher(app, connection, buffer_group=["task"], buffer_limit=1000)

    def task(number: int) -> None:
        for sketch, values in SKETCHES[1:4]:
            sender.sketch(sketch, *values)

    def tasks() -> None:
        for number in range(10):
            task(number)
        sender._joined(sender._groups_waiting["task"])

    task(0)
    calls = python_calls(tasks)

    # For each event the note and the clock, then the text; the first task is among the latter.
    assert len(calls) <= 10 * (1 + 3 * 2) + 11 * 3 + 11, calls


def test_other_serializers_get_events_as_they_are(app: Any, connection: Any) -> None:
    sender = dispatcher(app, connection, buffer_group=["task"], serializer="yaml")
    sender.send("task-started", uuid="a")
    (event,) = sender._joined(sender._groups_waiting["task"])

    assert event["uuid"] == "a"
