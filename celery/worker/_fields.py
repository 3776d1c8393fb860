"""What a task message says, as properties of the request that holds it.

Base of `celery.worker.request.Request`, which keeps the values. What needs the arguments
decodes the body on demand; nothing here is read on the way of an ordinary task.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from celery.app.task import Context
from celery.utils.functional import maybe_list
from celery.utils.log import get_logger

if TYPE_CHECKING:
    from celery.app.task import Task

logger = get_logger("celery.worker.request")


def slot(name: str, doc: str, *, writable: bool = False) -> Any:
    """Return a property that shows the private slot *name*."""

    def put(self: MessageFields, value: Any) -> None:
        setattr(self, name, value)

    return property(attrgetter(name), put if writable else None, doc=doc)


def header(name: str, doc: str, default: Any = None) -> Any:
    """Return a property that shows the field *name* of the message."""

    def read(self: MessageFields) -> Any:
        return self._request_dict.get(name, default)

    return property(read, doc=doc)


class MessageFields:
    """The fields of a message and of the request made from it."""

    __slots__ = ()

    if TYPE_CHECKING:
        id: str
        name: str
        _app: Any
        _task: Task
        _body: Any
        _decoded: bool
        _message: Any
        _request_dict: dict[str, Any]
        _context_cache: Context | None

    message = slot("_message", "The kombu message.")
    app = slot("_app", "The app that the worker belongs to.")
    task = slot("_task", "The task object.")
    body = slot("_body", "What the pool gets: to be decoded, unless `content_type` is None.")
    content_type = slot("_content_type", "Content type of the body, None when it is decoded.")
    content_encoding = slot("_content_encoding", "Encoding of the body, None when it is decoded.")
    request_dict = slot("_request_dict", "Fields from which the request context is built.")
    utc = slot("_utc", "Whether naive times of the message are in UTC.")
    eta = slot("_eta", "Aware moment before which the task must not start, or None.")
    expires = slot("_expires", "Aware moment after which the task is not wanted, or None.")
    hostname = slot("_hostname", "Node name of the worker.")
    eventer = slot("_eventer", "The event dispatcher.", writable=True)
    connection_errors = slot("_connection_errors", "What settling may raise on a lost connection.")
    on_ack = slot("_on_ack", "Acknowledges the message.")
    on_reject = slot("_on_reject", "Rejects the message.", writable=True)
    task_id = slot("id", "Same as `id`.", writable=True)
    task_name = slot("name", "Same as `name`.", writable=True)

    delivery_info = header("delivery_info", "Where it came from, and whether not the first time.")
    type = header("task", "Name of the task that runs; `name` is the shadow if there is one.")
    root_id = header("root_id", "Id of the first task of the workflow.")
    parent_id = header("parent_id", "Id of the task that called this one.")
    argsrepr = header("argsrepr", "The positional arguments as the caller showed them.", "")
    kwargsrepr = header("kwargsrepr", "The keyword arguments as the caller showed them.", "")
    group = header("group", "Id of the group this task is a part of.")
    group_index = header("group_index", "Place in the group.")
    groups = header("groups", "Groups around this task, as stamped.")
    reply_to = header("reply_to", "Queue that the caller reads results from.")
    correlation_id = header("correlation_id", "Id that replies carry; equals the task id.")
    replaced_task_nesting = header("replaced_task_nesting", "How often this task was replaced.", 0)

    @property
    def _payload(self) -> Any:
        return self._body if self._decoded else self._message.payload

    @property
    def args(self) -> Any:
        """The positional arguments; decodes the body."""
        return self._payload[0]

    @property
    def kwargs(self) -> Any:
        """The keyword arguments; decodes the body."""
        return self._payload[1]

    @property
    def _embed(self) -> Mapping[str, Any]:
        return self._payload[2] or {}

    @property
    def chord(self) -> Any:
        """Body of the chord this task is a part of; decodes the body."""
        return self._embed.get("chord")

    @property
    def errbacks(self) -> Any:
        """Signatures to call on failure; decodes the body."""
        return self._embed.get("errbacks")

    @property
    def stamped_headers(self) -> list[str]:
        """Names of the stamps."""
        return self._request_dict.get("stamped_headers") or []

    @property
    def stamps(self) -> dict[str, Any]:
        """Values of the stamps, each a list."""
        stamps = self._request_dict.get("stamps") or {}
        return {name: maybe_list(stamps.get(name) or []) for name in self.stamped_headers}

    @property
    def ignore_result(self) -> bool:
        """Whether the result is not stored: the call's choice, else the task's."""
        chosen = self._request_dict.get("ignore_result")
        return bool(self._task.ignore_result if chosen is None else chosen)

    @property
    def store_errors(self) -> bool:
        """Whether a failure is stored."""
        return not self.ignore_result or bool(self._task.store_errors_even_if_ignored)

    @property
    def tzlocal(self) -> Any:
        """The zone of the app."""
        return UTC if self._app is None else self._app.timezone

    @property
    def _context(self) -> Context:
        """The request context, for hooks and stores called in this process."""
        if self._context_cache is None:
            fields = dict(self._request_dict)
            try:
                args, kwargs, embed = self._payload
            except Exception as exc:  # noqa: BLE001 - an undecodable body must not hide the end
                logger.debug("Cannot decode the body of %s: %r", self.id, exc)
                args, kwargs, embed = (), {}, None
            fields.update(embed or {}, args=args, kwargs=kwargs, called_directly=False)
            self._context_cache = Context(fields)  # type: ignore[misc]  # a slot of the request
        return self._context_cache
