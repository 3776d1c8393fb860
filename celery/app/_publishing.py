"""Parts of publishing that its general way and its shortcuts have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from celery._state import get_current_worker_task

if TYPE_CHECKING:
    from kombu.entity import Queue

    from celery._protocol.message import Outgoing

__all__ = (
    "CONFIRM_S",
    "Patience",
    "PublishPlan",
    "Ready",
    "declared_by",
    "give_up_on_silence",
    "is_replicated",
    "worth_a_retry",
)

#: Seconds that a broker has to confirm a message for a replicated queue.
CONFIRM_S = 10.0


@dataclass(frozen=True, slots=True)
class PublishPlan:
    """What publishing needs of the settings, read once for all messages."""

    version: int
    serializer: str
    compression: str | None
    retry: bool
    retry_policy: dict[str, Any]
    delivery_mode: Any
    send_sent_event: bool
    repr_levels: int
    utc: bool
    inherit_priority: bool
    #: Whether nothing here keeps a call from the straight way, see `celery.app._express`.
    is_plain: bool


@dataclass(frozen=True, slots=True)
class Ready:
    """A message, and where and how it is published."""

    message: Outgoing
    queue: Queue | None
    exchange: Any
    routing_key: str | None
    delivery_mode: Any
    serializer: str
    compression: str | None
    #: Queues that have to be there.
    declare: list[Any] | None
    retry: bool
    retry_policy: Mapping[str, Any]
    #: Seconds for the broker to confirm the message; None where nobody waits for that.
    confirm_timeout: float | None

    @property
    def policy(self) -> Mapping[str, Any] | None:
        """How a failed attempt is repeated; None for not at all."""
        return self.retry_policy if self.retry else None

    def publish_options(self, content_type: str, content_encoding: str) -> dict[str, Any]:
        """Return options of `kombu.Producer.publish`."""
        return {
            **self.message.properties,
            "exchange": self.exchange,
            "routing_key": self.routing_key,
            "content_type": content_type,
            "content_encoding": content_encoding,
            "compression": self.compression,
            "delivery_mode": self.delivery_mode,
            "headers": self.message.headers,
            "confirm_timeout": self.confirm_timeout,
        }


def declared_by(producer: Any) -> set[Any] | None:
    """Return what the connection of *producer* has declared, or None where it has none yet.

    kombu keeps the set for as long as the connection lives; names of queues join its hashes.
    """
    connection = producer.__connection__ or producer.connection
    # A channel exists already: asking for it does not connect.
    if connection is None or connection._default_channel is None or not connection.connected:
        return None
    declared: set[Any] = connection.declared_entities
    return declared


def worth_a_retry(producer: Any, policy: Mapping[str, Any]) -> tuple[type[BaseException], ...]:
    """Return the errors of publishing with *producer* after which *policy* is applied."""
    connection = producer.connection
    return (
        *connection.recoverable_connection_errors,
        *connection.recoverable_channel_errors,
        *(policy.get("retry_errors") or ()),
    )


def _is_last_straw(exc: BaseException) -> bool:
    """Say whether *exc* is the silence of a server, and somebody waits for the call to return.

    A task that sends others would fail, and they be lost to it: it goes on as long as its policy.
    """
    # Drivers have exceptions of their own for it, alike in name only.
    is_silence = any(cls.__name__ == "TimeoutError" for cls in type(exc).__mro__)
    return is_silence and get_current_worker_task() is None


def give_up_on_silence(producer: Any, exc: BaseException) -> None:
    """Have the next attempt begin with a connection, if *exc* says that nobody answered.

    That takes less long to fail than a message, and may be to the next server.
    """
    if _is_last_straw(exc):
        connection = producer.__connection__ or producer.connection
        connection.maybe_switch_next()
        connection.collect()
        producer.revive(connection)


class Patience:
    """Ends a retry policy before its time when each server has been silent; an ``errback``.

    A policy says how often to try, which is meant for servers that refuse: an attempt that waits
    in vain takes `broker_connection_timeout`, however short the pauses between attempts.

    Args:
        servers: How many there are to try.
        errback: Called for each error, as that of the policy would be.
        was_connected: The first error is that of the message; then come those of connections.
    """

    def __init__(
        self, servers: int, errback: Callable[[Any, Any], Any] | None, was_connected: bool
    ) -> None:
        self._errback = errback
        self._left = servers
        self._is_first = was_connected

    def __call__(self, exc: BaseException, interval: float) -> None:
        """Take an error; raise it if it was the last one."""
        if self._errback is not None:
            self._errback(exc, interval)
        is_first, self._is_first = self._is_first, False
        if is_first or not _is_last_straw(exc):
            return
        self._left -= 1
        if not self._left:
            raise exc


def is_replicated(queue: Any) -> bool:
    """Say whether nodes of the broker have to agree before a message is safe in *queue*."""
    arguments = None if queue is None else queue.queue_arguments
    return arguments is not None and arguments.get("x-queue-type") in ("quorum", "stream")
