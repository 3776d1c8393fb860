"""Publishing over AMQP in bounded time; mixed into the channels and connections of the transport.

py-amqp waits for ever: for the answer to a declaration, for room in the socket, for the end of a
memory alarm. Here each of these takes a number of seconds at most, and then there is an error that
names the broker. A publish that asks for it (option ``confirm_timeout``) waits for the broker's
confirmation; the first one puts the channel into confirm mode.
"""

from __future__ import annotations

import os
from time import monotonic
from typing import TYPE_CHECKING, Any

from amqp.exceptions import MessageNacked, RecoverableConnectionError
from kombu.exceptions import OperationalError

from celery._transport import farewell
from celery._transport._amqp_outlet import ANSWER_S, AMQPOutlet
from celery.utils.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ("PatientChannel", "PatientConnection", "named")

logger = get_logger(__name__)


class Unconfirmed:
    """Messages that were published in confirm mode, by their numbers."""

    def __init__(self) -> None:
        self._last = 0
        self.waiting: set[int] = set()
        self.is_any_refused = False

    def add(self, count: int) -> None:
        """Note that so many are being published."""
        self.waiting.update(range(self._last + 1, self._last + 1 + count))
        self._last += count

    def settle(self, tag: int, multiple: bool, is_refused: bool = False) -> None:
        """Note the answer to one, or to all up to it."""
        if multiple:
            self.waiting = {number for number in self.waiting if number > tag}
        else:
            self.waiting.discard(tag)
        self.is_any_refused |= is_refused


class _Patient:
    """Waits for answers, but not for ever."""

    if TYPE_CHECKING:
        connection: Any

    def wait(
        self,
        method: Any,
        callback: Any = None,
        timeout: float | None = None,
        returns_tuple: bool = False,
    ) -> Any:
        """Wait for an answer.

        Raises:
            RecoverableConnectionError: There was none in time.
        """
        connection = self.connection
        if timeout is not None or connection is None:
            return super().wait(method, callback, timeout, returns_tuple)  # type: ignore[misc]
        seconds = min(connection.read_timeout or ANSWER_S, ANSWER_S)
        try:
            return super().wait(method, callback, seconds, returns_tuple)  # type: ignore[misc]
        except TimeoutError as exc:
            raise connection.silent("answer", seconds) from exc


class PatientChannel(_Patient):
    """What our channels do otherwise than py-amqp's about publishing."""

    unconfirmed: Unconfirmed | None = None
    #: Whether something may be on its way to the broker.
    has_published = False

    if TYPE_CHECKING:
        confirm_select: Callable[[], Any]

    def new_outlet(self) -> AMQPOutlet:
        """Return the shortest way of messages through this channel."""
        return AMQPOutlet(self)

    # -- publishing

    def _basic_publish(self, *args: Any, confirm_timeout: float | None = None, **kw: Any) -> Any:
        connection = self.connection
        if connection is not None:
            connection.check_takes_messages()
        if confirm_timeout is not None or self.unconfirmed is not None:
            self.expect_confirms(1)
        self.has_published = True
        try:
            result = super()._basic_publish(*args, **kw)  # type: ignore[misc]
        except BlockingIOError as exc:
            raise connection.silent("read") from exc
        if confirm_timeout is not None:
            self.wait_for_confirms(confirm_timeout)
        return result

    basic_publish = _basic_publish

    def basic_publish_confirm(self, *args: Any, **kw: Any) -> Any:
        """Publish a message and wait for its confirmation, for some time at most."""
        kw["confirm_timeout"] = kw.get("confirm_timeout") or kw.get("timeout") or ANSWER_S
        return self._basic_publish(*args, **kw)

    # -- confirmations

    def expect_confirms(self, count: int) -> None:
        """Note that so many messages will be published next, and confirmed."""
        if self.unconfirmed is None:
            self.confirm_select()
            self.unconfirmed = Unconfirmed()
        self.unconfirmed.add(count)

    def wait_for_confirms(self, timeout_s: float) -> None:
        """Wait until the broker has answered for every message.

        Raises:
            MessageNacked: It has refused one.
            RecoverableConnectionError: It has not answered in time.
        """
        unconfirmed = self.unconfirmed
        if unconfirmed is None:
            return
        end = monotonic() + timeout_s
        while unconfirmed.waiting:
            connection = self.connection
            if connection is None:
                raise RecoverableConnectionError("the channel was closed before a confirmation")
            left = end - monotonic()
            try:
                if left <= 0:
                    raise TimeoutError
                connection.drain_events(timeout=left)
            except TimeoutError as exc:
                raise connection.silent("confirm", timeout_s) from exc
        if unconfirmed.is_any_refused:
            unconfirmed.is_any_refused = False
            raise MessageNacked("the broker has refused a message")

    def _on_basic_ack(self, delivery_tag: int, multiple: bool) -> None:
        if self.unconfirmed is not None:
            self.unconfirmed.settle(delivery_tag, multiple)
        super()._on_basic_ack(delivery_tag, multiple)  # type: ignore[misc]

    def _on_basic_nack(self, delivery_tag: int, multiple: bool) -> None:
        if self.unconfirmed is not None:
            self.unconfirmed.settle(delivery_tag, multiple, is_refused=True)
        super()._on_basic_nack(delivery_tag, multiple)  # type: ignore[misc]

    # -- the end

    def _do_revive(self) -> None:
        self.unconfirmed = None
        super()._do_revive()  # type: ignore[misc]


class PatientConnection(_Patient):
    """What our connections do otherwise than py-amqp's about a broker that does not answer."""

    if TYPE_CHECKING:
        client: Any
        channels: dict[int, Any] | None
        connected: bool
        transport: Any
        collect: Callable[[], None]
        drain_events: Callable[..., None]

    #: Whether the broker has said that it takes no messages for now.
    is_blocked = False
    #: Whether somebody has waited in vain for the end of that.
    _is_wait_over = False
    #: The process that has opened it; None before.
    _pid: int | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("write_timeout", ANSWER_S)
        super().__init__(*args, **kwargs)

    def on_connected(self) -> None:
        """Begin with a new socket."""
        self._pid = os.getpid()
        farewell.watch(self)

    def close(self, *args: Any, **kwargs: Any) -> Any:
        """Close with a handshake, after what was published has arrived."""
        self._finish_publishing()
        return super().close(*args, **kwargs)  # type: ignore[misc]

    def part(self) -> None:
        """Close as far as needed for what was published to arrive, then forget the connection."""
        self._finish_publishing()
        self.collect()

    def _finish_publishing(self) -> None:
        # In a child process the socket is the parent's, who goes on using it.
        if self._pid != os.getpid() or not self.connected:
            return
        for channel in list((self.channels or {}).values()):
            if channel is self or not channel.has_published:
                continue
            broker = self.client.as_uri() if self.client else "the broker"
            try:
                # Its answer comes when all that was sent before has been routed.
                channel.close()
            except Exception:
                logger.exception(
                    "%s: messages that were published last may be lost, the connection ended"
                    " before the broker could be asked for them",
                    broker,
                )
                return

    def silent(self, verb: str, seconds: float | None = None) -> RecoverableConnectionError:
        """Return the error of a broker that did not *verb* in time, and give the connection up."""
        error = RecoverableConnectionError(
            f"{self.client.as_uri()}: the broker did not {verb} within {seconds or ANSWER_S:g} s"
        )
        # Its channels go with it: nobody else is to wait for an answer in vain.
        self.collect()
        return error

    def _on_blocked(self) -> Any:
        self.is_blocked, self._is_wait_over = True, False
        return super()._on_blocked()  # type: ignore[misc]

    def _on_unblocked(self) -> Any:
        self.is_blocked = False
        return super()._on_unblocked()  # type: ignore[misc]

    def check_takes_messages(self) -> None:
        """Wait for the end of an alarm of the broker; once for each, for some time at most.

        Raises:
            kombu.exceptions.OperationalError: It takes no messages. The one that was published
                last may still be waiting on the way to it.
        """
        if not self.is_blocked:
            return
        end = monotonic() + (0 if self._is_wait_over else ANSWER_S)
        while self.is_blocked:
            try:
                self.drain_events(timeout=max(end - monotonic(), 0))
            except TimeoutError:
                self._is_wait_over = True
                raise OperationalError(
                    f"{self.client.as_uri()}: the broker takes no messages for now, memory or"
                    " disk space are short (connection.blocked)"
                ) from None


def named(exc: OSError, broker: str) -> OSError:
    """Return *exc* with the name of the broker in its text."""
    if exc.errno is None:
        return type(exc)(f"{broker}: {exc}")
    return type(exc)(exc.errno, f"{broker}: {exc.strerror or exc}")
