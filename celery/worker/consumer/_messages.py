"""How the consumer takes messages: to the strategy of their task, or out of the way.

A part of `celery.worker.consumer.Consumer`. What can't be a task is logged, settled and told
of by a signal; nothing that a message holds may end the loop.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from kombu.exceptions import ContentDisallowed, DecodeError

from celery import signals
from celery.app import trace
from celery.app.task import Context
from celery.exceptions import InvalidTaskError, NotRegistered, WorkerShutdown, WorkerTerminate
from celery.utils.log import get_logger
from celery.utils.saferepr import saferepr
from celery.utils.text import truncate

if TYPE_CHECKING:
    from celery.app.base import Celery
    from celery.worker.consumer._survivors import Survivors
    from celery.worker.request import Request

logger = get_logger("celery.worker.consumer.consumer")

UNKNOWN_FORMAT = """\
Received and deleted unknown message.  Wrong destination?!?

It does not look like a task. Its contents: %s
"""

UNKNOWN_TASK_ERROR = """\
Received unregistered task of type %s.
No task of this name is registered with this worker, so the message was dropped.

Is the module that defines it among the worker's imports (settings "imports" and
"include", option -I)? Do sender and worker import it under the same module name?
A name says where a task was defined: it has to be the same on both sides.

The contents of the message body:
%s

The headers of the message:
%s

The delivery information:
%s
"""

INVALID_TASK_ERROR = """\
Received invalid task message: %s
The message was dropped, since no attempt to run it could succeed. Its sender
may follow another version of the message protocol.

The contents of the message body:
%s
"""

MESSAGE_DECODE_ERROR = """\
Can't decode message body: %r [type:%r encoding:%r headers:%s]

body: %s
"""

MESSAGE_REPORT = """\
body: {0}
{{content_type:{1} content_encoding:{2}
  delivery_info:{3} headers={4}}}
"""


def dump_body(m: Any, body: Any) -> str:
    """Return *body* of message *m* as text of bounded length, with its size in bytes."""
    raw = m.body if body is None else body
    try:
        size = len(m.body)
    except TypeError:
        size = 0
    return f"{truncate(saferepr(raw), 1024)} ({size}b)"


class TaskMessages:
    """The receiving side of a consumer."""

    app: Celery
    hostname: str
    pool: Any
    hub: Any
    event_dispatcher: Any
    connection_errors: tuple[type[BaseException], ...]
    strategies: dict[str, Any]
    survivors: Survivors
    on_task_message: set[Callable[[Request], Any]]
    reset_rate_limits: Callable[[], None]
    call_locked: Callable[..., Any]
    call_soon_ack: Callable[..., Any]

    def update_strategies(self) -> None:
        """Build the strategy of every task anew, and its tracer where tasks run in here."""
        self.reset_rate_limits()
        app, hostname = self.app, self.hostname
        tasks: dict[str, Any] = app.tasks
        runs_here = self.pool is None or not self.pool.uses_semaphore
        for name, task in tasks.items():
            self.strategies[name] = task.start_strategy(app, self)
            if runs_here:
                task.__trace__ = trace.build_tracer(name, task, app.loader, hostname, app=app)

    def create_task_handler(self, promise: Any = None) -> Callable[[Any], None]:
        """Return the function that takes every message of the task consumer."""
        strategies = self.strategies
        callbacks = self.on_task_message
        in_loop = self._calls_back_in_loop()
        # Green threads may write, one at a time, while another waits to read. A thread must
        # leave that to the loop.
        is_green = self.pool is not None and self.pool.is_green
        hand_over = self.call_locked if is_green else self.call_soon_ack
        on_refused = self._on_refused
        survivors, errors = self.survivors.waiting, self.connection_errors

        def on_task_received(message: Any) -> None:
            body = None
            try:
                try:
                    name = message.headers["task"]
                except (KeyError, TypeError):
                    body = message.decode()
                    try:
                        name = body["task"]
                    except (KeyError, TypeError, IndexError):
                        self.on_unknown_message(body, message)
                        return
                try:
                    strategy = strategies[name]
                except (KeyError, TypeError) as exc:
                    self.on_unknown_task(body, message, exc)
                    return
                if in_loop:
                    ack, reject = message.ack_log_error, message.reject_log_error
                else:
                    ack = partial(hand_over, message.ack_log_error)
                    reject = partial(hand_over, message.reject_log_error)
                if survivors and self.survivors.take_over(message, ack, reject, errors):
                    return
                strategy(message, body, ack, reject, callbacks)
            except (WorkerShutdown, WorkerTerminate):
                raise
            except Exception as exc:  # noqa: BLE001 - no message may end the loop
                on_refused(body, message, exc)

        self.on_task_received = on_task_received
        return on_task_received

    def _calls_back_in_loop(self) -> bool:
        """Say whether the pool answers in the thread of the loop, which owns the connection."""
        pool = self.pool
        if pool is None or pool.is_green:
            return False
        if self.hub is not None and pool.uses_semaphore:
            return True
        return bool(getattr(pool, "runs_in_call", False))

    def _on_refused(self, body: Any, message: Any, exc: Exception) -> None:
        if isinstance(exc, self.connection_errors) and not isinstance(exc, ValueError):
            raise exc
        is_task = bool(message.headers.get("task"))
        if isinstance(exc, InvalidTaskError) or (is_task and isinstance(exc, ContentDisallowed)):
            self.on_invalid_task(body, message, exc)
        elif isinstance(exc, DecodeError | ContentDisallowed):
            self.on_decode_error(message, exc)
        else:
            logger.error("Cannot handle a message: %r", exc, exc_info=exc)
            self.on_invalid_task(body, message, exc)

    def on_decode_error(self, message: Any, exc: BaseException) -> None:
        """Log and drop a message whose body can't be decoded."""
        logger.critical(
            MESSAGE_DECODE_ERROR,
            exc,
            message.content_type,
            message.content_encoding,
            saferepr(message.headers),
            dump_body(message, message.body),
            exc_info=exc,
        )
        self._drop(message)

    def on_unknown_message(self, body: Any, message: Any) -> None:
        """Log and drop a message that is no task."""
        logger.warning(UNKNOWN_FORMAT, self._report(body, message))
        self._drop(message)
        signals.task_rejected.send(sender=self, message=message, exc=None)

    def on_unknown_task(self, body: Any, message: Any, exc: BaseException) -> None:
        """Log and drop a message of a task that is not registered, and fail its result."""
        headers = message.headers
        fields = headers if headers.get("task") else body
        name, task_id = fields["task"], fields.get("id")
        logger.error(
            UNKNOWN_TASK_ERROR,
            saferepr(name),
            dump_body(message, body),
            saferepr(headers),
            saferepr(message.delivery_info),
            exc_info=exc,
        )
        self._drop(message)
        if isinstance(task_id, str):
            self._fail_unknown(task_id, str(name), fields)
        signals.task_unknown.send(sender=self, message=message, exc=exc, name=name, id=task_id)

    def _fail_unknown(self, task_id: str, name: str, fields: Any) -> None:
        error = NotRegistered(name)
        context = Context(
            {
                "id": task_id,
                "task": name,
                "chord": None,
                "root_id": fields.get("root_id"),
                "group": fields.get("group"),
                "reply_to": fields.get("reply_to"),
                "errbacks": None,
                "hostname": self.hostname,
            }
        )
        try:
            self.app.backend.mark_as_failure(task_id, error, request=context)
        except Exception:
            logger.exception("Cannot store the failure of %s", task_id)
        if self.event_dispatcher is not None:
            self.event_dispatcher.send(
                "task-failed", uuid=task_id, exception=f"NotRegistered({name!r})"
            )

    def on_invalid_task(self, body: Any, message: Any, exc: BaseException) -> None:
        """Log and drop a task message that can't be run."""
        logger.error(INVALID_TASK_ERROR, exc, dump_body(message, body), exc_info=exc)
        self._drop(message)
        signals.task_rejected.send(sender=self, message=message, exc=exc)

    def _drop(self, message: Any) -> None:
        if not message.acknowledged:
            message.reject_log_error(logger, self.connection_errors)

    def _report(self, body: Any, message: Any) -> str:
        return MESSAGE_REPORT.format(
            dump_body(message, body),
            saferepr(message.content_type),
            saferepr(message.content_encoding),
            saferepr(message.delivery_info),
            saferepr(message.headers),
        )
