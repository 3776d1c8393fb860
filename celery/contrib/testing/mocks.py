"""Messages for unit tests, as a worker would take them from a broker."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock

from kombu.utils.uuid import uuid

if TYPE_CHECKING:
    from celery.app.base import Celery


def _message(name: str, task_id: str, headers: Mapping[str, Any], body: Any) -> Mock:
    message = Mock(name=f"TaskMessage-{task_id}")
    message.headers = dict(headers)
    message.body = json.dumps(body)
    message.payload = body
    message.decode = Mock(return_value=body)
    message.content_type = "application/json"
    message.content_encoding = "utf-8"
    message.delivery_info = {"exchange": "", "routing_key": name, "redelivered": False}
    message.delivery_tag = task_id
    message.acknowledged = False
    message.properties = {
        "correlation_id": task_id,
        "content_type": "application/json",
        "content_encoding": "utf-8",
        "reply_to": None,
        "priority": 0,
    }
    return message


def TaskMessage(
    name: str,
    id: str | None = None,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    callbacks: Any = None,
    errbacks: Any = None,
    chain: Any = None,
    shadow: str | None = None,
    utc: bool | None = None,
    **options: Any,
) -> Mock:
    """
    Return a task message of protocol 2.

    Args:
        name: Name of the task.
        id: Task id; a new one by default.
        options: More headers.
    """
    task_id = id or uuid()
    headers = {
        "lang": "py",
        "task": name,
        "id": task_id,
        "root_id": task_id,
        "parent_id": None,
        "retries": 0,
        "eta": None,
        "expires": None,
        "group": None,
        "timelimit": [None, None],
        "shadow": shadow,
        **options,
    }
    links = {"callbacks": callbacks, "errbacks": errbacks, "chain": chain, "chord": None}
    return _message(name, task_id, headers, [list(args), dict(kwargs or {}), links])


def TaskMessage1(
    name: str,
    id: str | None = None,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    callbacks: Any = None,
    errbacks: Any = None,
    chain: Any = None,
    **options: Any,
) -> Mock:
    """Return a task message of protocol 1, which has everything in its body."""
    task_id = id or uuid()
    body = {
        "task": name,
        "id": task_id,
        "args": list(args),
        "kwargs": dict(kwargs or {}),
        "callbacks": callbacks,
        "errbacks": errbacks,
        "chain": chain,
        **options,
    }
    return _message(name, task_id, {}, body)


def task_message_from_sig(
    app: Celery, sig: Any, utc: bool = True, TaskMessage: Callable[..., Mock] = TaskMessage
) -> Mock:
    """Return the message that calling the signature *sig* would send."""
    sig.freeze()
    links = {name: sig.options.get(name) for name in ("link", "link_error")}
    headers = {
        name: value
        for name, value in sig.options.items()
        if name in ("eta", "expires", "group_id", "root_id", "parent_id", "shadow")
    }
    shadow = headers.pop("shadow", None)
    if "group_id" in headers:
        headers["group"] = headers.pop("group_id")
    return TaskMessage(
        sig.task,
        id=sig.id,
        args=sig.args,
        kwargs=sig.kwargs,
        callbacks=[dict(link) for link in links["link"] or ()] or None,
        errbacks=[dict(link) for link in links["link_error"] or ()] or None,
        shadow=shadow,
        utc=utc,
        **headers,
    )


class _ContextMock(Mock):
    """A mock that may be used with ``with``; special methods are looked up on the class."""

    def __enter__(self) -> Any:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        """Swallow no exception."""


def ContextMock(*args: Any, **kwargs: Any) -> Mock:
    """Return a mock that is a context manager of itself."""
    return _ContextMock(*args, **kwargs)
