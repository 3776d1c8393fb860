"""What a channel of ours holds, and the prefetch limit and settling that kombu asks it for.

The channel's claims do the work: they know what a message's tag is, and tell the broker.
"""

from __future__ import annotations

from typing import Any, TypeVar

from celery._transport._kombu_virtual import KombuQoS

__all__ = ("MOST_AT_ONCE", "Held", "QoS")

Tag = TypeVar("Tag")


#: Messages to fetch where the prefetch count sets no limit, and at most.
MOST_AT_ONCE = 256


class Held(dict[Tag, Any]):
    """Messages by tag that are neither settled nor given back."""

    #: Set once they were given back for good, see `kombu.transport.virtual.QoS`.
    restored = False


class QoS(KombuQoS):  # type: ignore[misc]  # kombu's, untyped
    """Prefetch limit and settling, as kombu's channels ask for it."""

    def __init__(self, channel: Any, prefetch_count: int = 0) -> None:
        super().__init__(channel, prefetch_count)
        #: Has ``held``, ``ack`` and ``give_back``.
        self.claims = channel.claims
        self._delivered = self.claims.held

    def can_consume(self) -> bool:
        """Say whether there is room for another message."""
        limit = self.prefetch_count
        return not limit or len(self._delivered) < limit

    def can_consume_max_estimate(self) -> int | None:
        """Return for how many messages there is room; None when there is no limit."""
        limit = self.prefetch_count
        return max(limit - len(self._delivered), 0) if limit else None

    def room(self, waiting: int) -> int:
        """Return how many messages to fetch, beside those *waiting* here to be delivered."""
        if not self.can_consume():
            return 0
        if "can_consume" in vars(self):
            # Someone limits us by a rule of their own, which each message may change.
            return 0 if waiting else 1
        limit: int = self.prefetch_count
        return limit - len(self._delivered) if limit else max(MOST_AT_ONCE - waiting, 0)

    def append(self, message: Any, delivery_tag: Any) -> None:
        """Hold a message."""
        self._delivered[delivery_tag] = message

    def ack(self, delivery_tag: Any) -> None:
        """Settle a message that is done."""
        self.claims.ack(delivery_tag)

    def reject(self, delivery_tag: Any, requeue: bool = False) -> None:
        """Settle a message that is not wanted, or put it behind all others in its queue."""
        if requeue:
            self.claims.give_back([delivery_tag], last=True)
        else:
            self.claims.ack(delivery_tag)

    def restore_unacked(self) -> list[Any]:
        """Give all messages back to their queues, to be delivered next."""
        self.claims.give_back(list(self._delivered))
        return []

    def _flush(self) -> None:
        # Nothing here is only marked as settled.
        return
