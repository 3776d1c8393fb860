"""Task messages straight into the frames of AMQP; see `celery._transport.outlet`."""

from __future__ import annotations

import select
from collections.abc import Callable, Sequence
from struct import Struct
from typing import Any

from amqp import spec
from amqp.exceptions import RecoverableConnectionError
from amqp.serialization import dumps

from celery._protocol.template import TableTemplate

__all__ = ("ANSWER_S", "AMQPOutlet")

#: Seconds within which the broker has to answer, or take what is written.
ANSWER_S = 10.0

#: Type, channel, size of a frame; what a frame ends with.
_FRAME = Struct(">BHI")
_END = b"\xce"
_METHOD, _HEADER, _BODY = 1, 2, 3
#: Begin of a content header: class, weight, size of the body.
_CONTENT = Struct(">HHQ")
_BASIC = spec.Basic.Publish[0]
#: Bytes of a frame that are not its content.
_OVERHEAD = 8


def _frame(kind: int, channel: int, content: bytes) -> bytes:
    return b"%b%b%b" % (_FRAME.pack(kind, channel, len(content)), content, _END)


class AMQPTemplate:
    """One ``basic.publish``.

    Args:
        channel: Its number.
        frame_max: Bytes of a frame at most.
        method: The method frame.
        properties: What goes into the header.
    """

    __slots__ = ("_channel", "_method", "_most", "_properties")

    def __init__(
        self, channel: int, frame_max: int, method: bytes, properties: TableTemplate
    ) -> None:
        self._channel = channel
        self._most = frame_max - _OVERHEAD
        self._method = method
        self._properties = properties

    def fill(self, values: Any, body: str) -> bytes:
        """Return the bytes to send for a message."""
        data = body.encode()
        size, most, channel = len(data), self._most, self._channel
        header = _CONTENT.pack(_BASIC, 0, size) + self._properties.fill(values)
        if size <= most:
            return b"%b%b%b%b%b%b%b" % (
                self._method,
                _FRAME.pack(_HEADER, channel, len(header)), header, _END,
                _FRAME.pack(_BODY, channel, size), data, _END,
            )  # fmt: skip
        frames = [self._method, _frame(_HEADER, channel, header)]
        frames += [
            _frame(_BODY, channel, data[start : start + most]) for start in range(0, size, most)
        ]
        return b"".join(frames)


class AMQPOutlet:
    """Sends through a channel of py-amqp, several messages with one write."""

    is_open = True

    def __init__(self, channel: Any) -> None:
        connection = channel.connection
        self.channel = channel
        self.key = ("amqp", channel.channel_id, connection.frame_max)
        self._has_news = _watch(connection)

    def template(self, message: Any, exchange: str, routing_key: str) -> AMQPTemplate:
        """Return how to write messages like *message*."""
        channel = self.channel
        arguments = dumps("Bssbb", (0, exchange, routing_key, False, False))
        class_id, method_id = spec.Basic.Publish
        method = class_id.to_bytes(2, "big") + method_id.to_bytes(2, "big") + arguments
        headers = dumps("F", [message.properties["application_headers"]])
        return AMQPTemplate(
            channel.channel_id,
            channel.connection.frame_max,
            _frame(_METHOD, channel.channel_id, method),
            TableTemplate(message._serialize_properties(), headers),
        )

    def send(self, messages: Sequence[bytes], confirm_timeout: float | None = None) -> None:
        """Send messages with one write; see `Outlet.send`.

        Raises:
            amqp.exceptions.RecoverableConnectionError: The connection is lost, or the broker
                does not read, or confirm, in time.
            amqp.exceptions.MessageNacked: The broker has refused a message.
            kombu.exceptions.OperationalError: The broker takes no messages for now.
        """
        connection = self.channel.connection
        if connection is not None and (connection.reader.has_data or self._has_news()):
            # An error that closes the channel, or a broker short of memory.
            connection = self._take_news(connection)
        if connection is None:
            raise RecoverableConnectionError("the channel is closed")
        channel = self.channel
        connection.check_takes_messages()
        channel.has_published = True
        if connection.confirm_publish and confirm_timeout is None:
            confirm_timeout = ANSWER_S
        if confirm_timeout is not None or channel.unconfirmed is not None:
            channel.expect_confirms(len(messages))
        try:
            connection.write(b"".join(messages))
        except (TimeoutError, BlockingIOError) as exc:
            raise connection.silent("read") from exc
        if confirm_timeout is not None:
            channel.wait_for_confirms(confirm_timeout)

    def _take_news(self, connection: Any) -> Any:
        """Read what the broker has to say; return the connection if the channel is still open."""
        try:
            while True:
                connection.drain_events(timeout=0)
        except TimeoutError:
            return self.channel.connection


def _watch(connection: Any) -> Callable[[], bool]:
    """Return what says whether there is something to read from the broker."""
    sock = connection.sock
    pending = getattr(sock, "pending", None)
    if not hasattr(select, "poll"):
        return lambda: True
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    look = poll.poll
    if pending is None:
        return lambda: bool(look(0))
    return lambda: bool(pending() or look(0))
