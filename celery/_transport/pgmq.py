"""PostgreSQL with PGMQ as a broker: kombu's transport, where remote control works."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from celery._transport._temporary import TemporaryQueues

if TYPE_CHECKING:
    DirectExchange: TypeAlias = Any
    KombuChannel: TypeAlias = Any
    KombuTransport: TypeAlias = Any
else:
    from kombu.transport.pgmq import Channel as KombuChannel, Transport as KombuTransport
    from kombu.transport.virtual.exchange import DirectExchange

__all__ = ("Channel", "Transport")

#: Longest name of a queue that PGMQ takes, of which some is ours to tell names apart.
LONGEST_NAME = 47
DIGEST = 12


class Direct(DirectExchange):  # type: ignore[misc]  # kombu's, untyped
    """A direct exchange that also reaches the temporary queues of other processes."""

    def deliver(self, message: Any, exchange: str, routing_key: str, **kwargs: Any) -> None:
        """Put a message into the queues bound here, or by others if there is none."""
        if self.channel._lookup(exchange, routing_key):
            super().deliver(message, exchange, routing_key, **kwargs)
        else:
            self.channel._put_topic(exchange, message, routing_key)


class Channel(TemporaryQueues, KombuChannel):  # type: ignore[misc]  # kombu's, untyped
    """A channel that shortens long names of queues, and deletes its temporary ones."""

    exchange_types: ClassVar[dict[str, Any]] = {**KombuChannel.exchange_types, "direct": Direct}

    def _queue_bind(self, exchange: str, routing_key: str, pattern: Any, queue: str) -> None:
        super()._queue_bind(exchange, routing_key, pattern, queue)
        if self.typeof(exchange).type == "direct" and queue in (self._temporary or ()):
            # Processes that know nothing of this queue send replies to it.
            key = self._topic_key(exchange, routing_key)
            self.pgmq.bind_topic(key, self._queue_name(queue))

    def canonical_queue_name(self, queue_name: str) -> str:
        """Return the name of a queue in the database: mailboxes have longer ones than it takes."""
        name: str = super().canonical_queue_name(queue_name)
        if len(name) <= LONGEST_NAME:
            return name
        return f"{name[: LONGEST_NAME - DIGEST]}{sha256(name.encode()).hexdigest()[:DIGEST]}"

    def _pgmq_send_kwargs(self, message: dict[str, Any]) -> dict[str, Any]:
        # There is no ``send_topic`` in the database that takes headers without a delay.
        return {"delay": 0, **super()._pgmq_send_kwargs(message)}

    def _size(self, queue: str) -> int:
        # Those that nobody holds, as on other brokers.
        waiting: int = self.pgmq.metrics(self._queue_name(queue)).queue_visible_length
        return waiting


class Transport(KombuTransport):  # type: ignore[misc]  # kombu's, untyped
    """Such channels; looks for messages as often as PGMQ does when it is asked to wait."""

    Channel = Channel
    polling_interval = 0.1
