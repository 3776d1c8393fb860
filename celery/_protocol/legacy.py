"""Version 1 task messages, where the body holds everything (``task_protocol = 1``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from celery._protocol.message import Outgoing, sent_event_fields


def encode(
    task_id: str,
    name: str,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    *,
    eta: str | None,
    expires: str | None,
    ttl: float | None,
    utc: bool,
    group_id: str | None,
    group_index: int | None,
    retries: int,
    time_limit: float | None,
    soft_time_limit: float | None,
    callbacks: Sequence[Any] | None,
    errbacks: Sequence[Any] | None,
    chord: Any | None,
    reply_to: str | None,
    argsrepr: str,
    kwargsrepr: str,
    create_sent_event: bool,
) -> Outgoing:
    """Encode one call as a version 1 message; see `celery._protocol.message.encode`."""
    body = {
        "task": name,
        "id": task_id,
        "args": args,
        "kwargs": kwargs,
        "group": group_id,
        "group_index": group_index,
        "retries": retries,
        "eta": eta,
        "expires": expires,
        "utc": utc,
        "callbacks": callbacks,
        "errbacks": errbacks,
        "timelimit": (time_limit, soft_time_limit),
        "taskset": group_id,
        "chord": chord,
    }
    properties: dict[str, Any] = {"correlation_id": task_id, "reply_to": reply_to or ""}
    if ttl is not None:
        properties["expiration"] = ttl
    return Outgoing(
        {},
        properties,
        body,
        sent_event_fields(task_id, name, argsrepr, kwargsrepr, None, None, retries, eta, expires)
        if create_sent_event
        else None,
    )
