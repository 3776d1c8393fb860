"""What a channel is subscribed to, over a pair of sockets."""

from __future__ import annotations

import json
import logging
import socket
from types import SimpleNamespace
from typing import Any

import pytest
from redis import exceptions

from celery._transport._redis_broadcasts import Subscriptions
from celery._transport._redis_link import Link, pack

TOPIC = "/0.news/a.b"


class Made:
    """Stands for a connection of redis-py, over one end of a pair of sockets."""

    def __init__(self) -> None:
        self._sock, self.far = socket.socketpair()
        self.far.settimeout(30.0)

    def connect(self) -> None:
        pass

    def disconnect(self) -> None:
        self._sock.close()


class Channel:
    """As much of a channel as is asked for; listens to one topic for each of its queues."""

    global_keyprefix = "app1."
    health_check_interval = 25

    def __init__(self) -> None:
        self.made: list[Made] = []
        self.room = 1000
        self.qos = SimpleNamespace(can_consume=lambda: self.room > 0)
        self.connection = SimpleNamespace(_deliver=self._deliver)
        self.active_fanout_queues = {"news.q"}
        self._fanout_to_queue = {"news": "news.q"}
        self.got: list[Any] = []
        self.subscriptions = Subscriptions(self)

    def new_link(self) -> Link:
        def make() -> Made:
            self.made.append(Made())
            return self.made[-1]

        return Link(make, 10.0, "redis://h//")

    def full_key(self, key: str) -> str:
        return self.global_keyprefix + key

    def _get_subscribe_topics(self, queue: str) -> list[str]:
        return [TOPIC]

    def _deliver(self, payload: Any, queue: str) -> None:
        self.room -= 1
        self.got.append((payload["body"], queue))

    # -- the server

    def asked(self) -> bytes:
        """What the server was sent on the latest connection."""
        return self.made[-1].far.recv(1000)

    def push(self, *bodies: Any, topic: str = TOPIC) -> None:
        """Have the server send messages at once."""
        texts = [json.dumps({"body": body, "properties": {}}) for body in bodies]
        self.push_raw(*texts, topic=topic)

    def push_raw(self, *texts: str, topic: str = TOPIC) -> None:
        key = f"app1.{topic}"
        self.made[-1].far.sendall(b"".join(pack("pmessage", key, key, text) for text in texts))


@pytest.fixture
def channel() -> Channel:
    found = Channel()
    found.subscriptions.pump()
    assert found.asked() == pack("PSUBSCRIBE", f"app1.{TOPIC}")
    return found


def test_what_has_come_is_handed_out_after_one_read(channel: Channel) -> None:
    channel.push(1, 2, 3)

    assert channel.subscriptions.on_readable() is True
    assert channel.got == [(1, "news.q"), (2, "news.q"), (3, "news.q")]


def test_a_subscription_is_sent_once(channel: Channel) -> None:
    subscriptions = channel.subscriptions
    subscriptions.pump()
    subscriptions.is_current = False
    subscriptions.pump()
    channel.active_fanout_queues.clear()
    subscriptions.drop()

    assert channel.asked() == pack("PUNSUBSCRIBE", f"app1.{TOPIC}")


def test_what_the_prefetch_limit_has_no_room_for_waits(channel: Channel) -> None:
    subscriptions = channel.subscriptions
    assert [*subscriptions.watches()]
    channel.room = 1
    channel.push(1, 2)

    subscriptions.on_readable()
    assert channel.got == [(1, "news.q")]
    assert subscriptions.watches_changed
    assert subscriptions.watches() == {}

    channel.room = 5
    subscriptions.pump()
    assert channel.got == [(1, "news.q"), (2, "news.q")]
    assert subscriptions.watches_changed
    assert [*subscriptions.watches()]


def test_what_is_for_nobody_or_no_message_is_left_out(
    channel: Channel, caplog: pytest.LogCaptureFixture
) -> None:
    channel.push("cancelled", topic="/0.other/x")
    channel.push_raw("nonsense", "[]", "{}")
    channel.push("good")

    with caplog.at_level(logging.WARNING):
        assert channel.subscriptions.on_readable() is True
    assert channel.got == [("good", "news.q")]
    assert caplog.text.count("no message, on the topic 'news/a.b'") == 3


def test_a_lost_connection_is_made_anew(channel: Channel) -> None:
    subscriptions = channel.subscriptions
    channel.push(1)
    subscriptions.on_readable()
    channel.made[-1].far.close()

    assert subscriptions.on_readable() is False
    subscriptions.pump()

    assert len(channel.made) == 2
    assert channel.asked() == pack("PSUBSCRIBE", f"app1.{TOPIC}")
    channel.push(2)
    subscriptions.on_readable()
    assert channel.got == [(1, "news.q"), (2, "news.q")]


def test_a_connection_that_ends_at_once_is_an_error(channel: Channel) -> None:
    channel.made[-1].far.close()

    with pytest.raises(exceptions.ConnectionError, match="redis://h//"):
        channel.subscriptions.on_readable()


def test_a_refused_subscription_is_an_error(channel: Channel) -> None:
    channel.made[-1].far.sendall(b"-NOPERM no channels for you\r\n")

    with pytest.raises(exceptions.NoPermissionError):
        channel.subscriptions.on_readable()


def test_a_server_that_answers_no_ping_is_given_up(channel: Channel) -> None:
    subscriptions = channel.subscriptions
    channel.push(1)
    subscriptions.on_readable()
    now = subscriptions._heard_at

    subscriptions.check_health(now + 24)
    subscriptions.check_health(now + 26)
    subscriptions.check_health(now + 30)
    assert channel.asked() == pack("PING")
    channel.made[-1].far.sendall(b"*2\r\n$4\r\npong\r\n$0\r\n\r\n")
    assert subscriptions.on_readable() is False
    now = subscriptions._heard_at

    subscriptions.check_health(now + 26)
    subscriptions.check_health(now + 35)
    assert subscriptions.link.is_connected
    subscriptions.check_health(now + 37)
    assert not subscriptions.link.is_connected
    subscriptions.pump()
    assert len(channel.made) == 2
