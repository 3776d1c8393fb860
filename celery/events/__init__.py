"""
Events: what workers and tasks tell monitors.

Messages on a topic exchange, sent by a dispatcher, taken by a receiver and merged into a picture
of the cluster by :mod:`celery.events.state`.
"""

from __future__ import annotations

from celery.events.dispatcher import EventDispatcher
from celery.events.event import Event, event_exchange, get_exchange, group_from
from celery.events.receiver import EventReceiver

__all__ = (
    "Event",
    "EventDispatcher",
    "EventReceiver",
    "event_exchange",
    "get_exchange",
    "group_from",
)
