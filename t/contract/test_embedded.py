"""What consumers and producers may rely on from the embedded broker."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from kombu import Connection, Exchange, Queue
from kombu.asynchronous.timer import Timer
from kombu.exceptions import MessageStateError

from celery._embedded.bell import Bell
from celery._embedded.store import Store, StoreError
from celery._transport._sqlite_owners import CHUNK
from celery._transport.connection import BrokerConnection
from celery.exceptions import ImproperlyConfigured
from celery.worker._hub import Hub
from t.contract.inbox import PATIENCE_S, QUEUE, Inbox, send
from t.harness.forks import forked
from t.harness.servers import wait_until

TABLES = ("messages", "ready", "delayed", "claimed")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "broker.db"


@pytest.fixture
def connect(path: Path) -> Iterator[Callable[..., Connection]]:
    """Return a function that opens connections."""
    opened: list[Connection] = []

    def open_connection(**options: Any) -> Connection:
        connection = BrokerConnection(f"sqlite:///{path}", transport_options=options)
        opened.append(connection)
        return connection

    yield open_connection
    for connection in opened:
        connection.release()


def counts(path: Path) -> dict[str, int]:
    """Return how many rows each table has."""
    db = sqlite3.connect(path)
    try:
        return {
            table: db.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in TABLES
        }
    finally:
        db.close()


NOTHING = dict.fromkeys(TABLES, 0)


def test_messages_arrive_in_order(connect: Any, path: Path) -> None:
    send(connect(), *range(700))
    inbox = Inbox(connect())

    assert inbox.wait_for(700) == [*range(700)]

    inbox.ack_all()
    inbox.connection.release()
    assert counts(path) == NOTHING


def test_headers_properties_and_content_survive(connect: Any) -> None:
    connect().Producer().publish(
        b"\x00\xff",
        routing_key=QUEUE,
        declare=[Queue(QUEUE)],
        content_type="application/data",
        content_encoding="binary",
        headers={"a": "ü", "n": [1, None]},
        correlation_id="c",
        reply_to="r",
    )
    inbox = Inbox(connect())
    inbox.channel.basic_qos(0, 1, False)
    wait_until(lambda: inbox.messages or _turn(inbox), "the message", PATIENCE_S)

    (message,) = inbox.messages
    assert message.body == b"\x00\xff"
    assert message.headers == {"a": "ü", "n": [1, None]}
    assert message.properties["correlation_id"] == "c"
    assert message.properties["reply_to"] == "r"
    assert (message.content_type, message.content_encoding) == ("application/data", "binary")
    assert message.delivery_info["routing_key"] == QUEUE


def _turn(inbox: Inbox) -> bool:
    with suppress(TimeoutError):
        inbox.connection.drain_events(timeout=0.1)
    return bool(inbox.messages)


def test_a_compressed_message_is_unpacked(connect: Any) -> None:
    send(connect(), {"long": "x" * 5000}, compression="zlib")

    assert Inbox(connect()).wait_for(1) == [{"long": "x" * 5000}]


def test_a_big_message_arrives_whole(connect: Any) -> None:
    body = "ä€𝄞" * 700_000
    send(connect(), body)

    assert Inbox(connect()).wait_for(1) == [body]


def test_a_message_can_be_settled_only_once(connect: Any) -> None:
    send(connect(), 1)
    inbox = Inbox(connect())
    inbox.wait_for(1)
    inbox.messages[0].ack()

    with pytest.raises(MessageStateError):
        inbox.messages[0].ack()


def test_a_rejected_message_is_gone(connect: Any, path: Path) -> None:
    send(connect(), 1)
    inbox = Inbox(connect())
    inbox.wait_for(1)

    inbox.messages[0].reject()
    inbox.connection.release()

    assert counts(path) == NOTHING


def test_a_requeued_message_comes_again_behind_the_others_and_says_so(connect: Any) -> None:
    send(connect(), 1, 2, 3)
    inbox = Inbox(connect(), prefetch=1)
    inbox.wait_for(1)
    assert "redelivered" not in inbox.messages[0].delivery_info

    inbox.messages[0].requeue()
    inbox.channel.basic_qos(0, 10, False)

    assert inbox.wait_for(4) == [1, 2, 3, 1]
    assert inbox.messages[3].delivery_info["redelivered"] is True


def test_prefetch_limits_what_is_held(connect: Any, path: Path) -> None:
    send(connect(), *range(10))
    inbox = Inbox(connect(), prefetch=3)
    inbox.wait_for(3)

    assert inbox.is_quiet()
    assert counts(path)["claimed"] == 3

    inbox.messages[0].ack()
    assert inbox.wait_for(4) == [0, 1, 2, 3]


def test_higher_priorities_come_first_and_equal_ones_in_order(connect: Any) -> None:
    connection = connect()
    for body, priority in (("a", 0), ("b", 9), ("c", 3), ("d", 9), ("e", None), ("f", 3)):
        send(connection, body, priority=priority)

    assert Inbox(connect(), prefetch=1).wait_for(1) == ["b"]
    assert Inbox(connect()).wait_for(5) == ["d", "c", "f", "a", "e"]


def test_what_a_closed_consumer_held_goes_back_to_its_place(connect: Any) -> None:
    send(connect(), 1, 2, 3)
    first = Inbox(connect(), prefetch=2)
    assert first.wait_for(2) == [1, 2]

    first.connection.release()

    second = Inbox(connect())
    assert second.wait_for(3) == [1, 2, 3]
    assert [bool(m.delivery_info.get("redelivered")) for m in second.messages] == [
        True,
        True,
        False,
    ]


def test_an_acknowledgement_after_the_close_is_an_error(connect: Any) -> None:
    send(connect(), 1)
    inbox = Inbox(connect())
    inbox.wait_for(1)
    inbox.channel.close()

    with pytest.raises((StoreError, AttributeError, MessageStateError)):
        inbox.messages[0].channel.claims.ack(inbox.messages[0].delivery_tag)


def test_an_acknowledgement_from_another_thread_is_stored_with_the_next_sign_of_life(
    connect: Any, path: Path
) -> None:
    send(connect(), 1)
    inbox = Inbox(connect())
    inbox.wait_for(1)

    thread = threading.Thread(target=inbox.messages[0].ack)
    thread.start()
    thread.join()
    inbox.connection.transport._keeper.turn()

    assert counts(path) == NOTHING


def test_without_acknowledgements_nothing_is_held(connect: Any, path: Path) -> None:
    send(connect(), 1, 2)
    inbox = Inbox(connect(), no_ack=True)

    assert inbox.wait_for(2) == [1, 2]
    assert inbox.is_quiet()
    assert counts(path) == NOTHING


def test_messages_are_fetched_one_by_one(connect: Any, path: Path) -> None:
    send(connect(), 1, 2)
    channel = connect().channel()

    first = channel.basic_get(QUEUE)
    assert first.payload == 1
    first.ack()
    assert channel.basic_get(QUEUE, no_ack=True).payload == 2
    assert channel.basic_get(QUEUE) is None
    assert counts(path) == NOTHING


def test_queues_are_counted_and_purged(connect: Any, path: Path) -> None:
    connection = connect()
    send(connection, *range(5))
    later = time.time() + 3600
    send(connection, 5, headers={"eta": _iso(later)})
    channel = connect().channel()

    assert channel.queue_declare(QUEUE, passive=True).message_count == 6
    assert channel.queue_purge(QUEUE) == 6
    assert counts(path) == NOTHING


def _iso(moment: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(moment)) + f".{int(moment % 1 * 1e6):06d}"


def test_a_missing_queue_is_missed(connect: Any) -> None:
    connection = connect()
    channel = connection.channel()

    with pytest.raises(connection.channel_errors, match="NOT_FOUND"):
        channel.queue_declare("nowhere", passive=True)


def test_a_deleted_queue_is_gone_with_its_messages(connect: Any, path: Path) -> None:
    connection = connect()
    send(connection, 1)

    connection.channel().queue_delete(QUEUE)

    assert counts(path) == NOTHING
    assert not connection.channel()._has_queue(QUEUE)


def test_a_message_with_an_eta_stays_in_the_store_until_then(connect: Any, path: Path) -> None:
    connection = connect()
    due = time.time() + 1.2
    send(connection, "late", headers={"eta": _iso(due)})
    send(connection, "now")
    inbox = Inbox(connect())

    assert inbox.wait_for(1) == ["now"]
    assert counts(path)["delayed"] == 1

    assert inbox.wait_for(2) == ["now", "late"]
    assert time.time() >= due


def test_a_message_is_forgotten_when_it_expires(connect: Any, path: Path) -> None:
    connection = connect()
    send(connection, "short", expiration=0.001)
    send(connection, "long")
    wait_until(lambda: time.time() > _expiry(path), "the end of the message", PATIENCE_S)

    assert Inbox(connect()).wait_for(1) == ["long"]
    assert counts(path)["messages"] == 1


def test_a_task_that_expires_reaches_the_worker_which_says_so(connect: Any, path: Path) -> None:
    """B-WORK-037: whoever waits for the result has to hear of it."""
    connection = connect()
    past = _iso(time.time() - 1)
    send(connection, "expired", expiration=0.001, headers={"expires": past})
    send(connection, "next")

    assert Inbox(connect()).wait_for(2) == ["expired", "next"]


def _expiry(path: Path) -> float:
    db = sqlite3.connect(path)
    (moment,) = db.execute("SELECT min(expires) FROM messages").fetchone()
    db.close()
    return float(moment)


def test_a_queue_lets_its_messages_live_as_long_as_it_was_declared_to(
    connect: Any, path: Path
) -> None:
    connection = connect()
    connection.Producer().publish(
        1, routing_key="brief", declare=[Queue("brief", message_ttl=50.0)]
    )

    assert 40 < _expiry(path) - time.time() <= 50


def test_an_unused_queue_expires(connect: Any, path: Path) -> None:
    connection = connect()
    channel = connection.channel()
    Queue("brief", expires=0.05)(channel).declare()
    send(connection, 1, queue="brief")

    Inbox(connect())

    wait_until(lambda: not channel._has_queue("brief"), "the end of the queue", PATIENCE_S)
    assert counts(path) == NOTHING


def test_an_auto_delete_queue_goes_with_its_last_consumer(connect: Any) -> None:
    queue = Queue("mine", auto_delete=True)
    first, second = Inbox(connect(), queue), Inbox(connect(), queue)
    channel = connect().channel()

    first.consumer.cancel()
    assert channel._has_queue("mine")
    second.connection.release()

    assert not channel._has_queue("mine")


def test_topics_reach_the_queues_that_are_bound_to_them(connect: Any) -> None:
    exchange = Exchange("events", type="topic")
    some = Inbox(connect(), Queue("some", exchange, routing_key="task.#"))
    every = Inbox(connect(), Queue("every", exchange, routing_key="#"))
    producer = connect().Producer(exchange=exchange)

    producer.publish("task", routing_key="task.sent")
    producer.publish("worker", routing_key="worker.online")

    assert every.wait_for(2) == ["task", "worker"]
    assert some.wait_for(1) == ["task"]
    assert some.is_quiet()


def test_an_exchange_routes_for_those_who_did_not_declare_it(connect: Any) -> None:
    exchange = Exchange("events", type="topic")
    inbox = Inbox(connect(), Queue("all", exchange, routing_key="#"))

    connect().Producer(exchange=exchange, auto_declare=False).publish("x", routing_key="a.b")

    assert inbox.wait_for(1) == ["x"]


def test_a_broadcast_reaches_everybody(connect: Any) -> None:
    exchange = Exchange("all", type="fanout")
    inboxes = [Inbox(connect(), Queue(f"box-{n}", exchange, auto_delete=True)) for n in range(3)]

    connect().Producer(exchange=exchange).publish("hello")

    for inbox in inboxes:
        assert inbox.wait_for(1) == ["hello"]


def test_a_broadcast_to_nobody_is_not_kept(connect: Any, path: Path) -> None:
    connect().Producer(exchange=Exchange("all", type="fanout")).publish("hello")

    assert counts(path) == NOTHING


def test_an_unbound_queue_gets_nothing_more(connect: Any) -> None:
    exchange = Exchange("direct-one", type="direct")
    queue = Queue("bound", exchange, routing_key="key")
    inbox = Inbox(connect(), queue)
    producer = connect().Producer(exchange=exchange)
    producer.publish(1, routing_key="key")
    assert inbox.wait_for(1) == [1]

    queue(inbox.channel).unbind_from(exchange, routing_key="key")
    producer.publish(2, routing_key="key")

    assert inbox.is_quiet()


def test_a_batch_is_stored_as_one(connect: Any, path: Path) -> None:
    connection = connect()
    producer = connection.Producer()
    with producer.batch(max_size=1000):
        for number in range(300):
            producer.publish(number, routing_key=QUEUE, declare=[Queue(QUEUE)])
        assert counts(path)["messages"] == 0

    assert Inbox(connect()).wait_for(300) == [*range(300)]


def test_a_batch_that_is_given_up_leaves_nothing(connect: Any, path: Path) -> None:
    producer = connect().Producer()

    def fail_within_a_batch() -> None:
        with producer.batch(max_size=1000):
            producer.publish(1, routing_key=QUEUE)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_within_a_batch()

    assert counts(path) == NOTHING


def test_queues_take_turns(connect: Any) -> None:
    connection = connect()
    send(connection, *["a"] * 50, queue="a")
    send(connection, *["b"] * 50, queue="b")

    first = Inbox(connect(), "a", "b", prefetch=10)
    first.wait_for(10)
    first.ack_all()
    first.wait_for(20)

    assert {*first.bodies} == {"a", "b"}


def test_each_message_goes_to_one_of_many_consumers(connect: Any, path: Path) -> None:
    send(connect(), *range(400))
    seen: list[list[Any]] = [[], [], []]

    def consume(mine: list[Any]) -> None:
        inbox = Inbox(BrokerConnection(f"sqlite:///{path}"), prefetch=7)
        while True:
            try:
                inbox.connection.drain_events(timeout=1)
            except TimeoutError:
                break
            for message in inbox.messages:
                mine.append(message.payload)
                message.ack()
            inbox.messages.clear()
        inbox.connection.release()

    threads = [threading.Thread(target=consume, args=(mine,)) for mine in seen]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(chain.from_iterable(seen)) == [*range(400)]
    assert counts(path) == NOTHING


# -- the event loop


@pytest.fixture
def hub() -> Iterator[Hub]:
    hub = Hub(timer=Timer())
    yield hub
    hub.close()


def turn_until(hub: Hub, condition: Callable[[], Any]) -> None:
    loop = hub.create_loop()

    def turn() -> bool:
        next(loop)
        return bool(condition())

    wait_until(turn, "a turn of the loop", PATIENCE_S)


def test_an_event_loop_delivers_and_leaves_nothing_behind(
    connect: Any, hub: Hub, path: Path
) -> None:
    connection = connect()
    connection.connect()
    inbox = Inbox(connection, prefetch=4)
    connection.register_with_event_loop(hub)
    inbox.consumer.on_message = lambda message: (inbox.messages.append(message), message.ack())
    sender = connect()
    send(sender, *range(50))

    turn_until(hub, lambda: len(inbox.messages) == 50)
    turn_until(hub, lambda: counts(path) == NOTHING)
    send(sender, "more")
    turn_until(hub, lambda: len(inbox.messages) == 51)
    connection.release()

    assert not hub.on_tick
    assert not hub.readers
    assert all(entry.canceled for _, _, entry in hub.timer.queue)


def test_an_event_loop_is_woken_when_a_delayed_message_is_due(connect: Any, hub: Hub) -> None:
    connection = connect()
    connection.connect()
    inbox = Inbox(connection)
    connection.register_with_event_loop(hub)
    due = time.time() + 0.7
    came: list[float] = []
    inbox.consumer.on_message = lambda message: came.append(time.time())
    send(connect(), "late", headers={"eta": _iso(due)})

    turn_until(hub, lambda: came)

    assert 0 <= came[0] - due < 5


# -- those who die


CONSUMER = """
import sys
from kombu import Consumer, Queue
from celery._transport.connection import BrokerConnection
connection = BrokerConnection(sys.argv[1])
channel = connection.channel()
channel.basic_qos(0, int(sys.argv[2]), False)
def on_message(message):
    print(message.payload, flush=True)
with Consumer(channel, [Queue("work")], on_message=on_message):
    while True:
        connection.drain_events()
"""


def start_consumer(path: Path, prefetch: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CONSUMER, f"sqlite:///{path}", str(prefetch)],
        stdout=subprocess.PIPE,
        text=True,
    )


def test_what_a_killed_consumer_held_comes_back(connect: Any) -> None:
    send(connect(), 1, 2, 3)
    process = start_consumer(connect().connect().path, 2)
    assert process.stdout is not None
    assert [process.stdout.readline() for _ in range(2)] == ["1\n", "2\n"]
    inbox = Inbox(connect())
    assert inbox.wait_for(1) == [3]

    process.send_signal(signal.SIGKILL)
    process.wait()

    assert inbox.wait_for(3) == [3, 1, 2]
    process.stdout.close()


def test_a_frozen_consumer_keeps_what_it_holds(connect: Any, path: Path) -> None:
    send(connect(), 1)
    process = start_consumer(path, 1)
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGSTOP)
    try:
        connection = connect(claim_lease=0.2)
        inbox = Inbox(connection)
        keeper = connection.transport._keeper
        keeper.turn()
        assert inbox.is_quiet()
        assert counts(path)["claimed"] == 1
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_one_turn_forgets_as_much_as_a_busy_site_stores_meanwhile(connect: Any, path: Path) -> None:
    """Else the file would grow for as long as results come in faster than they are forgotten."""
    connection = connect()
    Inbox(connection)
    db = sqlite3.connect(path, isolation_level=None)
    db.executemany(
        "INSERT INTO results (key, value, expires) VALUES (?, x'', ?)",
        ((f"old-{number}", 1.0) for number in range(3 * CHUNK + 1)),
    )
    db.execute("INSERT INTO results (key, value, expires) VALUES ('new', x'', 1e12)")
    connection.transport._keeper.turn()

    assert db.execute("SELECT key FROM results").fetchall() == [("new",)]
    db.close()


def test_a_consumer_that_was_taken_for_dead_is_told(connect: Any, path: Path) -> None:
    connection = connect()
    inbox = Inbox(connection)
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("DELETE FROM owners")
    db.close()
    connection.transport._keeper.turn()
    send(connect(), 1)

    with pytest.raises(connection.connection_errors, match=r"taken|others have got"):
        inbox.wait_for(1)


def test_a_child_process_does_not_use_the_connection_of_its_parent(
    connect: Any, path: Path
) -> None:
    connection = connect()
    send(connection, "parent")
    with forked(lambda: send(connection, "child")):
        pass
    send(connection, "parent again")

    assert Inbox(connect()).wait_for(3) == ["parent", "child", "parent again"]


def test_a_child_inherits_nothing_that_another_thread_holds(path: Path) -> None:
    """SQLite's mutexes and its books of locks are copied by a fork as they are just then."""

    def write(store: Store) -> None:
        with store as db:
            db.execute("INSERT INTO results VALUES (1, '', 0) ON CONFLICT DO UPDATE SET expires=1")

    def keep_writing() -> None:
        store = Store(path)
        while not over.is_set():
            write(store)
        store.close()

    over = threading.Event()
    thread = threading.Thread(target=keep_writing)
    thread.start()
    try:
        for _ in range(50):
            with forked(lambda: write(Store(path))):
                pass
    finally:
        over.set()
        thread.join()


# -- the file


def test_a_file_of_another_program_is_refused(path: Path) -> None:
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE mine (a)")
    db.commit()
    db.close()

    with pytest.raises(StoreError, match=r"another program.*file of its own"):
        Store(path).read("SELECT 1")


def test_something_else_than_a_database_is_refused(path: Path) -> None:
    path.write_text("no database at all " * 100)

    with pytest.raises(StoreError, match="not a database"):
        Store(path).read("SELECT 1")


def test_a_file_of_a_later_version_is_refused(path: Path) -> None:
    Store(path).read("SELECT 1")
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 99")
    db.close()

    with pytest.raises(StoreError, match="later version"):
        Store(path).read("SELECT 1")


def test_a_full_disk_is_an_error_that_loses_nothing(connect: Any, path: Path) -> None:
    connection = connect()
    send(connection, "before")
    store = connection.transport.store
    store.read("PRAGMA max_page_count = 60")

    with pytest.raises(connection.connection_errors, match="disk is full"):
        send(connection, *["x" * 50_000] * 20)

    stored = counts(path)["messages"]
    store.read("PRAGMA max_page_count = 1000000")
    assert len(Inbox(connect()).wait_for(stored)) == stored
    send(connection, "after")


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_file_that_may_not_be_written_is_an_error(connect: Any, path: Path) -> None:
    connection = connect()
    send(connection, 1)
    path.chmod(stat.S_IRUSR)

    with pytest.raises(connection.connection_errors, match="read-only"):
        send(connect(), 2)


def test_a_read_only_file_is_an_error_that_says_what_to_do(connect: Any, path: Path) -> None:
    connection = connect()
    send(connection, 1)
    connection.transport.store.read("PRAGMA query_only = ON")

    with pytest.raises(connection.connection_errors, match=r"read-only.*right to write"):
        send(connection, 2)


def test_a_writer_that_never_ends_is_an_error_that_says_so(connect: Any, path: Path) -> None:
    send(connect(), 1)
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("BEGIN IMMEDIATE")
    connection = connect(busy_timeout=0.1)

    with pytest.raises(connection.connection_errors, match=r"locked for 0\.1 s"):
        send(connection, 2)

    db.execute("ROLLBACK")
    db.close()
    send(connection, 2)
    assert Inbox(connect()).wait_for(2) == [1, 2]


def test_a_file_that_was_replaced_is_opened_anew(connect: Any, path: Path) -> None:
    connection = connect()
    send(connection, "lost with the file")
    for name in (path, *path.parent.glob("broker.db-*")):
        name.unlink()

    send(connection, "kept")

    assert Inbox(connect()).wait_for(1) == ["kept"]


def test_memory_cannot_be_shared() -> None:
    with pytest.raises(ImproperlyConfigured, match="memory://"):
        BrokerConnection("sqlite:///:memory:").connect()


def test_the_default_file_is_in_the_state_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    with BrokerConnection("sqlite://") as connection:
        send(connection, 1)

    assert (tmp_path / "state" / "celery" / "celery.db").exists()


WRITER = """
import sys
from kombu import Queue
from celery._transport.connection import BrokerConnection
producer = BrokerConnection(sys.argv[1]).Producer()
number = 0
while True:
    producer.publish(number, routing_key="work", declare=[Queue("work")])
    print(number, flush=True)
    number += 1
"""


def test_the_file_stays_sound_when_writers_are_killed(connect: Any, path: Path) -> None:
    sent: set[tuple[int, int]] = set()
    for _ in range(5):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, f"sqlite:///{path}"], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(50)]
        process.kill()
        lines += process.stdout.read().splitlines()
        process.wait()
        process.stdout.close()
        sent |= {(process.pid, int(line)) for line in lines if line.strip().isdigit()}

    db = sqlite3.connect(path)
    assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    db.close()
    found = counts(path)
    # What was acknowledged to the writer is there; of each writer one more may be.
    assert len(sent) <= found["messages"] <= len(sent) + 5
    assert found["ready"] == found["messages"]


def test_the_file_does_not_grow_with_what_passed_through_it(connect: Any, path: Path) -> None:
    sender, inbox = connect(), Inbox(connect())
    sizes = []
    for _ in range(4):
        producer = sender.Producer()
        with producer.batch(max_size=500):
            for _ in range(500):
                producer.publish("x" * 500, routing_key=QUEUE, declare=[Queue(QUEUE)])
        inbox.wait_for(500)
        inbox.ack_all()
        inbox.messages.clear()
        assert inbox.is_quiet()
        sizes.append(path.stat().st_size)

    assert sizes[3] <= sizes[1] * 1.1


# -- the bell


def test_a_bell_is_heard_by_everybody_who_listens(tmp_path: Path) -> None:
    ringer, first, second = (Bell(tmp_path / "bell") for _ in range(3))
    assert first.listen() >= 0
    assert second.listen() >= 0

    ringer.ring()

    assert first.wait(PATIENCE_S)
    assert second.wait(PATIENCE_S)
    assert not first.wait(0)
    for bell in (ringer, first, second):
        bell.close()


def test_envelopes_are_json_that_other_programs_can_read(connect: Any, path: Path) -> None:
    send(connect(), {"a": 1}, headers={"task": "x"})
    db = sqlite3.connect(path)
    head, body = db.execute("SELECT head, body FROM messages").fetchone()
    db.close()

    assert json.loads(head)["headers"]["task"] == "x"
    assert json.loads(body) == {"a": 1}
