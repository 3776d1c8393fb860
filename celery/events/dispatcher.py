"""
The sending end of events.

A dispatcher belongs to one node and one connection. While events are off, :meth:`send` costs an
attribute look-up. Groups named in *buffer_group* are collected and sent as one message; whoever
asks for that has to call :meth:`flush` in time (the worker does so from its event loop). Where
JSON is the serializer they are put together as text: a busy worker sends thousands a second, and
encoding each once, without what all have in common, is what makes that cheap. Of the three that
every task has :meth:`sketch` notes the values, and leaves all else to the flush.
"""

from __future__ import annotations

import os
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from json import encoder as json_encoder
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar

from kombu.connection import Connection
from kombu.messaging import Producer
from kombu.utils import json as kombu_json

from celery import _state
from celery._protocol import events as wire
from celery.events.event import Event as make_event, get_exchange
from celery.utils import log
from celery.utils.nodenames import anon_nodename
from celery.utils.time import utcoffset as local_utcoffset

if TYPE_CHECKING:
    from celery.app.base import Celery

__all__ = ("EventDispatcher",)

logger = log.get_logger(__name__)

#: Events kept while the broker cannot be reached; the oldest go first, with a warning.
_OFFLINE_LIMIT = 10_000

#: Seconds for which the distance to UTC is taken as known; it changes twice a year.
_OFFSET_TTL_S = 1.0

#: Groups by event type, of types that were sent, and the types as JSON.
_groups: dict[str, tuple[str, str]] = {}

#: Fields that every event has; an event that brings one of its own is put together with care.
_COMMON = frozenset({"hostname", "pid", "utcoffset", "clock", "timestamp", "type"})


def _encoder() -> Callable[[Any], str]:
    """Return a function that encodes the fields of an event as JSON."""
    fast: Any = getattr(json_encoder, "c_make_encoder", None)
    if fast is None:
        return kombu_json.dumps
    # What the standard library makes anew for each call of its own.
    default, quote = kombu_json.JSONEncoder().default, json_encoder.encode_basestring_ascii
    encode = fast(None, default, quote, None, ": ", ", ", False, False, True)
    return lambda fields: "".join(encode(fields, 0))


def _learn(type: str) -> tuple[str, str]:
    known = _groups[type] = wire.group_of(type), kombu_json.dumps(type)
    return known


class EventDispatcher:
    """
    Sends the events of one node; a context manager that closes at the end.

    Args:
        connection: Where to send to, if *channel* is not given.
        hostname: Node name of the sender.
        enabled: Whether to start sending at once.
        buffer_while_offline: Keep events that cannot be sent for the next :meth:`flush`,
            instead of raising.
        serializer: Name of the serializer; by default the setting ``event_serializer``.
        groups: Send only events of these groups; empty means all.
        delivery_mode: 1 for messages that a restart of the broker loses, 2 for others.
        buffer_group: Groups whose events are sent as lists.
        buffer_limit: Number of buffered events that are sent without waiting for a flush.
        on_send_buffered: Called with each event that is put into a buffer.
    """

    DISABLED_TRANSPORTS: ClassVar[set[str]] = {"sql"}

    app: Celery | None = None
    #: Called without arguments after events were turned on.
    on_enabled: set[Callable[[], Any]] | None = None
    #: Called without arguments after events were turned off.
    on_disabled: set[Callable[[], Any]] | None = None

    def __init__(
        self,
        connection: Connection | None = None,
        hostname: str | None = None,
        enabled: bool = True,
        channel: Any = None,
        buffer_while_offline: bool = True,
        app: Celery | None = None,
        serializer: str | None = None,
        groups: Iterable[str] | None = None,
        delivery_mode: int = 1,
        buffer_group: Iterable[str] | None = None,
        buffer_limit: int = 24,
        on_send_buffered: Callable[[], Any] | None = None,
    ) -> None:
        self.app = app = _state.app_or_default(app or self.app)
        self.connection, self.channel = connection, channel
        self.hostname = hostname or anon_nodename()
        self.groups = set(groups or ())
        self.delivery_mode = delivery_mode
        # -- what waits, and for how long
        self.buffer_while_offline = buffer_while_offline
        self.buffer_group, self.buffer_limit = frozenset(buffer_group or ()), buffer_limit
        self.on_send_buffered = on_send_buffered
        self.serializer = serializer or app.conf.event_serializer
        self.clock = app.clock
        self.pid = os.getpid()
        self.tzoffset = local_utcoffset()
        self._offset_expires = 0.0
        self.headers = wire.headers(self.hostname)
        self._encode = _encoder() if self.serializer == "json" else None
        self._origin_text = ""
        # A ``send`` in the place of ours wants to see each event.
        self._may_sketch = self._encode is not None and type(self).send is EventDispatcher.send
        self._is_flush_wanted = False
        self.mutex = threading.Lock()
        self.producer: Producer | None = None
        self.on_enabled = set()
        self.on_disabled = set()
        #: Events, or their JSON, or what `sketch` noted.
        self._groups_waiting: defaultdict[str, list[Any]] = defaultdict(list)
        self._offline: deque[tuple[Any, str]] = deque(maxlen=_OFFLINE_LIMIT)
        if connection is not None:
            client = connection
        elif channel is not None:
            client = channel.connection.client
        else:
            # Only publish(), which brings a producer, works on such a dispatcher.
            client, enabled = app.connection_for_write(), False
        self.exchange = get_exchange(client, name=app.conf.event_exchange)
        self.enabled = False
        if enabled and client.transport.driver_type not in self.DISABLED_TRANSPORTS:
            self.enable()

    def __enter__(self) -> EventDispatcher:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.close()

    def enable(self) -> None:
        """Start sending."""
        self.producer = Producer(
            self.channel or self.connection,
            exchange=self.exchange,
            serializer=self.serializer,
            auto_declare=False,
        )
        self.enabled = True
        for callback in self.on_enabled or ():
            callback()

    def disable(self) -> None:
        """Stop sending; harmless when stopped already."""
        if self.enabled:
            self.enabled = False
            self.close()
            for callback in self.on_disabled or ():
                callback()

    def publish(
        self,
        type: str,
        fields: dict[str, Any],
        producer: Producer,
        blind: bool = False,
        Event: Callable[..., dict[str, Any]] = make_event,
        **kwargs: Any,
    ) -> None:
        """
        Send one event at once, through any producer.

        Args:
            type: Event type, as in ``task-sent``.
            fields: Fields of that type.
            blind: Leave the logical clock alone, as clients do.
            kwargs: Arguments of ``Producer.publish``, as ``retry``.
        """
        clock = None if blind else self.clock.forward()
        event = Event(type, fields, **self._origin(local_utcoffset(), clock))
        with self.mutex:
            self._publish(event, producer, wire.routing_key(type), **kwargs)

    def send(
        self,
        type: str,
        blind: bool = False,
        utcoffset: Callable[[], float] = local_utcoffset,
        retry: bool = False,
        retry_policy: dict[str, Any] | None = None,
        Event: Callable[..., dict[str, Any]] = make_event,
        **fields: Any,
    ) -> None:
        """
        Send an event, or put it into the buffer of its group, if events are on.

        Args:
            type: Event type, as in ``task-received``.
            blind: Leave the logical clock alone.
            retry: Try again, after *retry_policy*, when the broker cannot be reached.
            fields: Fields of that type.
        """
        if not self.enabled:
            return
        group, type_text = _groups.get(type) or _learn(type)
        if self.groups and group not in self.groups:
            return
        now = time.time()
        if now >= self._offset_expires:
            self._look_at_offset(now, utcoffset)
        if group in self.buffer_group:
            clock = None if blind else self.clock.forward()
            if Event is make_event and self._encode is not None and _COMMON.isdisjoint(fields):
                kept: Any = wire.text(
                    self._encode(fields), self._origin_text, clock, repr(now), type_text
                )
            else:
                kept = Event(type, {**fields, **self._origin(self.tzoffset, clock)})
            waiting = self._groups_waiting[group]
            waiting.append(kept)
            if len(waiting) >= self.buffer_limit:
                self.flush()
            elif self.on_send_buffered is not None:
                self.on_send_buffered()
            return
        clock = None if blind else self.clock.forward()
        event = Event(type, {**fields, **self._origin(self.tzoffset, clock)})
        with self.mutex:
            self._publish(
                event,
                self.producer,
                wire.routing_key(type),
                retry=retry,
                retry_policy=retry_policy,
            )

    def sketch(self, sketch: wire.Sketch, *values: Any) -> None:
        """
        Do what :meth:`send` does for an event of a task, with as little as possible now.

        Whoever calls has seen that events are enabled, and those of tasks wanted.

        Args:
            values: From which *sketch* makes the event, later; nobody may change them.
        """
        if not (self._may_sketch and wire.TASK_GROUP in self.buffer_group):
            self.send(sketch.type, **sketch.fields(*values))
            return
        waiting = self._groups_waiting[wire.TASK_GROUP]
        waiting.append((sketch, self.clock.forward(), time.time(), values))
        if len(waiting) >= self.buffer_limit:
            self.flush()
        elif not self._is_flush_wanted and self.on_send_buffered is not None:
            self._is_flush_wanted = True
            self.on_send_buffered()

    def _look_at_offset(self, now: float, utcoffset: Callable[[], float]) -> None:
        self.tzoffset, self._offset_expires = utcoffset(), now + _OFFSET_TTL_S
        self._origin_text = wire.origin_text(self.hostname, self.pid, self.tzoffset)

    def _origin(self, offset: float, clock: int | None) -> dict[str, Any]:
        return wire.origin(self.hostname, self.pid, offset, clock)

    def _publish(self, body: Any, producer: Producer | None, routing_key: str, **how: Any) -> None:
        try:
            if producer is None:
                raise ConnectionError("the event dispatcher is closed")
            if type(body) is str:
                how |= {"content_type": "application/json", "content_encoding": "utf-8"}
            else:
                how["serializer"] = self.serializer
            producer.publish(
                body,
                routing_key=routing_key,
                exchange=self.exchange.name,
                declare=[self.exchange],
                headers=self.headers,
                delivery_mode=self.delivery_mode,
                **how,
            )
        except Exception as exc:
            if not self.buffer_while_offline:
                raise
            self._keep(body, routing_key, exc)

    def _keep(self, body: Any, routing_key: str, exc: Exception) -> None:
        if len(self._offline) == _OFFLINE_LIMIT:
            logger.warning("Dropping the oldest of %s events: %r", _OFFLINE_LIMIT, exc)
        elif not self._offline:
            logger.debug("Keeping events until the broker is back: %r", exc)
        self._offline.append((body, routing_key))

    def flush(self, errors: bool = True, groups: bool = True) -> None:
        """
        Send what is waiting.

        Args:
            errors: Events that could not be sent earlier.
            groups: Events collected to be sent as lists.
        """
        if errors:
            self._resend()
        if groups:
            self._is_flush_wanted = False
            with self.mutex:
                for group, waiting in self._groups_waiting.items():
                    # Other threads may add to it meanwhile.
                    events = waiting[:]
                    del waiting[: len(events)]
                    if events:
                        self._publish(
                            self._joined(events), self.producer, wire.batch_routing_key(group)
                        )

    def _joined(self, events: list[Any]) -> Any:
        """Return a list of events as JSON, where that is the serializer, else as it is."""
        encode = self._encode
        if encode is None:
            return events
        now = time.time()
        if now >= self._offset_expires:
            self._look_at_offset(now, local_utcoffset)
        origin, second = self._origin_text, int(now)
        parts = []
        for each in events:
            if type(each) is tuple:
                sketch, clock, moment, values = each
                micros = int((moment - second) * 1e6)
                if not 0 <= micros < 1_000_000:
                    second = int(moment)
                    micros = int((moment - second) * 1e6)
                # Writing a float takes longer than all else.
                timestamp = f"{second}.{micros:06d}"
                try:
                    parts.append(sketch.text(origin, clock, timestamp, *values))
                except TypeError:
                    own, (_, type_text) = encode(sketch.fields(*values)), _learn(sketch.type)
                    parts.append(wire.text(own, origin, clock, timestamp, type_text))
            else:
                parts.append(each if type(each) is str else encode(each))
        return f"[{', '.join(parts)}]"

    def _resend(self) -> None:
        with self.mutex:
            # Those that fail again are put back at the end of the same queue.
            for _ in range(len(self._offline)):
                body, routing_key = self._offline.popleft()
                self._publish(body, self.producer, routing_key)

    def extend_buffer(self, other: EventDispatcher) -> None:
        """Take over what *other*, the dispatcher of a lost connection, could not send."""
        self._offline.extend(other._offline)
        for group, waiting in other._groups_waiting.items():
            self._groups_waiting[group].extend(waiting)

    def close(self) -> None:
        """Give the producer up; events of a closed dispatcher are kept like those offline."""
        self.producer = None

    @property
    def publisher(self) -> Producer | None:
        """The producer, by its old name."""
        return self.producer

    @publisher.setter
    def publisher(self, producer: Producer | None) -> None:
        self.producer = producer
