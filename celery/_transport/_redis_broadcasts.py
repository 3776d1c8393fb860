"""Broadcasts of the Redis transport: the topics that one channel listens to.

Each worker hears the heartbeats of all others, so one message must cost little: whatever has
come is taken with one read, and goes from there to its consumer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Any

from redis import exceptions

from celery._transport._redis_link import Link, pack
from celery._transport._redis_message import decode_envelope
from celery.utils.log import get_logger

__all__ = ("Subscriptions",)

logger = get_logger(__name__)


class Subscriptions:
    """What a channel is subscribed to, on a connection that has no other use.

    Args:
        channel: The `celery._transport.redis.Channel`.
    """

    def __init__(self, channel: Any) -> None:
        self.channel = channel
        self.link: Link = channel.new_link()
        self.watches_changed = True
        #: Whether the server knows what the channel wants; new consumers set it to False.
        self.is_current = False
        #: Topics that the server was asked for on this connection.
        self._asked: set[str] = set()
        #: Topic and text of messages for which the prefetch limit had no room.
        self._waiting: deque[tuple[bytes, bytes]] = deque()
        self._is_full = False
        self._heard_at = 0.0
        #: When the server was asked for a sign of life; 0.0 while it owes none.
        self._pinged_at = 0.0

    # -- turns of the loop

    def pump(self) -> None:
        """Subscribe to what is wanted, and hand out what had to wait.

        Raises:
            redis.exceptions.ConnectionError: The server can't be reached.
            redis.exceptions.TimeoutError: It does not answer.
        """
        if self._waiting:
            self.deliver()
        if self.is_current and self.link.is_connected:
            return
        if not self.link.is_connected:
            self._asked = set()
            self.link.connect()
            self._heard_at = self._pinged_at = 0.0
            self.watches_changed = True
        self._follow()

    def _follow(self) -> None:
        wanted = {
            topic
            for queue in self.channel.active_fanout_queues
            for topic in self.channel._get_subscribe_topics(queue)
        }
        data = b""
        for command, topics in (
            ("PSUBSCRIBE", wanted - self._asked),
            ("PUNSUBSCRIBE", self._asked - wanted),
        ):
            if topics:
                data += pack(command, *map(self.channel.full_key, sorted(topics)))
        if data:
            self.link.send(data)
        self._asked, self.is_current = wanted, True

    def drop(self) -> None:
        """Unsubscribe from what is no longer wanted; harmless without a connection."""
        if self.link.is_connected:
            with suppress(exceptions.ConnectionError, exceptions.TimeoutError):
                self._follow()

    def watches(self) -> dict[int, Callable[[], Any]]:
        """Return the descriptor to be polled, with what to call when it is readable."""
        self.watches_changed = False
        if self._is_full or self.link.sock is None:
            return {}
        return {self.link.fileno(): self.on_readable}

    def on_readable(self) -> bool:
        """Read all that has come, and hand it out; True if there was a message among it.

        Raises:
            redis.exceptions.ConnectionError: The connection was lost before it was of any use.
            redis.exceptions.ResponseError: The server refuses the subscription.
        """
        if self.link.sock is None:
            return False
        try:
            replies = self.link.receive()
        except exceptions.ConnectionError as exc:
            self.watches_changed = True
            if not self._heard_at:
                raise
            logger.info("Subscribing to broadcasts anew: %s", exc)
            return False
        self._heard_at, self._pinged_at = monotonic(), 0.0
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
            if isinstance(reply, list) and reply[0] == b"pmessage":
                self._waiting.append((reply[2], reply[3]))
        return self.deliver()

    def deliver(self) -> bool:
        """Hand out messages while the prefetch limit allows; True if there were any."""
        waiting, may_go_on = self._waiting, self.channel.qos.can_consume
        delivered = False
        while waiting and may_go_on():
            delivered = self._hand_out(*waiting.popleft()) or delivered
        # While some wait no more are read: the server keeps them, or gives us up.
        if bool(waiting) is not self._is_full:
            self._is_full = not self._is_full
            self.watches_changed = True
        return delivered

    def _hand_out(self, topic: bytes, text: bytes) -> bool:
        channel = self.channel
        name = topic.decode().removeprefix(channel.global_keyprefix)
        if name.startswith("/"):
            # The number of the database.
            name = name.partition(".")[2]
        queue = channel._fanout_to_queue.get(name.partition("/")[0])
        if queue is None:
            # Cancelled while it was on its way.
            return False
        try:
            payload = decode_envelope(text)
        except ValueError as exc:
            logger.warning("Ignoring what is no message, on the topic %r: %s", name, exc)
            return False
        channel.connection._deliver(payload, queue)
        return True

    def check_health(self, now: float) -> None:
        """Ask a silent server for a sign of life, and give up the connection where none comes."""
        interval = self.channel.health_check_interval
        if not interval or self._is_full or not self.link.is_connected:
            return
        if self._pinged_at:
            patience = self.link.timeout_s or interval
            if now - self._pinged_at > patience and self.link.is_silent():
                logger.warning("No answer of %s to a ping; subscribing anew", self.link.broker)
                self.link.disconnect()
                self.watches_changed = True
        elif self._heard_at and now - self._heard_at > interval:
            self._pinged_at = now
            self.link.send(pack("PING"))

    def close(self) -> None:
        """Close the connection; harmless twice."""
        self.link.disconnect()
