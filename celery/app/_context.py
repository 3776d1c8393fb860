"""The request context: what a running task knows about its own call.

One `Context` per execution; `Task.request` returns the innermost one of the
calling thread. It is a plain object, so that custom message headers read as
attributes and monitoring packages can walk its ``__dict__``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from celery._protocol.rest import Rest

if TYPE_CHECKING:
    from celery.app.task import Task

__all__ = ("Context",)


#: Headers RabbitMQ adds to dead-lettered messages; a retry does not repeat them.
X_DEATH_HEADERS = {
    "x-death",
    "x-first-death-exchange",
    "x-first-death-queue",
    "x-first-death-reason",
    "x-last-death-exchange",
    "x-last-death-queue",
    "x-last-death-reason",
}


class Context:
    """The fields of one call; unset ones read as the defaults below.

    Args:
        args: At most one mapping with fields.
        kwargs: Further fields; they win.
    """

    _children: list[Any] | None = None
    _protected = 0
    #: Another call with the same id was sent, and carries what depends on this one.
    _replaced = False

    args: Any = None
    callbacks: list[Any] | None = None
    called_directly = True
    #: The steps to come, next one last.
    chain: list[Any] | None = None
    chord: Any = None
    correlation_id: str | None = None
    delivery_info: dict[str, Any] | None = None
    errbacks: list[Any] | None = None
    eta: str | None = None
    expires: str | None = None
    group: str | None = None
    group_index: int | None = None
    headers: dict[str, Any] | None = None
    hostname: str | None = None
    id: str | None = None
    ignore_result: bool | None = False
    is_eager = False
    kwargs: Any = None
    logfile: str | None = None
    loglevel: int | None = None
    origin: str | None = None
    parent_id: str | None = None
    properties: dict[str, Any] | None = None
    retries = 0
    reply_to: str | None = None
    replaced_task_nesting = 0
    root_id: str | None = None
    shadow: str | None = None
    taskset: str | None = None
    timelimit: Any = None
    time_limit: float | None = None
    soft_time_limit: float | None = None
    utc: bool | None = None
    stamped_headers: list[str] | None = None
    stamps: dict[str, Any] | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        fields = self.__dict__
        fields.update(*args, **kwargs)
        # The header states both limits as a pair, the hard one first.
        limits = fields.get("timelimit")
        if limits:
            self.time_limit, self.soft_time_limit = limits
        else:
            self.time_limit = self.soft_time_limit = None

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Set fields, as `dict.update` takes them."""
        self.__dict__.update(*args, **kwargs)

    def clear(self) -> None:
        """Forget every field; all read as their defaults again."""
        self.__dict__.clear()

    def get(self, key: str, default: Any = None) -> Any:
        """Return the field *key*, or *default* when there is none of this name."""
        return getattr(self, key, default)

    def __repr__(self) -> str:
        return f"<Context: {vars(self)!r}>"

    @property
    def children(self) -> list[Any]:
        """Results of tasks that this execution called; they are stored with its result."""
        if self._children is None:
            self._children = []
        return self._children

    def as_execution_options(self) -> dict[str, Any]:
        """Return the options with which the same call is sent again (by a retry)."""
        hard, soft = self.timelimit or (None, None)
        return {
            "task_id": self.id,
            "root_id": self.root_id,
            "parent_id": self.parent_id,
            "group_id": self.group,
            "group_index": self.group_index,
            "shadow": self.shadow,
            "chord": self.chord,
            "chain": self.chain,
            "link": self.callbacks,
            "link_error": self.errbacks,
            "expires": self.expires,
            "soft_time_limit": soft,
            "time_limit": hard,
            "headers": self.headers,
            "retries": self.retries,
            "reply_to": self.reply_to,
            "replaced_task_nesting": self.replaced_task_nesting,
            "origin": self.origin,
        }

    @classmethod
    def of(cls, task: Task, request: Mapping[str, Any] | Context | None, **fields: Any) -> Context:
        """Return a context for *request*, which may be a context, a mapping or None."""
        if isinstance(request, Context):
            request.update(fields)
            return request
        return cls(request or {}, **fields)


def options_to_repeat(
    request: Context, queue: str | None, extra: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the options of a call that repeats that of *request*.

    Args:
        queue: Where it goes; None for where the call came from.
        extra: Options that differ.
    """
    options = {**request.as_execution_options(), **extra}
    if request.headers:
        options["headers"] = {
            name: value for name, value in request.headers.items() if name not in X_DEATH_HEADERS
        }
    if request.stamps:
        options.setdefault("stamped_headers", list(request.stamped_headers or request.stamps))
        for name, value in request.stamps.items():
            options.setdefault(name, value)
    options.setdefault("ignore_result", request.ignore_result)
    delivery_info = request.delivery_info or {}
    if delivery_info.get("priority") is not None:
        options.setdefault("priority", delivery_info["priority"])
    exchange, routing_key = delivery_info.get("exchange"), delivery_info.get("routing_key")
    if queue:
        options["queue"] = queue
    elif not exchange and routing_key and not {"exchange", "routing_key"} & options.keys():
        # The default exchange delivers to the queue that the key names.
        options["queue"] = routing_key
    else:
        options.setdefault("exchange", exchange)
        options.setdefault("routing_key", routing_key)
    return options


class LongChainContext(Context):
    """A context whose chain is a `Rest`, decoded when the task looks at it."""

    @property
    def chain(self) -> list[Any] | None:
        """The steps to come, next one last."""
        chain = self.__dict__.get("chain")
        if type(chain) is Rest:
            chain = self.__dict__["chain"] = chain.steps()
        return chain

    @chain.setter
    def chain(self, chain: list[Any] | None) -> None:
        self.__dict__["chain"] = chain


Context.__module__ = "celery.app.task"
