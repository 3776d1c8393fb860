"""
The receiving end of events.

A receiver consumes from a queue of its own that lives as long as it does, decodes events and
gives each to the handler of its type.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from kombu.connection import Connection, maybe_channel
from kombu.entity import Queue
from kombu.mixins import ConsumerMixin
from kombu.utils.uuid import uuid

from celery import _state
from celery.events.event import get_exchange
from celery.exceptions import ImproperlyConfigured
from celery.utils import log
from celery.utils.time import adjust_timestamp as to_local_timestamp

if TYPE_CHECKING:
    from celery.app.base import Celery

__all__ = ("EventReceiver",)

logger = log.get_logger(__name__)

#: Clients keep no clock of their own: their events are dated just before our present.
CLIENT_CLOCK_SKEW = -1

Handler = Callable[[dict[str, Any]], Any]

_zone_and_time = itemgetter("utcoffset", "timestamp")


class EventReceiver(ConsumerMixin):
    """
    Gives events to handlers.

    Args:
        channel: Channel or connection.
        handlers: Function for each event type; ``*`` stands for all others.
        routing_key: Topics to listen to.
        node_id: Second part of the name of the queue; a new uuid by default.
        queue_prefix: First part; by default the setting ``event_queue_prefix``.
        accept: Content types that are decoded; by default JSON and ``event_serializer``.
        queue_ttl: Seconds a message waits; by default ``event_queue_ttl``.
        queue_expires: Seconds an unused queue lives; by default ``event_queue_expires``.
        queue_exclusive: By default ``event_queue_exclusive``.
        queue_durable: By default ``event_queue_durable``.

    Raises:
        ImproperlyConfigured: The queue would be both durable and exclusive.
    """

    app: Celery | None = None

    def __init__(
        self,
        channel: Any,
        handlers: Mapping[str, Handler] | None = None,
        routing_key: str = "#",
        node_id: str | None = None,
        app: Celery | None = None,
        queue_prefix: str | None = None,
        accept: Iterable[str] | None = None,
        queue_ttl: float | None = None,
        queue_expires: float | None = None,
        queue_exclusive: bool | None = None,
        queue_durable: bool | None = None,
    ) -> None:
        self.app = app = _state.app_or_default(app or self.app)
        conf = app.conf
        self.channel: Any = maybe_channel(channel)
        self.handlers = {} if handlers is None else handlers
        self.routing_key = routing_key
        self.node_id = node_id or uuid()
        self.queue_prefix = queue_prefix or conf.event_queue_prefix
        self.exchange = get_exchange(
            self.connection or app.connection_for_write(), name=conf.event_exchange
        )
        exclusive = conf.event_queue_exclusive if queue_exclusive is None else queue_exclusive
        durable = conf.event_queue_durable if queue_durable is None else queue_durable
        if exclusive and durable:
            raise ImproperlyConfigured(
                "Queue of events cannot be both exclusive and durable: turn one of the settings "
                "event_queue_exclusive and event_queue_durable off."
            )
        self.queue = Queue(
            f"{self.queue_prefix}.{self.node_id}",
            exchange=self.exchange,
            routing_key=self.routing_key,
            auto_delete=True,
            durable=durable,
            exclusive=exclusive,
            message_ttl=conf.event_queue_ttl if queue_ttl is None else queue_ttl,
            expires=conf.event_queue_expires if queue_expires is None else queue_expires,
        )
        self.clock = app.clock
        self.adjust_clock = self.clock.adjust
        self.forward_clock = self.clock.forward
        self.accept = {conf.event_serializer, "json"} if accept is None else set(accept)

    def process(self, type: str, event: dict[str, Any]) -> None:
        """Give *event* to its handler, if there is one."""
        handler = self.handlers.get(type) or self.handlers.get("*")
        if handler is not None:
            handler(event)

    def get_consumers(self, Consumer: Callable[..., Any], channel: Any) -> list[Any]:
        """Return the consumer of the queue; called by kombu for each connection."""
        return [
            Consumer(
                queues=[self.queue],
                callbacks=[self._receive],
                no_ack=True,
                accept=self.accept,
            )
        ]

    def on_consume_ready(
        self,
        connection: Connection,
        channel: Any,
        consumers: list[Any],
        wakeup: bool = True,
        **kwargs: Any,
    ) -> None:
        """Ask the workers to show themselves, once we can hear them."""
        if wakeup:
            self.wakeup_workers(channel=channel)

    def itercapture(
        self, limit: int | None = None, timeout: float | None = None, wakeup: bool = True
    ) -> Iterator[Any]:
        """Handle events as :meth:`capture` does, with a step of the iterator for each message."""
        consume: Any = self.consume
        # kombu looks at the clock once in this interval only.
        interval = 1.0 if timeout is None else min(1.0, timeout)
        return iter(consume(limit=limit, timeout=timeout, safety_interval=interval, wakeup=wakeup))

    def capture(
        self, limit: int | None = None, timeout: float | None = None, wakeup: bool = True
    ) -> None:
        """
        Handle events until *limit* messages came or *timeout* passed without any.

        Args:
            limit: Number of messages; None for no end.
            timeout: Seconds of silence.
            wakeup: Ask workers for a heartbeat at the start.

        Raises:
            socket.timeout: After *timeout* seconds of silence.
        """
        for _ in self.itercapture(limit=limit, timeout=timeout, wakeup=wakeup):
            pass

    def wakeup_workers(self, channel: Any = None) -> None:
        """Ask all workers for a heartbeat."""
        assert self.app is not None
        self.app.control.broadcast("heartbeat", connection=self.connection, channel=channel)

    def event_from_message(
        self,
        body: dict[str, Any],
        localize: bool = True,
        now: Callable[[], float] = time.time,
        tzfields: Callable[[dict[str, Any]], tuple[float, float]] = _zone_and_time,
        adjust_timestamp: Callable[[float, float], float] = to_local_timestamp,
        CLIENT_CLOCK_SKEW: int = CLIENT_CLOCK_SKEW,
    ) -> tuple[str, dict[str, Any]]:
        """
        Return the type of a decoded event and the event, with clock and local times set.

        Args:
            body: The event; changed in place.
            localize: Turn the time of the sender's zone into that of ours.

        Raises:
            KeyError: It has no type.
        """
        kind: str = body["type"]
        clock: int | None
        if kind == "task-sent":
            body["clock"] = clock = (self.clock.value or 1) + CLIENT_CLOCK_SKEW
            self.adjust_clock(clock)
        elif (clock := body.get("clock")) is not None:
            self.adjust_clock(clock)
        else:
            body["clock"] = self.forward_clock()
        if localize and "utcoffset" in body and "timestamp" in body:
            offset, timestamp = tzfields(body)
            body["timestamp"] = adjust_timestamp(timestamp, offset)
        body["local_received"] = now()
        return kind, body

    def _receive(self, body: Any, message: Any) -> None:
        for each in body if isinstance(body, list) else (body,):
            try:
                event = self.event_from_message(each)
            except (TypeError, KeyError, AttributeError, ValueError) as exc:
                # Anyone may write to the exchange; a monitor has to outlive nonsense.
                logger.warning("Ignoring what is no event: %r (%r)", each, exc)
                continue
            self.process(*event)

    @property
    def connection(self) -> Connection | None:
        """The connection of our channel."""
        return self.channel.connection.client if self.channel is not None else None
