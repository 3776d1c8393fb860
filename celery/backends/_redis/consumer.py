"""Receiving pushed documents: which channels are open, and what to do when the server goes away."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from redis.exceptions import ResponseError

from celery import states
from celery.backends._redis.channels import AnsweringChannels, Channels, Question
from celery.backends._redis.params import E_LOST
from celery.backends.asynchronous import E_RETRY_LIMIT_EXCEEDED, BaseResultConsumer

logger = logging.getLogger("celery.backends.redis")

#: Channels of ended tasks that stay open at most until the next one is opened.
MOST_CANCELLED = 100

#: Calls remembered at most as just made.
MOST_FRESH = 10_000


class ResultConsumer(BaseResultConsumer):
    """Receives documents from channels."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._channels: Channels | None = None
        #: What was asked last; whatever was asked before it is answered before it.
        self._last_question: Question | None = None
        #: Calls made by this process of which nobody has asked for the result: it is not there.
        self._fresh: set[str] = set()
        self._writing = threading.Lock()
        self._cancelled: set[str] = set()
        self._puts_off = False
        self._broken = False
        self._failures = 0
        self._pid = os.getpid()
        self._errors: tuple[type[Exception], ...] = self.backend.connection_errors

    @property
    def subscribed_to(self) -> set[bytes]:
        """Channels that are asked for."""
        return self._channels.wanted if self._channels is not None else set()

    def _key(self, task_id: str) -> Any:
        return self.backend.get_key_for_task(task_id)

    # -- Life

    def start(self, initial_task_id: str, **kwargs: Any) -> None:
        """Connect, and begin to receive documents of *initial_task_id*."""
        self.consume_from(initial_task_id)

    def stop(self) -> None:
        """Disconnect; harmless twice."""
        channels, self._channels = self._channels, None
        if channels is not None:
            channels.close()

    def on_after_fork(self) -> None:
        """Forget the connection of the parent."""
        if self._channels is not None:
            self._channels.forget()
        self._channels = self._last_question = None
        self._fresh = set()
        self._cancelled = set()
        self._broken = False
        self._pid = os.getpid()

    # -- Channels

    def consume_from(self, task_id: str) -> None:
        """Receive documents of *task_id*, too."""
        self.consume_from_all([task_id])

    def consume_from_all(self, task_ids: list[str]) -> None:
        """Receive documents of all *task_ids*, too."""
        if self._pid != os.getpid():
            self.on_after_fork()
        with self._writing:
            self._cancelled.difference_update(task_ids)
            keys = [self._key(task_id) for task_id in task_ids]
            cancelled, self._cancelled = self._cancelled, set()
            with self.reconnect_on_error():
                self._last_question = self._open_channels().ask(keys, map(self._key, cancelled))

    def _open_channels(self) -> Channels:
        channels = self._channels
        if channels is None:
            pool = self.backend.connection_pool
            if AnsweringChannels.can_be():
                channels = self._channels = AnsweringChannels(pool)
                try:
                    channels.connect()
                except ResponseError as exc:
                    logger.debug("Waiting for results takes more requests: %s", exc)
                else:
                    return channels
            channels = self._channels = Channels(pool)
        return channels

    def note_sent(self, task_id: str) -> None:
        """Note that a call is about to be sent by this process."""
        if len(self._fresh) >= MOST_FRESH:
            self._fresh.clear()
        self._fresh.add(task_id)

    def cancel_for(self, task_id: str) -> None:
        """Receive nothing more about *task_id*."""
        # Nothing more comes of most of them, so it goes along with the next command.
        self._cancelled.add(task_id)
        if not self._puts_off:
            self._cancel_when_many()

    def _cancel_when_many(self) -> None:
        # Results also end here from their __del__, which runs wherever they die: possibly in this
        # thread, in the middle of a command. Whoever writes next does it then.
        if len(self._cancelled) >= MOST_CANCELLED and self._writing.acquire(blocking=False):
            try:
                self._cancel()
            finally:
                self._writing.release()

    def _cancel(self) -> None:
        cancelled, self._cancelled = self._cancelled, set()
        if cancelled and self._channels is not None and self._pid == os.getpid():
            with self.reconnect_on_error():
                self._channels.unsubscribe(map(self._key, cancelled))

    # -- Receiving

    @contextmanager
    def reconnect_on_error(self) -> Iterator[None]:
        """Note a lost connection; the next `drain_events` makes it anew."""
        try:
            yield
        except self._errors as exc:
            if not self._broken:
                logger.warning("Lost the Redis connection for results: %r", exc)
            self._broken = True

    def drain_events(self, timeout: float | None = None) -> Any:
        """Receive for at most *timeout* seconds, until something came.

        Raises:
            socket.timeout: Nothing came.
            RuntimeError: The connection is lost, and the tries of the retry policy are used up.
        """
        if self._broken:
            self._restore(timeout)
        channels = self._channels
        if channels is None:
            time.sleep(timeout or 0)
            return
        # Cancelling is put off, so that many ends make one command. Other threads may ask for
        # results meanwhile, so no lock is held.
        self._puts_off = True
        try:
            with self.reconnect_on_error():
                for payload in channels.read(timeout):
                    self.on_state_change(self.backend.decode(payload), payload)
        finally:
            self._puts_off = False
        self._cancel_when_many()

    def on_unexpected(self, task_id: str, document: dict[str, Any]) -> None:
        """Drop the document: it can be read again."""

    def peek(self, results: list[Any]) -> None:
        """Read the documents; those of ended tasks need no channel."""
        fresh = self._fresh
        results = [result for result in results if result.id not in fresh]
        if not results:
            return
        keys = [self._key(result.id) for result in results]
        backend = self.backend
        payloads = [backend.get(keys[0])] if len(keys) == 1 else backend.mget(keys)
        for result, payload in zip(results, payloads, strict=True):
            document = backend.decode(payload) if payload else None
            if document and document["status"] in states.READY_STATES:
                if self.on_message is not None:
                    self.on_message(document)
                self.deliver(backend.meta_from_decoded(document), [result])

    def on_wait_for_pending(self, result: Any, timeout: float | None = None, **kwargs: Any) -> None:
        """Read what was stored before the channels were open."""
        results = result if isinstance(result, list) else [result]
        question = self._last_question
        if timeout != 0 and question is not None:
            try:
                for _ in self.drain_events_until(question, timeout=timeout):
                    # Each round may answer it.
                    pass
            except self.backend.TimeoutError:
                # One look is owed to every caller.
                pass
        waiting = [each.id for each in results if each._cache is None]
        self._fresh.difference_update(each.id for each in results)
        if question is None or not question.is_answered:
            self._read_documents(waiting)

    def _read_documents(self, task_ids: list[str]) -> None:
        if not task_ids:
            return
        for payload in self.backend.mget([self._key(task_id) for task_id in task_ids]):
            if payload:
                self.on_state_change(self.backend.decode(payload), None)

    def _restore(self, timeout: float | None) -> None:
        """Connect again, and catch up on what was announced meanwhile."""
        policy = self.backend.retry_policy
        channels = self._channels
        try:
            if channels is not None:
                channels.connect()
            self._read_documents(self.watched_ids())
        except self._errors as exc:
            self._failures += 1
            most = policy.get("max_retries")
            if most is not None and self._failures > most:
                self._failures = 0
                raise RuntimeError(E_RETRY_LIMIT_EXCEEDED) from exc
            logger.warning(E_LOST, self._failures, most or "Inf", exc)
            pause = policy.get("interval_max", 1)
            time.sleep(pause if timeout is None else min(pause, timeout))
            raise TimeoutError from exc
        self._broken, self._failures = False, 0


#: Moved to the public path: it is what docs and tracebacks show.
ResultConsumer.__module__ = "celery.backends.redis"
