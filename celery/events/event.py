"""Making single events, and the exchange they go to."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from copy import copy
from typing import Any

from kombu.entity import Exchange

from celery._protocol import events as wire

__all__ = ("Event", "event_exchange", "get_exchange", "group_from")

EVENT_EXCHANGE_NAME = wire.EXCHANGE

#: The default exchange, not bound to a channel.
event_exchange = Exchange(EVENT_EXCHANGE_NAME, type="topic")

#: Transports whose broadcasts are cheaper, and can be filtered too, on a fanout exchange.
_FANOUT_TRANSPORTS = frozenset({"redis"})


def Event(
    type: str,
    _fields: Mapping[str, Any] | None = None,
    __dict__: Callable[..., dict[str, Any]] = dict,
    __now__: Callable[[], float] = time.time,
    **fields: Any,
) -> dict[str, Any]:
    """
    Return an event as a dictionary.

    Args:
        type: Group and subject, as in ``task-sent``.
        _fields: More fields, over those given by name.
        fields: Fields of this type; without ``timestamp`` the time is now.
    """
    event = __dict__(fields, **_fields) if _fields else fields
    if "timestamp" not in event:
        event["timestamp"] = __now__()
    event["type"] = type
    return event


def group_from(type: str) -> str:
    """Return the group of an event type: ``task`` for ``task-sent``."""
    return wire.group_of(type)


def get_exchange(conn: Any, name: str = EVENT_EXCHANGE_NAME) -> Exchange:
    """Return the event exchange of that name, of a type that the broker of *conn* offers."""
    exchange = copy(event_exchange)
    exchange.name = name
    transport = conn.transport
    offered = getattr(transport.implements, "exchange_type", ())
    if transport.driver_type in _FANOUT_TRANSPORTS or (offered and "topic" not in offered):
        exchange.type = "fanout"
    return exchange
