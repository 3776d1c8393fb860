"""The AMQP transport: kombu's over py-amqp, with the hot path rewritten.

Messages are read from large chunks by `celery._transport._amqp_reader`; acknowledgements are
collected by `celery._transport._amqp_deliveries` and written together. Everything else, from
the handshake to declarations, errors and heartbeats, is py-amqp's, which is given its frames
whole. Why it is so: ``docs/internals/decisions/0004-amqp-transport.rst``.
"""

from __future__ import annotations

import errno
import socket
import ssl
import threading
from typing import Any

from amqp import spec
from amqp.exceptions import PreconditionFailed, RecoverableConnectionError, UnexpectedFrame
from amqp.method_framing import frame_handler

from celery._transport._amqp_deliveries import Deliveries
from celery._transport._amqp_publishing import PatientChannel, PatientConnection, named
from celery._transport._amqp_reader import Reader
from celery._transport._pyamqp import (
    KombuChannel,
    KombuConnection,
    KombuMessage,
    KombuTlsTransport,
    KombuTransport,
    TcpSocket,
    TlsSocket,
)
from celery.utils.log import get_logger

__all__ = ("Channel", "Connection", "SSLTransport", "Transport")

logger = get_logger(__name__)

#: Bytes asked for with one read. More than a record of TLS has (16 KiB): what is left of one is
#: not seen by a poll.
READ_SIZE = 1 << 18

#: Errors of a read or write that mean "not now".
NOT_NOW = {errno.EAGAIN, errno.EWOULDBLOCK, errno.EINTR, errno.ENOENT}

#: What RabbitMQ says when a message was held for longer than its ``consumer_timeout``.
TOO_LATE = "delivery acknowledgement on channel"

DONT_WAIT: int = getattr(socket, "MSG_DONTWAIT", 0)


class Message(KombuMessage):  # type: ignore[misc]  # kombu's, untyped
    """A message that was delivered to a consumer.

    Args:
        deliveries: What notes that it is settled; None when nothing has to.
        error: Why the properties can't be read, as of ``sys.exc_info``.
    """

    # Read for every message; the base class makes a list of it.
    errors: Any = ()

    def __init__(
        self,
        channel: Channel,
        deliveries: Deliveries | None,
        properties: dict[str, Any],
        body: bytes,
        delivery_info: dict[str, Any],
        error: Any = None,
    ) -> None:
        headers = properties.get("application_headers") or {}
        self.channel = channel
        self.delivery_tag = delivery_info["delivery_tag"]
        self.delivery_info = delivery_info
        self.properties = properties
        self.headers = headers
        self.content_type = properties.get("content_type")
        self.content_encoding = encoding = properties.get("content_encoding")
        self.accept = None
        self.body: Any = body
        self._decoded_cache = None
        self._state = "RECEIVED"
        self._deliveries = deliveries
        if error is not None:
            self.errors = [error]
        elif "compression" in headers:
            self._unpack()
        elif encoding is not None and channel.auto_decode:
            try:
                self.body = body.decode(encoding)
            except (LookupError, ValueError, TypeError):
                return  # as binary as it came

    def _unpack(self) -> None:
        self.errors = []
        # Unpacking, and what becomes of errors in it, are kombu's.
        super(KombuMessage, self).__init__(
            body=self.body,
            channel=self.channel,
            delivery_tag=self.delivery_tag,
            content_type=self.content_type,
            content_encoding=self.content_encoding,
            delivery_info=self.delivery_info,
            properties=self.properties,
            headers=self.headers,
        )

    def ack(self, multiple: bool = False) -> None:
        """Acknowledge: the message is done."""
        deliveries = self._deliveries
        if deliveries is None:
            return
        if self._state != "RECEIVED":
            raise self.MessageStateError(f"Message already acknowledged with state: {self._state}")
        self.channel.settle(deliveries, self.delivery_tag, multiple)
        self._state = "ACK"

    def reject(self, requeue: bool = False) -> None:
        """Have the message discarded, or delivered again."""
        self._check()
        super().reject(requeue)

    def requeue(self) -> None:
        """Have the message delivered again."""
        self._check()
        super().requeue()

    def _check(self) -> None:
        if self._deliveries is not None and self.channel is not None:
            self.channel.check_current(self._deliveries)


class Channel(PatientChannel, KombuChannel):  # type: ignore[misc]  # kombu's, untyped
    """A channel of `Connection`."""

    deliveries: Deliveries

    def __init__(self, connection: Any, *args: Any, **kwargs: Any) -> None:
        #: Whether the ``basic.get`` that is under way settles by itself.
        self._gets_settled = False
        super().__init__(connection, *args, **kwargs)
        self.deliveries = Deliveries(self.channel_id)

    def _setup_listeners(self) -> None:
        super()._setup_listeners()
        self._callbacks[spec.Basic.GetOk] = self._on_got

    # -- receiving

    def on_message(
        self,
        consumer_tag: str,
        delivery_tag: int,
        redelivered: int,
        exchange: str,
        routing_key: str,
        properties: dict[str, Any],
        body: bytes,
        error: Any,
    ) -> None:
        """Deliver a message to its consumer."""
        if self.is_closing:
            # It goes back to its queue.
            return
        deliveries: Deliveries | None = None
        if consumer_tag not in self.no_ack_consumers:
            deliveries = self.deliveries
            deliveries.add(delivery_tag)
        callback = self.callbacks.get(consumer_tag)
        if callback is None:
            logger.warning(
                "Message %s was delivered to %r, which does not consume: it goes back",
                delivery_tag, consumer_tag,
            )  # fmt: skip
            self.basic_reject(delivery_tag, requeue=True)
            return
        callback(
            Message(
                self,
                deliveries,
                properties,
                body,
                {
                    "consumer_tag": consumer_tag,
                    "delivery_tag": delivery_tag,
                    "redelivered": redelivered == 1,
                    "exchange": exchange,
                    "routing_key": routing_key,
                },
                error,
            )
        )

    def message_to_python(self, raw_message: Any) -> Any:
        """Return what consumers are given for what was delivered."""
        if type(raw_message) is Message:
            return raw_message
        return super().message_to_python(raw_message)

    def basic_qos(
        self, prefetch_size: int, prefetch_count: int, a_global: bool, argsig: str = "lBb"
    ) -> Any:
        """Say how many messages may be sent ahead; in an event loop without waiting for an answer.

        The server works on what a channel sends in order, so an answer would tell nothing. Waiting
        for it held thousands of tasks up whose ETA has each of them raise the count.
        """
        if self.connection is None or not self.connection.turns:
            return super().basic_qos(prefetch_size, prefetch_count, a_global, argsig)
        arguments = (prefetch_size, prefetch_count, a_global)
        return self.send_method(spec.Basic.Qos, argsig, arguments)

    def basic_get(self, queue: str = "", no_ack: bool = False, **kwargs: Any) -> Any:
        """Return the next message of *queue*, None when it is empty."""
        self._gets_settled = no_ack
        return super().basic_get(queue, no_ack, **kwargs)

    def _on_got(self, delivery_tag: int, *args: Any) -> None:
        if not self._gets_settled:
            self.deliveries.add(delivery_tag)

    # -- settling

    def settle(self, deliveries: Deliveries, tag: int, multiple: bool = False) -> None:
        """Acknowledge a message, with the turn of an event loop, without one at once.

        Raises:
            RecoverableConnectionError: It was delivered on a channel that is closed. The server
                delivers it again.
        """
        self.check_current(deliveries)
        if multiple or tag not in deliveries.outstanding:
            # What we know nothing of goes there too: the server says what is wrong.
            self.flush()
            deliveries.forget(tag, multiple)
            super().basic_ack(tag, multiple=multiple)
            return
        del deliveries.outstanding[tag]
        deliveries.due.append(tag)
        if self.connection.turns:
            if len(deliveries.due) == 1:
                self.connection.due.append(self)
        else:
            self.flush()

    def check_current(self, deliveries: Deliveries) -> None:
        """Raise for messages that were delivered before the channel was closed.

        If it was opened again, their tags may stand for other messages by now.
        """
        if deliveries is not self.deliveries or self.connection is None:
            raise RecoverableConnectionError("the channel that delivered the message was closed")

    def flush(self) -> None:
        """Write the acknowledgements that are due."""
        if self.deliveries.due:
            self.connection.write(self.deliveries.take_due())

    def settle_now(self) -> None:
        """Have the server told of all that is acknowledged, before the turn of the loop ends."""
        self.flush()

    def send_method(self, *args: Any, **kwargs: Any) -> Any:
        """Send a method, after the acknowledgements that are due."""
        deliveries = self.deliveries
        if deliveries.due and self.connection is not None:
            self.connection.write(deliveries.take_due())
        return super().send_method(*args, **kwargs)

    def basic_ack(self, delivery_tag: int, multiple: bool = False, **kwargs: Any) -> None:
        """Acknowledge a message, or all up to it."""
        self.settle(self.deliveries, delivery_tag, multiple)

    def basic_reject(self, delivery_tag: int, requeue: bool, **kwargs: Any) -> Any:
        """Have a message discarded, or delivered again."""
        # First, as acknowledgements that speak for several rely on what is outstanding.
        self.flush()
        self.deliveries.forget(delivery_tag)
        return super().basic_reject(delivery_tag, requeue, **kwargs)

    def basic_recover(self, requeue: bool = False) -> Any:
        """Have everything delivered again that is not settled."""
        result = super().basic_recover(requeue)
        self.deliveries.forget(0, multiple=True)
        return result

    # -- the end

    def _on_close(self, reply_code: int, reply_text: str, class_id: int, method_id: int) -> None:
        try:
            super()._on_close(reply_code, reply_text, class_id, method_id)
        except PreconditionFailed as exc:
            if TOO_LATE not in reply_text:
                raise
            # Nothing is wrong but that a task takes its time. All that was delivered is given
            # back, so a consumer has to begin anew, as with a lost connection.
            raise RecoverableConnectionError(
                reply_text, (class_id, method_id), reply_code=reply_code
            ) from exc

    def _do_revive(self) -> None:
        self.deliveries = Deliveries(self.channel_id)
        super()._do_revive()

    def collect(self) -> None:
        """Forget the channel once the server has closed it."""
        super().collect()
        self.deliveries = Deliveries(0)


def _new_frame_handler(connection: Connection, callback: Any) -> Any:
    """Return py-amqp's function for whole frames; the socket is connected by now."""
    connection.on_connected()
    return frame_handler(connection, callback)


class Connection(PatientConnection, KombuConnection):  # type: ignore[misc]  # kombu's, untyped
    """A connection of `Transport`."""

    Channel = Channel

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        #: Channels with acknowledgements to be written.
        self.due: list[Channel] = []
        #: The event loop that reads us; None without.
        self.hub: Any = None
        #: Whether that loop has begun: it will write what is due before it waits.
        self.turns = False
        self.reader = Reader(self._on_message, self._on_frame)
        self._buffer: memoryview | None = None
        #: Whether one read can be told not to wait, without further system calls.
        self._is_plain = False
        kwargs["frame_handler"] = _new_frame_handler
        super().__init__(*args, **kwargs)

    def Transport(
        self,
        host: Any,
        connect_timeout: Any,
        ssl: Any = False,
        read_timeout: Any = None,
        write_timeout: Any = None,
        socket_settings: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Return the socket to be, with its settings."""
        return (_TlsSocket if ssl else _TcpSocket)(
            host,
            connect_timeout=connect_timeout,
            ssl=ssl,
            read_timeout=read_timeout,
            write_timeout=write_timeout,
            socket_settings=socket_settings,
            **kwargs,
        )

    def on_connected(self) -> None:
        """Begin to read a new socket."""
        super().on_connected()
        self.reader = Reader(self._on_message, self._on_frame)
        # Those of gevent and eventlet wait in spite of it, those of TLS refuse it.
        self._is_plain = type(self.sock).__module__ == "socket"

    # -- reading

    def _on_message(self, channel_id: int, *message: Any) -> None:
        channels = self.channels
        if channels is None:
            raise RecoverableConnectionError("Connection already closed")
        channel = channels.get(channel_id)
        if channel is None:
            raise UnexpectedFrame(f"A message came on channel {channel_id}, which is not open")
        channel.on_message(*message)

    def _on_frame(self, frame: tuple[int, int, bytes]) -> Any:
        return self._on_inbound_frame(frame)

    def drain_events(self, timeout: float | None = None) -> None:
        """Wait for one event from the server.

        Raises:
            TimeoutError: There was none within *timeout* seconds.
        """
        step = self.reader.step
        while not step():
            if self.due:
                self.flush()
            self._read(timeout)
            step = self.reader.step

    def blocking_read(self, timeout: float | None = None) -> bool:
        """Read once, and say whether that brought an event."""
        if not self.reader.has_data:
            self._read(timeout)
        return self.reader.step()

    def _read(self, timeout: float | None) -> None:
        """Read once from the socket; as `drain_events`."""
        transport = self.transport
        sock = transport.sock
        buffer = self._buffer
        if buffer is None:
            buffer = self._buffer = memoryview(bytearray(READ_SIZE))
        try:
            if sock is None:
                raise RecoverableConnectionError("Socket was disconnected")
            if timeout is None:
                size = sock.recv_into(buffer)
            elif not timeout and self._is_plain:
                size = sock.recv_into(buffer, 0, DONT_WAIT)
            else:
                with transport.having_timeout(timeout):
                    size = sock.recv_into(buffer)
        except (TimeoutError, BlockingIOError, ssl.SSLWantReadError) as exc:
            raise TimeoutError("timed out") from exc
        except OSError as exc:
            if exc.errno in NOT_NOW or "timed out" in str(exc):
                raise TimeoutError("timed out") from exc
            transport.connected = False
            raise
        if not size:
            transport.connected = False
            raise OSError("Server unexpectedly closed connection")
        self.reader.feed(bytes(buffer[:size]))
        self.bytes_recv += 1

    # -- in an event loop

    def join(self, hub: Any) -> None:
        """Let *hub* read, and write what is due, from now on."""
        self.hub = hub
        hub.add_reader(self.sock, self.on_readable)
        hub.on_tick.add(self.on_turn)
        hub.on_close.add(self.leave)

    def leave(self, *args: Any) -> None:
        """Go on without the event loop, which is closing."""
        hub, self.hub, self.turns = self.hub, None, False
        if hub is None:
            return
        hub.on_tick.discard(self.on_turn)
        hub.on_close.discard(self.leave)
        try:
            self.flush()
        except self.connection_errors as exc:
            logger.debug("Acknowledgements were lost with the connection: %r", exc)

    def on_readable(self) -> None:
        """Read what is there and make calls for all of it."""
        if not self.connected:
            raise RecoverableConnectionError("Socket was disconnected")
        try:
            self._read(0)
        except TimeoutError:
            return
        self._step_through()

    def on_turn(self) -> None:
        """Finish a turn: from here on the loop may wait."""
        self.turns = True
        if self.channels is None:
            # Somebody gave it up, and perhaps told nobody; the loop can't hear it from the socket.
            self.leave()
            raise RecoverableConnectionError("Connection already closed")
        if self.reader.has_data:
            # Read by somebody who waited for one answer, or left by an error.
            self._step_through()
        if self.due:
            self.flush()

    def _step_through(self) -> None:
        step = self.reader.step
        while step():
            pass

    # -- writing

    def write(self, frames: bytes) -> None:
        """Write whole frames.

        Raises:
            RecoverableConnectionError: There is no connection.
        """
        transport = self._transport
        if transport is None:
            raise RecoverableConnectionError("connection already closed")
        transport.write(frames)
        self.bytes_sent += 1

    def flush(self) -> None:
        """Write the acknowledgements that are due."""
        due, self.due = self.due, []
        for channel in due:
            channel.flush()

    def send_method(self, *args: Any, **kwargs: Any) -> Any:
        """Send a method, after the acknowledgements that are due."""
        if self.due:
            self.flush()
        return super().send_method(*args, **kwargs)

    def collect(self) -> None:
        """Forget the connection, which is closed or lost."""
        # The server delivers again what it has not been told of.
        self.due.clear()
        if not self.turns:
            self.leave()
        super().collect()


class _WritesInTurn:
    """One write at a time: frames of several threads must not mix."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._write_lock = threading.Lock()

    def write(self, s: bytes) -> None:
        with self._write_lock:
            super().write(s)  # type: ignore[misc]  # of the other base


class _TcpSocket(_WritesInTurn, TcpSocket):  # type: ignore[misc]  # py-amqp's, untyped
    pass


class _TlsSocket(_WritesInTurn, TlsSocket):  # type: ignore[misc]  # py-amqp's, untyped
    pass


class Transport(KombuTransport):  # type: ignore[misc]  # kombu's, untyped
    """AMQP, with many messages for one read and many acknowledgements for one write."""

    Connection = Connection

    def establish_connection(self) -> Any:
        """Connect.

        Raises:
            OSError: That failed; the text names the broker.
        """
        try:
            return super().establish_connection()
        except OSError as exc:
            raise named(exc, self.client.as_uri()) from exc

    def _collect(self, connection: Any) -> None:
        if connection is not None:
            connection.part()

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        """Let *loop* deliver messages from now on."""
        connection.join(loop)


class SSLTransport(Transport, KombuTlsTransport):  # type: ignore[misc]  # kombu's, untyped
    """The same, encrypted."""
