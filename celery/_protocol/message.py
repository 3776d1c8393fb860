"""Task messages: the call of a task as headers, properties and body.

Version 2, the default, describes the task in message headers, so that a worker can
route, log, revoke or delay it without decoding the body. Version 1 (setting
``task_protocol = 1``) puts everything into the body; it is in `celery._protocol.legacy`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

#: Language named in the ``lang`` header; workers do not check it.
LANG = "py"

#: Headers of a version 2 message; others are the caller's own (``request.headers``).
TASK_HEADERS = frozenset(
    {
        "argsrepr", "eta", "expires", "group", "group_index", "id", "ignore_result",
        "kwargsrepr", "lang", "meth", "origin", "parent_id", "replaced_task_nesting",
        "retries", "root_id", "shadow", "stamped_headers", "stamps", "task", "timelimit",
        "compression",
    }
)  # fmt: skip


class Outgoing(NamedTuple):
    """A task message before it is serialized.

    ``sent_event`` holds the fields of the ``task-sent`` event, or None when not asked for.
    """

    headers: dict[str, Any]
    properties: dict[str, Any]
    body: Any
    sent_event: dict[str, Any] | None


Outgoing.__name__ = Outgoing.__qualname__ = "task_message"
Outgoing.__module__ = "celery.app.amqp"


class Embedded(NamedTuple):
    """What a version 2 body carries beside the arguments, in wire order."""

    callbacks: Sequence[Any] | None
    errbacks: Sequence[Any] | None
    chain: Sequence[Any] | None
    chord: Any | None


NOTHING_EMBEDDED = Embedded(None, None, None, None)


def stamps_of(options: Mapping[str, Any], stamped_headers: Sequence[str] | None) -> dict[str, Any]:
    """Pick the stamps out of a call's options; keys not listed are no stamps."""
    if not stamped_headers:
        return {}
    return {name: options[name] for name in stamped_headers if name in options}


def encode(
    task_id: str,
    name: str,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    *,
    eta: str | None,
    expires: str | None,
    ttl: float | None,
    group_id: str | None,
    group_index: int | None,
    retries: int,
    time_limit: float | None,
    soft_time_limit: float | None,
    root_id: str | None,
    parent_id: str | None,
    shadow: str | None,
    argsrepr: str,
    kwargsrepr: str,
    origin: str,
    ignore_result: bool | None,
    replaced_task_nesting: int,
    stamped_headers: Sequence[str] | None,
    stamps: dict[str, Any],
    reply_to: str | None,
    embedded: Embedded,
    create_sent_event: bool,
) -> Outgoing:
    """Encode one call as a version 2 message.

    Args:
        eta, expires: Moments as ISO 8601 text, or None.
        ttl: Seconds after which the broker may drop the message, or None.
        time_limit, soft_time_limit: Seconds; the header states the hard one first.
        ignore_result: None leaves the choice to the worker's own task.
    """
    headers = {
        "lang": LANG,
        "task": name,
        "id": task_id,
        "shadow": shadow,
        "eta": eta,
        "expires": expires,
        "group": group_id,
        "group_index": group_index,
        "retries": retries,
        "timelimit": [time_limit, soft_time_limit],
        "root_id": root_id,
        "parent_id": parent_id,
        "argsrepr": argsrepr,
        "kwargsrepr": kwargsrepr,
        "origin": origin,
        "ignore_result": ignore_result,
        "replaced_task_nesting": replaced_task_nesting,
        "stamped_headers": stamped_headers,
        "stamps": stamps,
    }
    properties: dict[str, Any] = {"correlation_id": task_id, "reply_to": reply_to or ""}
    if ttl is not None:
        properties["expiration"] = ttl
    body = (
        args,
        kwargs,
        {
            "callbacks": embedded.callbacks,
            "errbacks": embedded.errbacks,
            "chain": embedded.chain,
            "chord": embedded.chord,
        },
    )
    return Outgoing(
        headers,
        properties,
        body,
        sent_event_fields(
            task_id, name, argsrepr, kwargsrepr, root_id, parent_id, retries, eta, expires
        )
        if create_sent_event
        else None,
    )


def sent_event_fields(
    task_id: str,
    name: str,
    argsrepr: str,
    kwargsrepr: str,
    root_id: str | None,
    parent_id: str | None,
    retries: int,
    eta: str | None,
    expires: str | None,
) -> dict[str, Any]:
    """Collect what a ``task-sent`` event says, less the destination, which is not known yet."""
    return {
        "uuid": task_id,
        "root_id": root_id,
        "parent_id": parent_id,
        "name": name,
        "args": argsrepr,
        "kwargs": kwargsrepr,
        "retries": retries,
        "eta": eta,
        "expires": expires,
    }
