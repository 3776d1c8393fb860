"""Results as messages (``rpc://``): each goes to the reply queue of whoever sent the task.

Nothing is stored. A result can be fetched once, by the thread that sent the task; when that has
gone, the broker drops it. There are no groups to restore and no chords, since nobody else could
read the parts.
"""

from __future__ import annotations

import builtins
import logging
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn

from kombu import entity, messaging
from kombu.common import maybe_declare
from kombu.utils.functional import LRUCache

from celery import _state, states
from celery._protocol import meta as documents
from celery.backends.asynchronous import (
    E_RETRY_LIMIT_EXCEEDED,
    AsyncBackendMixin,
    BaseResultConsumer,
)
from celery.backends.base import Backend
from celery.utils.sockets import has_data

if TYPE_CHECKING:
    from celery.app.base import Celery

__all__ = ("BacklogLimitExceeded", "RPCBackend")

logger = logging.getLogger(__name__)

E_NO_CHORD_SUPPORT = (
    "The result back-end rpc:// does not support chords: the body needs the results of the "
    "header, and these go to the client. A group joined to another task becomes a chord, too. "
    "Use a back-end that stores results, such as redis, database, memcached, mongodb or file."
)

#: States of unfinished tasks that are remembered, one for each task.
STATES_KEPT = 10_000


class BacklogLimitExceeded(Exception):
    """Too many other results are in the queue in front of the one that was asked for."""


class ResultConsumer(BaseResultConsumer):
    """Receives documents from the reply queue, on a connection of its own."""

    Consumer: Any = messaging.Consumer

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._connection: Any = None
        self._consumer: Any = None
        self._no_ack = True
        self._broken = False
        self._failures = 0
        self._pid = os.getpid()

    def start(self, initial_task_id: str, no_ack: bool = True, **kwargs: Any) -> None:
        """Connect, and begin to receive."""
        self._no_ack = no_ack
        self._pid = os.getpid()
        self._connection = self.app.connection()
        self._consumer = self.Consumer(
            self._connection.default_channel,
            [self.backend.binding],
            callbacks=[self.on_state_change],
            no_ack=no_ack,
            accept=self.accept,
        )
        self._consumer.consume()

    @property
    def is_running(self) -> bool:
        """Whether messages come by themselves."""
        return self._consumer is not None and self._pid == os.getpid()

    def stop(self) -> None:
        """Disconnect; harmless twice."""
        connection, self._connection, self._consumer = self._connection, None, None
        if connection is not None:
            # Closes sockets without waiting for the other side, which may be gone.
            connection.release()
            self.backend.queue_is_gone()

    def on_after_fork(self) -> None:
        """Forget the connection of the parent."""
        self._connection = self._consumer = None
        self._pid = os.getpid()

    def consume_from(self, task_id: str) -> None:
        """Receive; all results of this thread come through one queue."""
        if not self.is_running:
            self.start(task_id)

    def consume_from_all(self, task_ids: list[str]) -> None:
        """Receive; all results of this thread come through one queue."""
        self.consume_from(task_ids[0])

    def cancel_for(self, task_id: str) -> None:
        """Do nothing: the queue is for other tasks, too."""

    @contextmanager
    def reconnect_on_error(self) -> Iterator[None]:
        """Note a lost connection; the next `drain_events` makes it anew."""
        connection = self._connection
        lost = connection.connection_errors + connection.channel_errors
        try:
            yield
        except (builtins.TimeoutError, BlockingIOError):
            # Nothing came; both are connection errors only by descent.
            raise
        except lost as exc:
            if not self._broken:
                logger.warning("Lost the connection for results: %r", exc)
            self.stop()
            self._broken = True

    def _restore(self, timeout: float | None) -> None:
        """Connect again; results that were sent meanwhile wait in the queue, if it survived."""
        connection = self.app.connection()
        try:
            connection.connect()
        except connection.connection_errors as exc:
            self._failures += 1
            most = self.backend.retry_policy.get("max_retries")
            if most is not None and self._failures > most:
                self._failures = 0
                raise RuntimeError(E_RETRY_LIMIT_EXCEEDED) from exc
            pause = self.backend.retry_policy.get("interval_max", 1)
            time.sleep(pause if timeout is None else min(pause, timeout))
            raise builtins.TimeoutError from exc
        finally:
            connection.release()
        self.start("", no_ack=self._no_ack)
        self._broken, self._failures = False, 0

    def drain_events(self, timeout: float | None = None) -> Any:
        """Receive for at most *timeout* seconds, until something came.

        Raises:
            socket.timeout: Nothing came.
            RuntimeError: The connection is lost, and the tries of the retry policy are used up.
        """
        if self._broken:
            self._restore(timeout)
        if self._connection is None:
            time.sleep(timeout or 0)
            return
        with self.reconnect_on_error():
            self._connection.drain_events(timeout=timeout)

    def drain_available(self) -> None:
        """Receive what has come already."""
        try:
            while True:
                # Not 0: some transports wait for ever then.
                self.drain_events(timeout=0.001)
        except builtins.TimeoutError:
            return

    def on_state_change(self, meta: dict[str, Any], message: Any) -> None:
        """Hand the plain document *meta* to those who wait for it."""
        if not self._no_ack and message is not None:
            message.ack()
        if meta["status"] not in states.READY_STATES:
            self.backend.remember_state(meta)
        super().on_state_change(meta, message)


_Consumer = ResultConsumer


def _is_quiet(connection: Any) -> bool:
    """Say whether a sending connection has nothing to read: the end of it would be.

    A broker that was restarted has deleted the queue, and nobody notices before something is
    sent: then the queue would not be there when the result of that task comes.
    """
    sock = getattr(getattr(connection, "transport", None), "sock", None)
    if sock is None:
        return True
    try:
        return not has_data(sock)
    except (OSError, ValueError):
        return False


class RPCBackend(Backend, AsyncBackendMixin):
    """Sends results to the callers.

    Args:
        app: The app whose settings apply.
        connection: Accepted for old callers and not used.
        exchange: Accepted for old callers; results go through the default exchange.
        exchange_type: Likewise.
        persistent: Messages survive a restart of the broker; by default ``result_persistent``.
        serializer: Name of a serializer; by default ``result_serializer``.
        auto_delete: The broker deletes the reply queue when the client has gone.
    """

    Exchange: Any = entity.Exchange
    Producer: Any = messaging.Producer
    ResultConsumer = ResultConsumer
    BacklogLimitExceeded = BacklogLimitExceeded

    result_consumer: _Consumer
    persistent = False
    supports_autoexpire = True
    supports_native_join = True

    class Consumer(messaging.Consumer):
        """Reads a queue that was declared before."""

        auto_declare = False

    class Queue(entity.Queue):
        """A reply queue."""

    def __init__(
        self,
        app: Celery,
        connection: Any = None,
        exchange: str | None = None,
        exchange_type: str | None = None,
        persistent: bool | None = None,
        serializer: str | None = None,
        auto_delete: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(app, serializer=serializer, **kwargs)
        del connection, exchange, exchange_type
        # The reply queue belongs to the thread that sends the tasks.
        self.thread_safe = False
        self.persistent = self.prepare_persistent(persistent)
        self.delivery_mode = 2 if self.persistent else 1
        self.exchange = self.Exchange("", type="direct", delivery_mode=self.delivery_mode)
        self.auto_delete = auto_delete
        self._bindings: dict[str, Any] = {}
        #: By name of the reply queue: how kombu knows it, and when to declare it again.
        self._declared: dict[str, tuple[int, float]] = {}
        self._states: LRUCache = LRUCache(limit=STATES_KEPT)
        self.result_consumer = self.ResultConsumer(
            self, self.app, self.accept, self._pending_results, self._pending_messages
        )

    def __reduce__(self, args: tuple[Any, ...] = (), kwargs: Any = None) -> tuple[Any, ...]:
        fields = {"persistent": self.persistent, "auto_delete": self.auto_delete}
        return super().__reduce__(args, {**fields, **(kwargs or {})})

    def as_uri(self, include_password: bool = True) -> str:
        """Return ``rpc://``: the broker is the store."""
        return "rpc://"

    # -- The reply queue

    @property
    def oid(self) -> str:
        """Name of the reply queue of this thread."""
        return self.app.thread_oid

    @property
    def binding(self) -> Any:
        """The reply queue of this thread."""
        oid = self.oid
        queue = self._bindings.get(oid)
        if queue is None:
            make_queue: Any = self.Queue
            queue = self._bindings[oid] = make_queue(
                oid,
                self.exchange,
                oid,
                durable=True,
                auto_delete=self.auto_delete,
                expires=self.expires or None,
            )
        return queue

    def on_task_call(self, producer: Any, task_id: str) -> None:
        """Declare the reply queue before the first task is sent through a connection.

        Not inside of tasks that may not wait: the results would pile up.
        """
        if _state.task_join_will_block() and not _state.may_await():
            return
        oid, channel = self.oid, producer.channel
        declared = channel.connection.client.declared_entities
        ident, renew_at = self._declared.get(oid, (0, 0.0))
        now = time.monotonic()
        if ident in declared and now < renew_at and _is_quiet(channel.connection):
            return
        queue = self.binding
        # Computing the hash of a queue takes as long as sending a message.
        ident = hash(queue)
        maybe_declare(queue, channel, retry=True)
        # kombu does not remember queues that may go away, but it does forget those of a lost
        # connection; going away is seen to here and in `queue_is_gone`.
        declared.add(ident)
        # A queue that nobody used for `expires` seconds is gone.
        self._declared[oid] = ident, now + self.expires / 2 if self.expires else math.inf

    def queue_is_gone(self) -> None:
        """Called when the last consumer has gone: the broker has deleted the queue."""
        self._declared.clear()

    def destination_for(self, task_id: str, request: Any) -> tuple[str | None, str]:
        """Return routing key and correlation id for the result of a task.

        Raises:
            RuntimeError: There is no request, so nobody knows who waits.
        """
        if request is None:
            task = _state.get_current_task()
            request = None if task is None else task.request
        if request is None:
            raise RuntimeError(f"RPC backend missing task request for {task_id!r}")
        return request.reply_to, request.correlation_id or task_id

    def on_reply_declare(self, task_id: str) -> Any:
        """Return what to declare before a result is sent: nothing, the client has done it."""

    def on_result_fulfilled(self, result: Any) -> None:
        """Do nothing: the queue is for other tasks, too."""

    # -- Sending

    def store_result(
        self,
        task_id: str,
        result: Any,
        state: str,
        traceback: str | None = None,
        request: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Send *state* and *result* of a task to its caller, if that wants them."""
        routing_key, correlation_id = self.destination_for(task_id, request)
        plain = self.encode_result(result, state)
        if not routing_key:
            return plain
        document = self._document(task_id, plain, state, traceback, request)
        body = self._encode_document(document)
        with self.app.amqp.producer_pool.acquire(block=True) as producer:
            producer.publish(
                body,
                exchange="",
                routing_key=routing_key,
                correlation_id=correlation_id,
                content_type=self.content_type,
                content_encoding=self.content_encoding,
                retry=True,
                retry_policy=self.retry_policy,
                declare=self.on_reply_declare(task_id),
                delivery_mode=self.delivery_mode,
            )
        return plain

    # -- Receiving

    def on_out_of_band_result(self, task_id: str, message: Any) -> None:
        """Take a message that came another way."""
        self.result_consumer.on_out_of_band_result(message)

    def remember_state(self, meta: dict[str, Any]) -> None:
        """Note the state of an unfinished task, for those who ask."""
        self._states[meta["task_id"]] = self.meta_from_decoded(dict(meta))

    def get_task_meta(self, task_id: str, backlog_limit: int = 1000) -> dict[str, Any]:
        """Return the newest document of a task; one of an ended task only once.

        Raises:
            BacklogLimitExceeded: More than *backlog_limit* messages were in front of it.
        """
        if self._cache is not None and (known := self._cache.get(task_id)) is not None:
            cached: dict[str, Any] = known
            return cached
        if self.result_consumer.is_running:
            self.result_consumer.drain_available()
        elif task_id not in self._pending_messages:
            self._fetch_messages(backlog_limit)
        document: dict[str, Any] | None = self._pending_messages.take(task_id, None)
        if document is None:
            seen: dict[str, Any] | None = self._states.get(task_id)
            return seen or documents.unknown_task()
        self._states.pop(task_id, None)
        if self._cache is not None:
            self._cache[task_id] = document
        return document

    poll = get_task_meta

    def _fetch_messages(self, backlog_limit: int) -> None:
        """Take everything that is in the queue."""
        with self.app.pool.acquire_channel(block=True) as (_, channel):
            queue = self.binding(channel)
            queue.declare()
            for _ in range(backlog_limit):
                message = queue.get(accept=self.accept, no_ack=True)
                if message is None:
                    return
                self.on_out_of_band_result(message.payload["task_id"], message)
        raise self.BacklogLimitExceeded(f"more than {backlog_limit} results in {self.oid}")

    def task_result_exists(self, task_id: str) -> bool:
        """Say whether a result has come that nobody has fetched."""
        if self.result_consumer.is_running:
            self.result_consumer.drain_available()
        else:
            self._fetch_messages(1000)
        return task_id in self._pending_messages or task_id in self._states

    def forget(self, task_id: str) -> None:
        """Drop what has come for a task."""
        if self._cache is not None:
            self._cache.pop(task_id, None)
        self._pending_messages.take(task_id, None)
        self._states.pop(task_id, None)

    def revive(self, channel: Any) -> None:
        """Do nothing; there for callers that treat a back-end as a channel."""

    @cached_property
    def _unsupported(self) -> NotImplementedError:
        return NotImplementedError(
            "rpc:// stores nothing, so nothing can be read twice; groups can't be saved"
        )

    def reload_task_result(self, task_id: str) -> NoReturn:
        """Refuse: a result can be read once."""
        raise self._unsupported

    def reload_group_result(self, task_id: str) -> NoReturn:
        """Refuse: groups are not stored."""
        raise self._unsupported

    def save_group(self, group_id: str, result: Any) -> NoReturn:
        """Refuse: groups are not stored."""
        raise self._unsupported

    def restore_group(self, group_id: str, cache: bool = True) -> NoReturn:
        """Refuse: groups are not stored."""
        raise self._unsupported

    def delete_group(self, group_id: str) -> NoReturn:
        """Refuse: groups are not stored."""
        raise self._unsupported

    # -- Chords

    def ensure_chords_allowed(self) -> NoReturn:
        """Refuse: the body could not read the results of the header."""
        raise NotImplementedError(E_NO_CHORD_SUPPORT.strip())
