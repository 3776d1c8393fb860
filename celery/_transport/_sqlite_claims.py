"""Claiming messages from an embedded store: how a consuming channel gets them and lets go.

A turn is one transaction: it deletes what was acknowledged since the last and claims as much as
the prefetch count has room for. After a turn that found less than it wanted the queues are dry,
until the bell rings or a delayed message is due.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from kombu.utils.json import loads

from celery._embedded.store import StoreError
from celery._transport import _sqlite_queues as queues
from celery._transport._held import MOST_AT_ONCE, Held
from celery._transport._kombu_virtual import KombuMessage
from celery.utils.log import get_logger

__all__ = ("Claims",)

logger = get_logger(__name__)

#: Room for this many messages is worth a turn at any time.
MUCH_ROOM = 32
#: Acknowledgements that are worth a turn at any time.
MANY_ACKS = 512
#: Seconds between a turn and the next, unless there is much to do.
PACE_S = 0.002
#: Seconds without a turn after which a consumer without an event loop is not busy.
QUIET_S = 0.05


class StoredMessage(KombuMessage):  # type: ignore[misc]  # kombu's, untyped
    """A message of an embedded store."""

    def __init__(self, claimed: queues.Claimed, channel: Any) -> None:
        payload = loads(claimed.head)
        payload["body"] = claimed.body
        properties = payload["properties"]
        properties["delivery_tag"] = claimed.id
        if claimed.redelivered:
            payload["headers"]["redelivered"] = True
            properties.setdefault("delivery_info", {})["redelivered"] = True
        super().__init__(payload, channel=channel)
        self.queue = claimed.queue


class Claims:
    """What one channel holds of its queues.

    Args:
        channel: The `celery._transport.sqlite.Channel`.
    """

    def __init__(self, channel: Any) -> None:
        self.channel = channel
        self.store = channel.store
        self.held: Held[int] = Held()
        #: Claimed, and not yet handed to a consumer.
        self.ready: deque[StoredMessage] = deque()
        #: Consumers by queue: callback, and whether a message is done when it is delivered.
        self.sinks: dict[str, tuple[Callable[[Any], Any], bool]] = {}
        self.is_closed = False
        #: Whether queues may have something for us.
        self.is_hungry = False
        #: When the next delayed message is due, in seconds since the epoch.
        self.due: float | None = None

        self._order: deque[str] = deque()
        self._acks: deque[int] = deque()
        self._turned_at = 0.0

    # -- what channel and consumers ask for

    def consume(self, queue: str, callback: Callable[[Any], Any], no_ack: bool) -> None:
        """Deliver messages of *queue* to *callback*."""
        self.sinks[queue] = (callback, no_ack)
        self._order = deque(self.sinks)
        self.is_hungry = True

    def cancel(self, queue: str) -> None:
        """Stop taking messages from *queue*."""
        self.sinks.pop(queue, None)
        self._order = deque(self.sinks)
        unwanted = [message for message in self.ready if message.queue == queue]
        if unwanted:
            self.ready = deque(message for message in self.ready if message.queue != queue)
            self.give_back([message.delivery_tag for message in unwanted])

    def ack(self, tag: int) -> None:
        """Note that a message is done.

        The store learns of it within `PACE_S` in an event loop. Without one it does at once, with
        the next turn of a busy consumer, or with the next sign of life of the owner.

        Raises:
            StoreError: The channel is closed, and the message was given back.
        """
        if self.is_closed:
            raise StoreError(
                f"{self.store.path}: the channel that delivered this message is closed; it will be"
                " delivered again"
            )
        self.held.pop(tag, None)
        self._acks.append(tag)
        if not self.channel.is_in_loop and time.monotonic() - self._turned_at > QUIET_S:
            # Nobody may ask for messages for a long time; a busy consumer will do so soon.
            self.settle_now()

    def give_back(self, tags: Sequence[int], last: bool = False) -> None:
        """Put messages back into their queues.

        Args:
            tags: Of messages that are held.
            last: Behind all others in the queue, else where they were.
        """
        put_back = queues.put_last if last else queues.give_back
        with self.store as db:
            self._settle(db)
            count = put_back(db, self.channel.owner, tags)
        for tag in tags:
            self.held.pop(tag, None)
        if count:
            self.is_hungry = True
            self.channel.ring()

    def take_one(self, queue: str) -> StoredMessage | None:
        """Claim one message of *queue* at once, None when it is empty."""
        with self.store as db:
            self._settle(db)
            found = queues.claim(db, self.channel.owner, [queue], 1, time.time())
        if not found:
            return None
        message = StoredMessage(found[0], self.channel)
        self.held[message.delivery_tag] = message
        return message

    # -- turns of the loop

    def pump(self) -> float | None:
        """Do what is due; return seconds after which there is more to do, None if not known.

        Raises:
            StoreError: The store cannot be used, or others took this consumer for dead.
        """
        if self.is_closed:
            return None
        now = time.monotonic()
        if self.due is not None and time.time() >= self.due:
            self.due, self.is_hungry = None, True
        room = 0
        if self.is_hungry and self.sinks:
            room = min(self.channel.qos.room(len(self.ready)), MOST_AT_ONCE)
        acks = len(self._acks)
        if room or acks:
            limit = self.channel.qos.prefetch_count
            wait_s = self._turned_at + PACE_S - now
            if (
                wait_s <= 0
                or acks >= MANY_ACKS
                or (room and room >= min(limit - (limit >> 2), MUCH_ROOM))
            ):
                self._turn(room, now)
            else:
                return wait_s
        if self.is_hungry and self.channel.qos.room(len(self.ready)) and self.sinks:
            return PACE_S
        return None if self.due is None else max(self.due - time.time(), 0.0)

    def _turn(self, room: int, now: float) -> None:
        self.channel.check_owner()
        order = list(self._order)
        self._order.rotate(-1)
        if not self._acks and not self._has_any(order):
            self._run_dry(order)
            return
        with self.store as db:
            self._settle(db)
            found = queues.claim(db, self.channel.owner, order, room, time.time()) if room else []
        self._turned_at = now
        channel, held, ready = self.channel, self.held, self.ready
        for claimed in found:
            message = StoredMessage(claimed, channel)
            held[claimed.id] = message
            ready.append(message)
        if room and len(found) < room:
            self._run_dry(order)

    def _has_any(self, order: Sequence[str]) -> bool:
        """Look for messages without keeping others from writing."""
        now = time.time()
        return any(
            self.store.read(
                "SELECT 1 WHERE EXISTS (SELECT 1 FROM ready WHERE queue = ?1)"
                " OR EXISTS (SELECT 1 FROM delayed WHERE queue = ?1 AND due <= ?2)",
                (queue, now),
            )
            for queue in order
        )

    def _run_dry(self, order: Sequence[str]) -> None:
        self.is_hungry = False
        self.due = self.store.call(queues.next_due, order)

    def _settle(self, db: Any) -> None:
        acks = self._acks
        if not acks:
            return
        done = list(acks)
        kept = queues.settle(db, self.channel.owner, done)
        # Others may add at the right end meanwhile.
        for _ in done:
            acks.popleft()
        if len(kept) < len(done):
            logger.warning(
                "%s message(s) were acknowledged too late: others have got them",
                len(done) - len(kept),
            )

    def settle_now(self) -> None:
        """Tell the store what is acknowledged."""
        if self._acks:
            with self.store as db:
                self._settle(db)

    def deliver_one(self) -> bool:
        """Hand the next message to its consumer; False when there is none."""
        if not self.ready:
            return False
        message = self.ready.popleft()
        callback, no_ack = self.sinks[message.queue]
        if no_ack:
            self.held.pop(message.delivery_tag, None)
            self._acks.append(message.delivery_tag)
        callback(message)
        return True

    def stop(self) -> None:
        """Take no more messages, and tell the store what is acknowledged."""
        self.sinks.clear()
        self._order.clear()
        self.ready.clear()
        self.settle_now()

    def close(self) -> None:
        """What is held is no longer ours."""
        self.is_closed = True
