"""
Events on the wire: names of fields, types and routing keys.

An event is a flat JSON object; several events of one group may travel as a list. Senders
(:mod:`celery.events.dispatcher`), receivers and the cluster state read the names from here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from json.encoder import encode_basestring_ascii
from typing import Any, NamedTuple

from celery import states

#: One event, decoded.
EventFields = dict[str, Any]

#: Returns a text as JSON.
_quote: Callable[[str], str] = encode_basestring_ascii

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


def text(own: str, origin: str, clock: int | None, timestamp: str, type_text: str) -> str:
    """
    Return one event as JSON, made of parts.

    Args:
        own: Its own fields, a JSON object; none of those that say where it comes from.
        origin: Of `origin_text`.
        type_text: Its type, a JSON string.
    """
    comma = ", " if len(own) > 2 else ""
    moment = f'"clock": {"null" if clock is None else clock}, "timestamp": {timestamp}'
    return f'{own[:-1]}{comma}{origin}, {moment}, "type": {type_text}}}'


# -- events of which a busy worker sends thousands a second


class Sketch(NamedTuple):
    """One type of event, to be put together when it is sent.

    Attributes:
        fields: Makes its own fields of some values.
        text: Makes the whole event as JSON: of what `origin_text` returns, clock, timestamp, and
            the same values. Raises TypeError for values that are not what they nearly always are.
    """

    type: str
    fields: Callable[..., EventFields]
    text: Callable[..., str]


def _received(
    task_id: str, name: str, headers: Mapping[str, Any], eta: str | None, expires: str | None
) -> EventFields:
    get = headers.get
    return {
        "uuid": task_id,
        "name": name,
        "args": get("argsrepr", ""),
        "kwargs": get("kwargsrepr", ""),
        "root_id": get("root_id"),
        "parent_id": get("parent_id"),
        "retries": get("retries", 0),
        "eta": eta,
        "expires": expires,
    }


def _received_text(
    origin: str,
    clock: int,
    timestamp: str,
    task_id: str,
    name: str,
    headers: Mapping[str, Any],
    eta: str | None,
    expires: str | None,
) -> str:
    get = headers.get
    root_id, parent_id, retries = get("root_id"), get("parent_id"), get("retries", 0)
    if type(retries) is not int:
        raise TypeError("retries is no number")
    return (
        f'{{"uuid": {_quote(task_id)}, "name": {_quote(name)}, '
        f'"args": {_quote(get("argsrepr", ""))}, "kwargs": {_quote(get("kwargsrepr", ""))}, '
        f'"root_id": {"null" if root_id is None else _quote(root_id)}, '
        f'"parent_id": {"null" if parent_id is None else _quote(parent_id)}, '
        f'"retries": {retries}, '
        f'"eta": {"null" if eta is None else _quote(eta)}, '
        f'"expires": {"null" if expires is None else _quote(expires)}, {origin}, '
        f'"clock": {clock}, "timestamp": {timestamp}, "type": "task-received"}}'
    )


def _started(task_id: str) -> EventFields:
    return {"uuid": task_id}


def _started_text(origin: str, clock: int, timestamp: str, task_id: str) -> str:
    return (
        f'{{"uuid": {_quote(task_id)}, {origin}, '
        f'"clock": {clock}, "timestamp": {timestamp}, "type": "task-started"}}'
    )


def _succeeded(task_id: str, result: str, runtime: float) -> EventFields:
    return {"uuid": task_id, "result": result, "runtime": runtime}


def _succeeded_text(
    origin: str, clock: int, timestamp: str, task_id: str, result: str, runtime: float
) -> str:
    if type(runtime) is not float:
        raise TypeError("runtime is no float")
    return (
        f'{{"uuid": {_quote(task_id)}, "result": {_quote(result)}, "runtime": {runtime:.9f}, '
        f'{origin}, "clock": {clock}, "timestamp": {timestamp}, "type": "task-succeeded"}}'
    )


#: Of task id, name, headers, and eta and expires as ISO 8601 or None.
RECEIVED = Sketch("task-received", _received, _received_text)
#: Of task id.
STARTED = Sketch("task-started", _started, _started_text)
#: Of task id, result as text, and seconds.
SUCCEEDED = Sketch("task-succeeded", _succeeded, _succeeded_text)
