"""Task messages straight into the lists of Redis; see `celery._transport.outlet`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from celery._protocol.template import MARKS, JSONTemplate, Unfit
from celery._transport._redis_message import encode_envelope, next_tag, to_base64

if TYPE_CHECKING:
    from celery._transport.redis import Channel

__all__ = ("RedisOutlet",)


#: How envelopes begin.
_LEAD = '{"body": '


class RedisTemplate:
    """One ``LPUSH``.

    Args:
        head: The packed key of the list.
        envelope: The message with marks.
    """

    __slots__ = ("_head", "_others")

    def __init__(self, head: bytes, envelope: str) -> None:
        lead, _, others = envelope.partition(f'"{MARKS.body}"')
        if lead != _LEAD:
            raise Unfit("an envelope that does not begin with its body")
        self._head = b"*3\r\n$5\r\nLPUSH\r\n%b" % head
        self._others = JSONTemplate(others)

    def fill(self, values: Any, body: str) -> bytes:
        """Return the bytes to send for a message."""
        encoded = to_base64(body.encode())
        others = self._others.fill(values, "null", f'"{next_tag()}"').encode()
        size = len(_LEAD) + 2 + len(encoded) + len(others)
        # A body may be long, so it is copied once.
        return b'%b$%d\r\n{"body": "%b"%b\r\n' % (self._head, size, encoded, others)


class RedisOutlet:
    """Sends through the connection for commands of a channel."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.link = channel.desk
        self.key = (
            type(channel),
            channel.global_keyprefix,
            tuple(channel.priority_steps),
            channel.sep,
            channel.body_encoding,
        )

    @property
    def is_open(self) -> bool:
        """Whether nobody collects what is published through the channel."""
        return self.channel.collector is None

    def template(self, message: Any, exchange: str, routing_key: str) -> RedisTemplate:
        """Return how to write messages like *message*; exchanges are left to the channel."""
        channel = self.channel
        expires = channel._expires
        if exchange or (expires and routing_key in expires):
            raise Unfit("more than one list")
        channel._inplace_augment_message(message, exchange, routing_key)
        properties = message["properties"]
        if properties["body_encoding"] != "base64":
            raise Unfit("an encoding of bodies that is not the default")
        message["body"] = MARKS.body
        properties["delivery_tag"] = MARKS.tag
        head = channel.key_head(routing_key, message)
        return RedisTemplate(head, encode_envelope(message))

    def send(self, messages: Sequence[bytes], confirm_timeout: float | None = None) -> None:
        """Send messages with one write, and wait until the server has them."""
        self.link.call(b"".join(messages), len(messages))
