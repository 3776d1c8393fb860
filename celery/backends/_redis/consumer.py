"""Receiving pushed documents: which channels are open, and what to do when the server goes away."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from celery import states
from celery.backends._redis.channels import Channels
from celery.backends._redis.params import E_LOST
from celery.backends.asynchronous import E_RETRY_LIMIT_EXCEEDED, BaseResultConsumer

logger = logging.getLogger("celery.backends.redis")

#: Announcements handled before the waiting side is asked whether it has enough.
READ_AT_ONCE = 200


class _Confirmed:
    """Ready once the server has confirmed those of the channels that are still asked for."""

    def __init__(self, channels: Channels, names: Iterable[bytes]) -> None:
        self._channels = channels
        self._names = set(names)

    @property
    def ready(self) -> bool:
        # A document that came meanwhile has closed its channel.
        return self._names & self._channels.wanted <= self._channels.confirmed


class ResultConsumer(BaseResultConsumer):
    """Receives documents from channels."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._channels: Channels | None = None
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
        self._channels = None
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
            if self._channels is None:
                self._channels = Channels(self.backend.connection_pool)
            self._cancelled.difference_update(task_ids)
            with self.reconnect_on_error():
                self._channels.subscribe(map(self._key, task_ids))

    def cancel_for(self, task_id: str) -> None:
        """Receive nothing more about *task_id*."""
        self._cancelled.add(task_id)
        if not self._puts_off:
            self._cancel_unless_busy()

    def _cancel_unless_busy(self) -> None:
        # Results also end here from their __del__, which runs wherever they die: possibly in this
        # thread, in the middle of a command. Whoever writes next does it then.
        if self._writing.acquire(blocking=False):
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
        received = 0
        # Cancelling is put off, so that many ends make one command. Other threads may subscribe
        # meanwhile, so the lock is not held.
        self._puts_off = True
        try:
            with self.reconnect_on_error():
                announced = channels.read(timeout)
                while announced is not None and received < READ_AT_ONCE:
                    received += 1
                    self.on_state_change(self.backend.decode(announced[1]), announced)
                    announced = channels.read(0)
        finally:
            self._puts_off = False
        self._cancel_unless_busy()

    def on_unexpected(self, task_id: str, document: dict[str, Any]) -> None:
        """Drop the document: it can be read again."""

    def peek(self, results: list[Any]) -> None:
        """Read the documents; those of ended tasks need no channel."""
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
        waiting = [each.id for each in results if each._cache is None]
        if not waiting:
            return
        if timeout != 0 and self._channels is not None:
            names = map(_bytes, map(self._key, waiting))
            confirmed = _Confirmed(self._channels, names)
            try:
                for _ in self.drain_events_until(confirmed, timeout=timeout):
                    # Each round may confirm some.
                    pass
            except self.backend.TimeoutError:
                # One look is owed to every caller.
                pass
        still_waiting = {each.id for each in results if each._cache is None}
        self._read_documents([task_id for task_id in waiting if task_id in still_waiting])

    def _read_documents(self, task_ids: list[str]) -> None:
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


def _bytes(key: Any) -> bytes:
    return key if isinstance(key, bytes) else key.encode()


#: Moved to the public path: it is what docs and tracebacks show.
ResultConsumer.__module__ = "celery.backends.redis"
