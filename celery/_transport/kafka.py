"""Kafka as a broker: kombu's transport, which takes nothing for done that is not.

Kafka remembers of a queue only how far it was read. What is committed here is the message before
the first that is still held, so whatever a killed worker held comes again, and some that were done
after it come twice.
"""

from __future__ import annotations

from queue import Empty
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from kombu.utils.json import loads

from celery.utils.log import get_logger

if TYPE_CHECKING:
    KombuChannel: TypeAlias = Any
    KombuMessage: TypeAlias = Any
    KombuQoS: TypeAlias = Any
    KombuTransport: TypeAlias = Any
    TopicPartition: TypeAlias = Any
else:
    from confluent_kafka import TopicPartition
    from kombu.transport.confluentkafka import (
        Channel as KombuChannel,
        Message as KombuMessage,
        QoS as KombuQoS,
        Transport as KombuTransport,
    )

__all__ = ("Channel", "Progress", "QoS", "Transport")

logger = get_logger(__name__)

#: Seconds that a look for a message takes where none was fetched yet.
LOOK_S = 0.02


class Place(NamedTuple):
    """Where a message stands."""

    topic: str
    partition: int
    offset: int


class Progress:
    """How far one partition was read, and what of that is not done."""

    def __init__(self) -> None:
        self._held: dict[int, None] = {}
        self._next = 0
        #: Where to go on reading; None while nothing was done.
        self.committed: int | None = None

    def take(self, offset: int) -> None:
        """Note a message that was delivered."""
        self._held[offset] = None
        self._next = max(self._next, offset + 1)

    def done(self, offset: int) -> int | None:
        """Note a message that is done; return where to go on reading if that has changed."""
        self._held.pop(offset, None)
        place = min(self._held, default=self._next)
        if place == self.committed:
            return None
        self.committed = place
        return place


class QoS(KombuQoS):  # type: ignore[misc]  # kombu's, untyped
    """Holds what is not done, and commits what is."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._progress: dict[tuple[str, int], Progress] = {}

    def append(self, message: Any, delivery_tag: str) -> None:
        """Hold a message."""
        super().append(message, delivery_tag)
        place: Place = message.place
        self._progress.setdefault(place[:2], Progress()).take(place.offset)

    def ack(self, delivery_tag: str) -> None:
        """Settle a message that is done."""
        message = self._not_yet_acked.pop(delivery_tag, None)
        if message is None:
            return
        topic, partition, offset = message.place
        place = self._progress[topic, partition].done(offset)
        if place is not None:
            self.channel.commit(topic, partition, place)

    def restore_unacked_once(self, stderr: Any = None) -> None:
        """See to it that what is done is known; the rest comes again to whoever reads next."""
        for (topic, partition), progress in self._progress.items():
            if progress.committed is not None:
                self.channel.commit(topic, partition, progress.committed, wait=True)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Settle a message that is not wanted, or put it behind all others in its queue."""
        if requeue and delivery_tag in self._not_yet_acked:
            message = self._not_yet_acked[delivery_tag]
            self.channel._put(message.place.topic, message.serializable())
        self.ack(delivery_tag)


class Message(KombuMessage):  # type: ignore[misc]  # kombu's, untyped
    """A message that knows where it stands."""

    def __init__(self, payload: Any, channel: Any = None, **kwargs: Any) -> None:
        self.place: Place = payload.pop("place")
        super().__init__(payload, channel=channel, **kwargs)


class Channel(KombuChannel):  # type: ignore[misc]  # kombu's, untyped
    """A channel with such messages, whose looks return soon."""

    QoS = QoS
    Message = Message

    def _get(self, queue: str, **kwargs: Any) -> dict[str, Any]:
        consumer = self._get_consumer(queue)
        found = consumer.poll(LOOK_S)
        if found is None:
            raise Empty
        error = found.error()
        if error:
            logger.error("Kafka: %s", error)
            raise Empty
        place = Place(found.topic(), found.partition(), found.offset())
        return {**loads(found.value()), "topic": place.topic, "place": place}

    def commit(self, topic: str, partition: int, offset: int, wait: bool = False) -> None:
        """Have the next who reads a partition begin at *offset*."""
        where = TopicPartition(topic, partition, offset)
        self._get_consumer(topic).commit(offsets=[where], asynchronous=not wait)

    def _purge(self, queue: str) -> int:
        raise NotImplementedError(
            "Kafka keeps messages as long as its topics say: none is deleted."
        )


class Transport(KombuTransport):  # type: ignore[misc]  # kombu's, untyped
    """Such channels. The driver fetches ahead, so looks cost little."""

    Channel = Channel
    polling_interval = 0.1
