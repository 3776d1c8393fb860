"""
Moving messages: between brokers, or between queues of one broker.

:func:`start_filter` consumes messages and gives those that pass a filter to a function, which
sends them elsewhere; a message is acknowledged after that only. The other functions are filters
and destinations for common wishes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any

from kombu.common import maybe_declare
from kombu.entity import Queue
from kombu.utils.encoding import ensure_bytes

from celery import _state
from celery.utils.nodenames import worker_direct
from celery.utils.text import str_to_list

if TYPE_CHECKING:
    from kombu.connection import Connection

    from celery.app.base import Celery

__all__ = (
    "State",
    "StopFiltering",
    "migrate_task",
    "migrate_tasks",
    "move",
    "move_by_idmap",
    "move_by_taskmap",
    "move_direct",
    "move_direct_by_id",
    "move_task_by_id",
    "republish",
    "start_filter",
    "task_id_eq",
    "task_id_in",
)

MOVING_PROGRESS_FMT = "Moving task {state.filtered}/{state.strtotal}: {body[task]}[{body[id]}]"

#: Properties of a message that belong to its old delivery.
_DELIVERY_PROPERTIES = (
    "application_headers",
    "content_type",
    "content_encoding",
    "headers",
    "delivery_info",
    "delivery_tag",
)

Callback = Callable[..., Any]


class StopFiltering(Exception):
    """Raised by a filter or callback to end the filtering."""


class State:
    """How far the filtering has come."""

    #: Messages that were seen.
    count = 0
    #: Messages that were moved.
    filtered = 0
    #: Messages that waited at the start, about.
    total_apx = 0

    @property
    def strtotal(self) -> str:
        """The total as text; a question mark where it isn't known."""
        return str(self.total_apx) if self.total_apx else "?"

    def __repr__(self) -> str:
        if self.filtered:
            return f"^{self.filtered}"
        return f"{self.count}/{self.strtotal}"


def republish(
    producer: Any,
    message: Any,
    exchange: str | None = None,
    routing_key: str | None = None,
    remove_props: Iterable[str] | None = None,
) -> None:
    """
    Send a message again as it is.

    Args:
        exchange: Another exchange than the old one.
        routing_key: Another routing key than the old one.
        remove_props: Properties that are left out.
    """
    info = message.delivery_info
    dropped = _DELIVERY_PROPERTIES if remove_props is None else tuple(remove_props)
    properties = {k: v for k, v in message.properties.items() if k not in dropped}
    headers = dict(message.headers)
    # The body goes out as it came, only compressed anew.
    compression = headers.pop("compression", None)
    if "expiration" in properties:
        properties["expiration"] = float(properties["expiration"]) / 1000.0
    producer.publish(
        ensure_bytes(message.body),
        exchange=info["exchange"] if exchange is None else exchange,
        routing_key=info["routing_key"] if routing_key is None else routing_key,
        compression=compression,
        headers=headers,
        content_type=message.content_type,
        content_encoding=message.content_encoding,
        **properties,
    )


def migrate_task(
    producer: Any, body_: Any, message: Any, queues: Mapping[str, str] | None = None
) -> None:
    """Send a message to another broker; *queues* maps queues to new names."""
    info, renamed = message.delivery_info, queues or {}
    republish(
        producer,
        message,
        exchange=renamed.get(info["exchange"]),
        routing_key=renamed.get(info["routing_key"]),
    )


def filter_callback(callback: Callback, tasks: Iterable[str]) -> Callback:
    """Return *callback*, called only for tasks of these names."""
    wanted = frozenset(tasks)

    def filtered(body: Any, message: Any) -> Any:
        if not wanted or body["task"] in wanted:
            return callback(body, message)
        return None

    return filtered


def migrate_tasks(
    source: Connection,
    dest: Connection,
    migrate: Callback = migrate_task,
    app: Celery | None = None,
    queues: Any = None,
    **kwargs: Any,
) -> State:
    """
    Move all tasks from one broker to another.

    Args:
        migrate: Sends one message: ``(producer, body, message, queues=)``.
        queues: Queues to empty: text with commas, list, or mapping to new names.
        kwargs: More arguments of :func:`start_filter`.
    """
    app = _state.app_or_default(app)
    names = prepare_queues(queues)
    producer = app.amqp.Producer(dest, auto_declare=False)

    def declare(queue: Any) -> None:
        twin = queue(producer.channel)
        twin.name = names.get(queue.name, queue.name)
        if twin.routing_key == queue.name:
            twin.routing_key = twin.name
        if twin.exchange.name == queue.name:
            twin.exchange.name = twin.name
        twin.declare()

    return start_filter(
        app,
        source,
        partial(migrate, producer, queues=names),
        queues=names,
        on_declare_queue=declare,
        **kwargs,
    )


def move(
    predicate: Callable[[Any, Any], Any],
    connection: Connection | None = None,
    exchange: str | None = None,
    routing_key: str | None = None,
    source: Any = None,
    app: Celery | None = None,
    callback: Callback | None = None,
    limit: int | None = None,
    transform: Callable[[Any], Any] | None = None,
    **kwargs: Any,
) -> State:
    """
    Move the tasks for which *predicate* says where to.

    Args:
        predicate: Called with body and message; what it returns tells the destination: a false
            value for "leave it", a queue, its name, a pair of exchange and routing key, or true
            for the arguments *exchange* and *routing_key*.
        source: Queues to look through; all of the app by default.
        callback: Called with state, body and message after each move.
        limit: Number of tasks to move at most.
        transform: Turns what *predicate* returned into a queue.
    """
    app = _state.app_or_default(app)
    queues = [_to_queue(app, each) for each in source or []] or None
    with app.connection_or_acquire(connection) as conn:
        producer = app.amqp.Producer(conn)
        state = State()

        def on_task(body: Any, message: Any) -> None:
            verdict = predicate(body, message)
            if not verdict:
                return
            if transform is not None:
                verdict = transform(verdict)
            if isinstance(verdict, Queue):
                maybe_declare(verdict, conn.default_channel)
                verdict = (verdict.exchange.name, verdict.routing_key)
            to_exchange, to_key = expand_dest(verdict, exchange, routing_key)
            republish(producer, message, exchange=to_exchange, routing_key=to_key)
            message.ack()
            state.filtered += 1
            if callback is not None:
                callback(state, body, message)
            if limit and state.filtered >= limit:
                raise StopFiltering

        return start_filter(app, conn, on_task, consume_from=queues, state=state, **kwargs)


def expand_dest(
    ret: Any, exchange: str | None, routing_key: str | None
) -> tuple[str | None, str | None]:
    """Return exchange and routing key for what a predicate returned."""
    if isinstance(ret, (tuple, list)):
        first, second = ret
        return first, second
    if isinstance(ret, str):
        # The default exchange brings a message to the queue of its routing key.
        return "", ret
    return exchange, routing_key


def task_id_eq(task_id: str, body: Any, message: Any) -> bool:
    """Say whether the message is that of the task *task_id*."""
    return bool(body["id"] == task_id)


def task_id_in(ids: Iterable[str], body: Any, message: Any) -> bool:
    """Say whether the message is that of one of the tasks *ids*."""
    return body["id"] in ids


def prepare_queues(queues: Any) -> dict[str, str]:
    """Return a mapping of queues to new names: of ``"a,b:c"``, a list of such, or a mapping."""
    if isinstance(queues, Mapping):
        return dict(queues)
    pairs = (name.partition(":") for name in str_to_list(queues) or ())
    return {old.strip(): (new or old).strip() for old, _, new in pairs}


def _to_queue(app: Celery, queue: Any) -> Any:
    if isinstance(queue, str):
        return app.amqp.queues[queue]
    return queue


class Filterer:
    """
    Consumes messages and shows each to a filter.

    Args:
        filter: Called with body and message of each task.
        limit: Number of messages to look at, at most.
        timeout: Seconds of silence after which the queues count as empty.
        ack_messages: Remove each message once the filter has returned.
        tasks: Names of the tasks to look at, as list or text with commas.
        queues: Queues to look through, with new names.
        callback: Called with state, body and message after each message.
        forever: Go on when the queues are empty.
        on_declare_queue: Called with each queue.
        consume_from: Queues to look through, instead of *queues*.
        accept: Content types to decode; by default the setting ``accept_content``.
    """

    def __init__(
        self,
        app: Celery,
        conn: Connection,
        filter: Callback,
        limit: int | None = None,
        timeout: float = 1.0,
        ack_messages: bool = False,
        tasks: Any = None,
        queues: Any = None,
        callback: Callback | None = None,
        forever: bool = False,
        on_declare_queue: Callback | None = None,
        consume_from: Any = None,
        state: State | None = None,
        accept: Any = None,
        **kwargs: Any,
    ) -> None:
        self.app, self.conn = app, conn
        self.filter, self.callback, self.on_declare_queue = filter, callback, on_declare_queue
        # -- which messages, and how long
        self.queues = prepare_queues(queues)
        self.tasks = set(str_to_list(tasks) or ())
        self.ack_messages = ack_messages
        self.limit, self.timeout, self.forever = limit, timeout, forever
        self.consume_from = [
            _to_queue(app, queue) for queue in consume_from or list(self.queues)
        ] or None
        self.state = state or State()
        self.accept = accept

    def start(self) -> State:
        """Look at messages until there are none, or the limit is reached."""
        consumer = self.prepare_consumer(self.create_consumer())
        try:
            with consumer, contextlib.suppress(StopFiltering):
                self._drain()
        finally:
            # Gives back what was looked at and not removed.
            consumer.channel.close()
        return self.state

    def _drain(self) -> None:
        for seen in count(1):
            try:
                self.conn.drain_events(timeout=self.timeout)
            except TimeoutError:
                if not self.forever:
                    return
            if self.limit and seen >= self.limit:
                return

    def update_state(self, body: Any, message: Any) -> None:
        """Count a message."""
        self.state.count += 1
        if self.limit and self.state.count > self.limit:
            raise StopFiltering

    def ack_message(self, body: Any, message: Any) -> None:
        """Remove a message from its queue."""
        message.ack()

    def create_consumer(self) -> Any:
        """Return a consumer of the queues."""
        return self.app.amqp.TaskConsumer(
            self.conn.channel(), queues=self.consume_from, accept=self.accept
        )

    def prepare_consumer(self, consumer: Any) -> Any:
        """Give the consumer what has to be done with each message, and count what waits."""
        consumer.register_callback(self._on_message)
        self.declare_queues(consumer)
        return consumer

    def _on_message(self, body: Any, message: Any) -> None:
        shown = _task_fields(body, message)
        if self.tasks and shown["task"] not in self.tasks:
            return
        self.update_state(shown, message)
        self.filter(shown, message)
        if self.ack_messages:
            self.ack_message(shown, message)
        if self.callback is not None:
            self.callback(self.state, shown, message)

    def declare_queues(self, consumer: Any) -> None:
        """Declare the queues, at the destination too, and add up their messages."""
        for queue in consumer.queues:
            if self.queues and queue.name not in self.queues and self.consume_from is None:
                continue
            if self.on_declare_queue is not None:
                self.on_declare_queue(queue)
            try:
                _, waiting, _ = queue(consumer.channel).queue_declare(passive=True)
            except self.conn.channel_errors:
                continue
            self.state.total_apx += waiting or 0


def _task_fields(body: Any, message: Any) -> Any:
    """Return name and id of a task as fields, wherever its protocol keeps them."""
    headers = message.headers or {}
    if "task" not in headers:
        return body
    arguments = body if isinstance(body, (list, tuple)) else ((), {}, {})
    return {"task": headers["task"], "id": headers["id"], "args": arguments[0], **_rest(arguments)}


def _rest(arguments: Any) -> dict[str, Any]:
    return {"kwargs": arguments[1]} if len(arguments) > 1 else {}


def start_filter(
    app: Celery,
    conn: Connection,
    filter: Callback,
    limit: int | None = None,
    timeout: float = 1.0,
    ack_messages: bool = False,
    tasks: Any = None,
    queues: Any = None,
    callback: Callback | None = None,
    forever: bool = False,
    on_declare_queue: Callback | None = None,
    consume_from: Any = None,
    state: State | None = None,
    accept: Any = None,
    **kwargs: Any,
) -> State:
    """Show messages to a filter, as :class:`Filterer` says; return how far it came."""
    options = dict(locals())
    options |= options.pop("kwargs")
    return Filterer(**options).start()


def move_task_by_id(task_id: str, dest: Any, **kwargs: Any) -> State:
    """Move one task to the queue *dest*."""
    return move_by_idmap({task_id: dest}, **kwargs)


def move_by_idmap(map: Mapping[str, Any], **kwargs: Any) -> State:
    """Move tasks by their ids: *map* has the queue for each id."""

    def where(body: Any, message: Any) -> Any:
        return map.get(message.properties["correlation_id"])

    # When each id was found there is nothing more to look for.
    return move(where, limit=len(map), **kwargs)


def move_by_taskmap(map: Mapping[str, Any], **kwargs: Any) -> State:
    """Move tasks by their names: *map* has the queue for each name."""

    def where(body: Any, message: Any) -> Any:
        return map.get(body["task"])

    return move(where, **kwargs)


def filter_status(state: State, body: Any, message: Any, **kwargs: Any) -> None:
    """Print the progress: a callback for :func:`move`."""
    print(MOVING_PROGRESS_FMT.format_map({**kwargs, "state": state, "body": body}))  # noqa: T201


#: Like :func:`move`; what the predicate returns is the name of a worker.
move_direct = partial(move, transform=worker_direct)

# Like those without `direct`; what names a queue there is the name of a worker here.
move_direct_by_id, move_direct_by_idmap, move_direct_by_taskmap = (
    partial(mover, transform=worker_direct)
    for mover in (move_task_by_id, move_by_idmap, move_by_taskmap)
)
