"""Consul as a broker: kombu's transport, which does not wait while it has locked a queue."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    KombuChannel: TypeAlias = Any
    KombuTransport: TypeAlias = Any
else:
    from kombu.transport.consul import Channel as KombuChannel, Transport as KombuTransport

__all__ = ("Channel", "Transport")


class Channel(KombuChannel):  # type: ignore[misc]  # kombu's, untyped
    """A channel whose looks return at once."""

    @property
    def index(self) -> None:
        """The state of the store to wait for the next of: none, for each queue has its own."""
        return

    @index.setter
    def index(self, value: Any) -> None:
        """Forget it."""

    def _destroy_session(self, queue: str) -> None:
        # There is one only where a message was taken from the queue.
        if self.queues[queue].get("session_id") is not None:
            super()._destroy_session(queue)
            self.queues[queue]["session_id"] = None


class Transport(KombuTransport):  # type: ignore[misc]  # kombu's, untyped
    """Messages as keys, with such channels."""

    Channel = Channel
