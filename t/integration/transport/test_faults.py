"""No message of the Redis transport is lost, whatever dies, and when."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
import redis
from kombu import Consumer, Queue
from kombu.exceptions import OperationalError

from celery._transport.connection import BrokerConnection
from t.harness.forks import forked
from t.harness.servers import RedisServer, wait_until
from t.integration.transport.consumer import QUEUE, ConsumerProcess

pytestmark = pytest.mark.redis

#: Rounds of what has to be repeated; the long run takes 50.
ROUNDS = int(os.environ.get("T_FAULT_ROUNDS", "6"))
PATIENCE_S = 60.0
LEASE_S = 1.0


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """A server that a test may break."""
    with RedisServer() as running:
        yield running


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """The file that consumers write to."""
    return tmp_path / "journal"


def send(url: str, *bodies: Any) -> None:
    with BrokerConnection(url) as connection:
        producer = connection.Producer()
        for body in bodies:
            producer.publish(body, routing_key=QUEUE)


def received(journal: Path) -> Counter[str]:
    return Counter(journal.read_text().split())


def wait_for_all(journal: Path, count: int, timeout_s: float = PATIENCE_S) -> Counter[str]:
    """Wait until bodies 0 to *count* - 1 were received, each once or more."""
    wanted = {str(n) for n in range(count)}
    wait_until(lambda: wanted <= received(journal).keys(), f"{count} messages", timeout_s)
    return received(journal)


def test_a_frozen_consumer_that_is_killed_loses_nothing(server: RedisServer, journal: Path) -> None:
    """B-BROK-006: Ours loses nothing, and does not wait for the visibility timeout."""
    for number in range(ROUNDS):
        with ConsumerProcess(server.url, journal, claim_lease=LEASE_S) as consumer:
            consumer.freeze()
            send(server.url, 2 * number, 2 * number + 1)

    with ConsumerProcess(server.url, journal, claim_lease=LEASE_S):
        counts = wait_for_all(journal, 2 * ROUNDS)
    assert max(counts.values()) == 1


def test_what_a_killed_consumer_held_comes_back_soon(server: RedisServer, journal: Path) -> None:
    send(server.url, *range(4))
    with ConsumerProcess(server.url, journal, mode="hold", claim_lease=LEASE_S):
        wait_for_all(journal, 4)
        # This one waits at the empty queue.
        ConsumerProcess(server.url, journal, claim_lease=LEASE_S).kill()
    with ConsumerProcess(server.url, journal, claim_lease=LEASE_S) as other:
        began = monotonic()
        wait_until(lambda: received(journal).total() == 8, "the second delivery", PATIENCE_S)
        assert monotonic() - began < 2 * LEASE_S + 30
        other.stop()

    assert set(received(journal).values()) == {2}
    with redis.Redis.from_url(server.url) as store:
        assert store.exists("unacked", "unacked_index", QUEUE) == 0


def test_the_default_lease_brings_messages_back_within_fifteen_seconds(
    server: RedisServer, journal: Path
) -> None:
    send(server.url, 0)
    with (
        ConsumerProcess(server.url, journal, mode="hold"),
        ConsumerProcess(server.url, journal),
    ):
        wait_until(lambda: received(journal).total() == 1, "the delivery", PATIENCE_S)
    began = monotonic()
    with ConsumerProcess(server.url, journal):
        wait_until(lambda: received(journal).total() == 2, "the second delivery", PATIENCE_S)
    assert monotonic() - began < 60.0


def test_a_consumer_of_kombu_gets_what_a_killed_one_of_ours_held(
    server: RedisServer, journal: Path
) -> None:
    send(server.url, *range(3))
    with ConsumerProcess(server.url, journal, mode="hold", claim_lease=LEASE_S):
        wait_for_all(journal, 3)

    options = {
        "visibility_timeout": 1, "unacked_restore_interval": 1, "unacked_restore_throttle": 1,
    }  # fmt: skip
    with ConsumerProcess(server.url, journal, kind="kombu", **options):
        wait_until(lambda: received(journal).total() == 6, "the second delivery", PATIENCE_S)
    assert set(received(journal).values()) == {2}


def test_a_message_held_for_longer_than_the_visibility_timeout_comes_once(
    server: RedisServer, journal: Path
) -> None:
    timeouts = {
        "visibility_timeout": 2, "unacked_restore_interval": 1, "unacked_restore_throttle": 1,
    }  # fmt: skip
    send(server.url, *range(4))
    with (
        ConsumerProcess(server.url, journal, mode="hold", **timeouts),
        redis.Redis.from_url(server.url) as store,
    ):
        wait_for_all(journal, 4)
        with (
            ConsumerProcess(server.url, journal, kind="kombu", **timeouts),
            ConsumerProcess(server.url, journal, **timeouts),
        ):
            first = min(score for _, score in store.zrange("unacked_index", 0, -1, withscores=True))

            def were_renewed_for_long() -> bool:
                found = store.zrange("unacked_index", 0, -1, withscores=True)
                return min(score for _, score in found) > first + 3 * 2

            wait_until(were_renewed_for_long, "three visibility timeouts", PATIENCE_S)
    assert set(received(journal).values()) == {1}


def test_a_consumer_that_slept_too_long_gets_no_more_under_its_old_lease(
    server: RedisServer, journal: Path
) -> None:
    send(server.url, *range(4))
    with ConsumerProcess(server.url, journal, mode="hold", claim_lease=LEASE_S) as sleeper:
        wait_for_all(journal, 4)
        sleeper.freeze()
        with ConsumerProcess(server.url, journal, claim_lease=LEASE_S) as other:
            wait_until(lambda: received(journal).total() == 8, "the other", PATIENCE_S)
            sleeper.thaw()
            # It ends with the error that makes a worker connect again.
            assert sleeper.process.wait(PATIENCE_S) != 0
            other.stop()
    with redis.Redis.from_url(server.url) as store:
        assert store.exists("unacked", "unacked_index", QUEUE) == 0


def consume(connection: Any, got: list[Any], count: int) -> None:
    """Consume as a worker does, with a new connection after each loss, until *count* came."""
    end = monotonic() + PATIENCE_S
    while len(got) < count:
        assert monotonic() < end, f"{len(got)} of {count}"
        try:
            connection.ensure_connection(max_retries=100, interval_start=0.05, interval_step=0)
            channel = connection.default_channel
            channel.basic_qos(0, 4, False)

            def on_message(message: Any) -> None:
                got.append(message.payload)
                message.ack()

            with Consumer(channel, [Queue(QUEUE)], on_message=on_message):
                while len(got) < count:
                    with suppress(TimeoutError):
                        connection.drain_events(timeout=0.5)
        except connection.connection_errors:
            connection.close()


def test_consuming_goes_on_after_killed_connections(server: RedisServer) -> None:
    got: list[Any] = []
    with BrokerConnection(server.url) as connection:
        for number in range(5):
            send(server.url, number)
            consume(connection, got, number + 1)
            server.disconnect_clients()
    assert got == [0, 1, 2, 3, 4]


def test_consuming_goes_on_after_a_restart_of_the_server(server: RedisServer) -> None:
    got: list[Any] = []
    with BrokerConnection(server.url) as connection:
        for number in range(2):
            send(server.url, number)
            consume(connection, got, number + 1)
            server.kill()
            server.start()
        send(server.url, 2)
        consume(connection, got, 3)
    assert got == [0, 1, 2]


def test_a_pause_of_the_server_loses_nothing(server: RedisServer) -> None:
    got: list[Any] = []
    with (
        BrokerConnection(server.url, transport_options={"socket_timeout": 2}) as connection,
        redis.Redis.from_url(server.url) as store,
    ):
        send(server.url, 0)
        consume(connection, got, 1)
        store.execute_command("CLIENT", "PAUSE", 1500, "ALL")
        thread = threading.Thread(target=send, args=(server.url, 1, 2))
        thread.start()
        consume(connection, got, 3)
        thread.join()
    assert got == [0, 1, 2]


def test_publishing_to_a_silent_server_ends_with_an_error_that_names_it(
    server: RedisServer,
) -> None:
    url = server.url.replace("redis://", "redis://:hidden@")
    options = {"socket_timeout": 0.5, "socket_connect_timeout": 0.5}
    with BrokerConnection(server.url, transport_options=options) as connection:
        producer = connection.Producer()
        producer.publish(0, routing_key=QUEUE)
        with server.frozen():
            began = monotonic()
            with pytest.raises(OperationalError, match=f"127.0.0.1:{server.port}"):
                producer.publish(
                    1,
                    routing_key=QUEUE,
                    retry=True,
                    retry_policy={"max_retries": 1, "interval_start": 0},
                )
            assert monotonic() - began < 60
            with (
                BrokerConnection(url, transport_options=options) as fresh,
                pytest.raises(OperationalError, match=f"127.0.0.1:{server.port}") as caught,
            ):
                fresh.ensure_connection(max_retries=1, interval_start=0)
    assert "hidden" not in str(caught.value)


def test_a_fork_gets_a_connection_of_its_own(server: RedisServer) -> None:
    with BrokerConnection(server.url) as connection, redis.Redis.from_url(server.url) as store:
        producer = connection.Producer()
        producer.publish("parent", routing_key=QUEUE)

        def live() -> None:
            for _ in range(100):
                producer.publish("child", routing_key=QUEUE)

        with forked(live):
            for _ in range(100):
                producer.publish("parent", routing_key=QUEUE)
        assert store.llen(QUEUE) == 201
