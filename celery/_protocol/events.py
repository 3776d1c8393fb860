"""
Events on the wire: names of fields, types and routing keys.

An event is a flat JSON object; several events of one group may travel as a list. Senders
(:mod:`celery.events.dispatcher`), receivers and the cluster state read the names from here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from celery import states

#: One event, decoded.
EventFields = dict[str, Any]

EXCHANGE = "celeryev"

TASK_GROUP = "task"
WORKER_GROUP = "worker"

#: State of a task after an event of that kind; other kinds are states of their own.
STATE_AFTER: Mapping[str, str] = {
    "sent": states.PENDING,
    "received": states.RECEIVED,
    "started": states.STARTED,
    "failed": states.FAILURE,
    "retried": states.RETRY,
    "succeeded": states.SUCCESS,
    "revoked": states.REVOKED,
    "rejected": states.REJECTED,
}

#: Fields that an event adds even when a later one has overtaken it.
FIELDS_OF_OVERTAKEN: Mapping[str, tuple[str, ...]] = {
    states.RECEIVED: (
        "name",
        "args",
        "kwargs",
        "parent_id",
        "root_id",
        "retries",
        "eta",
        "expires",
    ),
}

#: Fields that a late ``task-sent`` adds: where the client sent the task to.
FIELDS_OF_LATE_SENT = ("name", "exchange", "routing_key", "root_id", "parent_id")


def group_of(type: str) -> str:
    """Return the group of an event type: ``task`` for ``task-sent``."""
    return type.partition("-")[0]


def subject_of(type: str) -> str:
    """Return what happened: ``sent`` for ``task-sent``."""
    return type.partition("-")[2]


def routing_key(type: str) -> str:
    """Return the topic of a single event: ``task.sent`` for ``task-sent``."""
    return type.replace("-", ".")


def batch_routing_key(group: str) -> str:
    """Return the topic of a list of events of one group."""
    return f"{group}.multi"


def headers(hostname: str) -> dict[str, str]:
    """Return the headers of a message from that node."""
    return {"hostname": hostname}


def origin(hostname: str, pid: int, utcoffset: float, clock: int | None) -> EventFields:
    """
    Return the fields that say where an event comes from.

    Args:
        hostname: Node name of the sender.
        pid: Its main process.
        utcoffset: Hours its local time is behind UTC.
        clock: Its logical clock; None for senders that keep none.
    """
    return {"hostname": hostname, "utcoffset": utcoffset, "pid": pid, "clock": clock}


def origin_text(hostname: str, pid: int, utcoffset: float) -> str:
    """Return what `text` needs to know about the sender; it changes with the distance to UTC."""
    return f'"hostname": {json.dumps(hostname)}, "pid": {pid}, "utcoffset": {json.dumps(utcoffset)}'


def text(own: str, origin: str, clock: int | None, timestamp: float, type_text: str) -> str:
    """
    Return one event as JSON, made of parts.

    Args:
        own: Its own fields, a JSON object; none of those that say where it comes from.
        origin: Of `origin_text`.
        type_text: Its type, a JSON string.
    """
    comma = ", " if len(own) > 2 else ""
    moment = f'"clock": {"null" if clock is None else clock}, "timestamp": {timestamp!r}'
    return f'{own[:-1]}{comma}{origin}, {moment}, "type": {type_text}}}'
