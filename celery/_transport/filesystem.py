"""The file system as a broker: kombu's transport, without queues that nobody reads any more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from celery._transport._temporary import TemporaryQueues

if TYPE_CHECKING:
    KombuChannel: TypeAlias = Any
    KombuTransport: TypeAlias = Any
else:
    from kombu.transport.filesystem import Channel as KombuChannel, Transport as KombuTransport

__all__ = ("Channel", "Transport")


class Channel(TemporaryQueues, KombuChannel):  # type: ignore[misc]  # kombu's, untyped
    """A channel that deletes its temporary queues."""


class Transport(KombuTransport):  # type: ignore[misc]  # kombu's, untyped
    """Messages as files, with such channels."""

    Channel = Channel
