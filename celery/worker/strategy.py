"""From a task message to a decision: run it, hold it until its time, or drop it.

A strategy is built once for each task when the consumer starts, with everything bound
that it needs, and called with each message of that task. Custom strategies
(``Task.Strategy``) have the signature of `default`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from datetime import datetime
from time import time
from typing import TYPE_CHECKING, Any

from kombu.exceptions import ContentDisallowed
from kombu.serialization import prepare_accept_content, registry

from celery import signals
from celery.app import trace
from celery.exceptions import InvalidTaskError
from celery.utils.imports import symbol_by_name
from celery.utils.log import get_logger
from celery.utils.saferepr import saferepr
from celery.utils.time import timezone
from celery.worker import health_metrics
from celery.worker.request import Request, create_request_cls
from celery.worker.state import task_reserved as task_reserved

if TYPE_CHECKING:
    from celery.app.base import Celery
    from celery.app.task import Task

__all__ = ("default",)

logger = get_logger(__name__)

#: Priority in the timer of tasks that wait for their ETA; housekeeping has lower numbers.
ETA_PRIORITY = 6

#: End of a JSON body that can be the three parts of a task message, and a name in the third.
_JSON_END = b"}]"
_EMBEDDED = b'"callbacks"'


Decoded = tuple[Any, dict[str, Any], bool, bool]


def hybrid_to_proto2(message: Any, body: Mapping[str, Any]) -> Decoded:
    """Read a message with the fields of a task in its body, and arguments that may be absent.

    Returns:
        Body (args, kwargs, embedded options), headers, True for "decoded", and whether its
        naive times are in UTC.
    """
    return _from_fields(body)


def proto1_to_proto2(message: Any, body: Mapping[str, Any]) -> Decoded:
    """Read a version 1 message, whose body holds everything; see `hybrid_to_proto2`.

    Raises:
        InvalidTaskError: The body is no mapping, or its arguments are of no use.
    """
    return _from_fields(body)


def _from_fields(body: Mapping[str, Any]) -> Decoded:
    if not isinstance(body, Mapping):
        raise InvalidTaskError(f"Task message body is no mapping: {type(body).__name__}")
    args, kwargs = body.get("args") or (), body.get("kwargs") or {}
    if not isinstance(kwargs, Mapping):
        raise InvalidTaskError("Task keyword arguments must be a mapping")
    if not isinstance(args, list | tuple):
        raise InvalidTaskError("Task positional arguments must be a list")
    headers = dict(body)
    if "group" not in headers and "taskset" in headers:
        headers["group"] = headers["taskset"]
    headers.setdefault("argsrepr", saferepr(args))
    headers.setdefault("kwargsrepr", saferepr(kwargs))
    if headers.get("id"):
        headers.setdefault("root_id", headers["id"])
    embedded = {
        "callbacks": body.get("callbacks"),
        "errbacks": body.get("errbacks"),
        "chord": body.get("chord"),
        "chain": None,
    }
    return (args, kwargs, embedded), headers, True, body.get("utc", True)


def default(
    task: Task,
    app: Celery,
    consumer: Any,
    info: Callable[..., Any] = logger.info,
    error: Callable[..., Any] = logger.error,
    task_reserved: Callable[[Any], Any] = task_reserved,
    to_system_tz: Callable[[datetime], datetime] = timezone.to_system,
    bytes: type = bytes,
    proto1_to_proto2: Callable[..., Decoded] = proto1_to_proto2,
) -> Callable[..., None]:
    """Build the function that handles each message of *task*.

    What it returns is called with the message, its decoded body (None for version 2, which
    stays undecoded), functions that acknowledge and reject it, and functions to tell of the
    request. It raises `InvalidTaskError` or `ContentDisallowed` for what can't be a task.
    """
    hostname = consumer.hostname
    connection_errors = consumer.connection_errors
    eventer = consumer.event_dispatcher
    pool = consumer.pool
    run = consumer.on_task_request
    throttle = consumer.throttle
    hold = consumer.hold
    buckets = consumer.task_buckets
    name = task.name
    received = signals.task_received
    shows_info = logger.isEnabledFor(logging.INFO)
    shows_args = logger.isEnabledFor(logging.DEBUG)
    undecoded = _body_reader(app, pool)
    request_cls = _request_class(task, app, consumer)
    is_counted = getattr(consumer, "tally", None) is not None

    def handle(
        message: Any,
        body: Any,
        ack: Callable[..., Any],
        reject: Callable[..., Any],
        callbacks: Any = (),
    ) -> None:
        headers, decoded, utc = message.headers, False, True
        if body is None:
            body = undecoded(message)
        else:
            body, headers, decoded, utc = proto1_to_proto2(message, body)
        req = request_cls(
            message,
            on_ack=ack,
            on_reject=reject,
            app=app,
            hostname=hostname,
            eventer=eventer,
            task=task,
            connection_errors=connection_errors,
            body=body,
            headers=headers,
            decoded=decoded,
            utc=utc,
        )
        if shows_info:
            _log_received(req, info, shows_args)
        if req.revoked():
            return
        if eventer is not None and eventer.enabled:
            req.announce()
        if received.receivers:
            received.send(sender=consumer, request=req)
        if req._eta is not None and (due := req._eta.timestamp()) > time():
            # The rate limit counts from then on.
            hold(req, due)
            return
        task_reserved(req)
        bucket = buckets.get(name)
        if bucket is not None:
            throttle(req, bucket)
            return
        if is_counted:
            since = health_metrics.waiting_since(message, time())
            req.waits_since = since  # type: ignore[attr-defined]  # of counted requests
        for callback in callbacks or ():
            callback(req)
        run(req)

    return handle


def _log_received(req: Request, info: Callable[..., Any], with_args: bool) -> None:
    fields = {
        "id": req.id,
        "name": req.name,
        "args": req.argsrepr,
        "kwargs": req.kwargsrepr,
        "eta": req.eta,
    }
    text = trace.LOG_RECEIVED
    if with_args:
        text += " args=%(args)s kwargs=%(kwargs)s"
    if req.eta is not None:
        text += "  ETA:[%(eta)s]"
    info(text, fields, extra={"data": fields})


def _request_class(task: Task, app: Celery, consumer: Any) -> type[Request]:
    """Return the class of the task's requests, with what all of them share bound to it."""
    cls = create_request_cls(
        symbol_by_name(task.Request),
        task,
        consumer.pool,
        consumer.hostname,
        consumer.event_dispatcher,
        app=app,
        results=getattr(consumer, "results", None),
    )
    tally = getattr(consumer, "tally", None)
    return cls if tally is None else health_metrics.counted(cls, tally.of(task.name))


def _body_reader(app: Celery, pool: Any) -> Callable[[Any], Any]:
    """Return a function that gives the undecoded body of a message, as *pool* takes it.

    It raises `ContentDisallowed` for a type that must not be decoded, and `InvalidTaskError` for
    what can't be the body of a task.
    """
    accepted = prepare_accept_content(app.conf.accept_content)
    takes_buffer = bool(getattr(pool, "body_can_be_buffer", False))
    known: set[Any] = set()

    def read(message: Any) -> Any:
        content_type = message.content_type
        if content_type not in known:
            if (
                content_type in registry._disabled_content_types
                if accepted is None
                else content_type not in accepted
            ):
                raise _untrusted(message)
            known.add(content_type)
        body = message.body
        if type(body) is memoryview and not takes_buffer:
            body = bytes(body)
        if message.errors or content_type == "application/json":
            _check_shape(body, message)
        return body

    return read


def _untrusted(message: Any) -> ContentDisallowed:
    content_type = message.content_type
    name = registry.type_to_name.get(content_type, content_type)
    shown = content_type if name == content_type else f"{name} ({content_type})"
    return ContentDisallowed(f"Refusing to deserialize untrusted content of type {shown}")


def _check_shape(body: Any, message: Any) -> None:
    """Refuse a body that can't be the three parts of a task message, without decoding it.

    Only JSON is looked at: its ends, and whether the options of the third part are named anywhere.
    Without them it is decoded to be sure. What gets past this fails as a task when the pool process
    decodes it.

    Raises:
        InvalidTaskError: It is something else, or broken.
    """
    errors = message.errors
    if errors and isinstance(errors, list):
        raise InvalidTaskError(f"Cannot read the message body: {errors[0][1]!r}")
    if message.content_type != "application/json":
        return
    raw = body.encode() if isinstance(body, str) else bytes(body)
    if raw[:2] == b"[[" and raw[-2:] == _JSON_END and _EMBEDDED in raw:
        return
    try:
        parts = message.decode()
        _args, _kwargs, embed = parts
    except Exception as exc:
        raise InvalidTaskError(
            f"Task message body is not args, kwargs and options: {exc!r}"
        ) from exc
    if isinstance(parts, Mapping) or not (embed is None or isinstance(embed, Mapping)):
        raise InvalidTaskError("Task message body is not args, kwargs and options")
