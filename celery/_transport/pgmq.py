"""PostgreSQL with PGMQ as a broker: kombu's transport, where remote control works."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Any, TypeAlias

from celery._transport._temporary import TemporaryQueues

if TYPE_CHECKING:
    KombuChannel: TypeAlias = Any
    KombuTransport: TypeAlias = Any
else:
    from kombu.transport.pgmq import Channel as KombuChannel
    from kombu.transport.pgmq import Transport as KombuTransport

__all__ = ("Channel", "Transport")

#: Longest name of a queue that PGMQ takes, of which some is ours to tell names apart.
LONGEST_NAME = 47
DIGEST = 12


class Channel(TemporaryQueues, KombuChannel):  # type: ignore[misc]  # kombu's, untyped
    """A channel that shortens long names of queues, and deletes its temporary ones."""

    def canonical_queue_name(self, queue_name: str) -> str:
        """Return the name of a queue in the database: mailboxes have longer ones than it takes."""
        name: str = super().canonical_queue_name(queue_name)
        if len(name) <= LONGEST_NAME:
            return name
        return f"{name[: LONGEST_NAME - DIGEST]}{sha256(name.encode()).hexdigest()[:DIGEST]}"


class Transport(KombuTransport):  # type: ignore[misc]  # kombu's, untyped
    """Such channels; looks for messages as often as PGMQ does when it is asked to wait."""

    Channel = Channel
    polling_interval = 0.1
