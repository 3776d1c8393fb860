"""Task messages straight into an embedded store; see `celery._transport.outlet`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from celery._protocol.template import MARKS, JSONTemplate, Unfit
from celery._transport import _sqlite_queues as queues

if TYPE_CHECKING:
    from celery._transport.sqlite import Channel

__all__ = ("SqliteOutlet",)

Finished = tuple[str, queues.Content]


class SqliteTemplate:
    """One message of a queue.

    Args:
        queue: Where it goes.
        rank: Its place there.
        head: Everything but the body, with marks.
    """

    __slots__ = ("_head", "_queue", "_rank")

    def __init__(self, queue: str, rank: int, head: JSONTemplate) -> None:
        self._queue = queue
        self._rank = rank
        self._head = head

    def fill(self, values: Any, body: str) -> Finished:
        """Return what is to be stored of a message."""
        head = self._head.fill(values, "null", "null")
        due = queues.timestamp(values[_ETA])
        return self._queue, queues.Content(self._rank, head, body, None, due)


_ETA = MARKS._fields.index("eta")


class SqliteOutlet:
    """Stores messages in the file of a channel."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.key = (type(channel), channel.body_encoding)

    @property
    def is_open(self) -> bool:
        """Whether messages may go this way now: always."""
        return True

    def template(self, message: Any, exchange: str, routing_key: str) -> SqliteTemplate:
        """Return how to store messages like *message*; exchanges are left to the channel."""
        channel = self.channel
        if exchange or channel.body_encoding is not None:
            raise Unfit("more than one queue, or a body that is encoded")
        channel._inplace_augment_message(message, exchange, routing_key)
        properties = message["properties"]
        if "expiration" in properties:
            raise Unfit("a message that expires")
        properties["delivery_tag"] = MARKS.tag
        rank = channel.rank_of(message)
        return SqliteTemplate(routing_key, rank, JSONTemplate(queues.head_of(message)))

    def send(self, messages: Sequence[Finished], confirm_timeout: float | None = None) -> None:
        """Store messages in one transaction."""
        now = time.time()
        with self.channel.store as db:
            for queue, content in messages:
                queues.put(db, queue, content, now)
        self.channel.ring()
