"""Requests that wait in the worker: for a token of their rate limit, or for their ETA.

A part of `celery.worker.consumer.Consumer`.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from time import time
from typing import TYPE_CHECKING, Any

from kombu.utils.limits import TokenBucket

from celery.utils.time import rate
from celery.worker import state
from celery.worker.state import task_reserved
from celery.worker.strategy import ETA_PRIORITY

if TYPE_CHECKING:
    from celery.app.base import Celery
    from celery.app.task import Task
    from celery.worker.request import Request


class RateBucket(TokenBucket):
    """The rate limit of one task, and the requests that wait for it.

    Args:
        fill_rate: Tasks a second.
        capacity: Tasks that may start at once after a quiet time.
    """

    contents: deque[Request]
    #: Timer entry of the next look, None while nothing waits.
    wakeup: Any = None

    def __init__(self, fill_rate: float, capacity: float = 1) -> None:
        super().__init__(fill_rate, capacity)  # type: ignore[no-untyped-call]  # kombu's

    def consume(self, tokens: float = 1) -> bool:
        """Take *tokens*, unless there are fewer."""
        return bool(self.can_consume(tokens))  # type: ignore[no-untyped-call]  # kombu's

    def delay(self) -> float:
        """Return the seconds until there is a token."""
        return float(self.expected_time(1))  # type: ignore[no-untyped-call]  # kombu's

    def clear(self) -> list[Request]:
        """Stop looking, and return the requests that waited."""
        waiting = list(self.contents)
        self.contents.clear()
        wakeup, self.wakeup = self.wakeup, None
        if wakeup is not None:
            wakeup.cancel()
        return waiting


class Waiting:
    """The waiting room of a consumer."""

    app: Celery
    timer: Any
    qos: Any
    disable_rate_limits: bool
    task_buckets: dict[str, RateBucket | None]
    on_task_request: Callable[[Request], Any]
    _rate_lock: threading.RLock
    _held: dict[Request, Any]

    def bucket_for_task(self, type: Task) -> RateBucket | None:
        """Return a token bucket for the task's rate limit, None when it has none."""
        limit = rate(getattr(type, "rate_limit", None))
        return RateBucket(limit, capacity=1) if limit else None

    def reset_rate_limits(self) -> None:
        """Make the buckets anew; requests that wait in the old ones move over."""
        with self._rate_lock:
            old = dict(self.task_buckets)
            for name, task in self.app.tasks.items():
                bucket = None if self.disable_rate_limits else self.bucket_for_task(task)
                self.task_buckets[name] = bucket
                previous = old.get(name)
                for request in () if previous is None else previous.clear():
                    if bucket is None:
                        self.on_task_request(request)
                    else:
                        self.throttle(request, bucket)

    def throttle(self, request: Request, bucket: RateBucket) -> None:
        """Run *request* once *bucket* has a token for it, in order of arrival."""
        with self._rate_lock:
            bucket.contents.append(request)
            if bucket.wakeup is None:
                self._drain(bucket)

    def _drain(self, bucket: RateBucket) -> None:
        with self._rate_lock:
            bucket.wakeup = None
            while bucket.contents:
                if not bucket.consume(1):
                    bucket.wakeup = self.timer.call_after(
                        bucket.delay(),
                        self._drain,
                        (bucket,),
                        priority=ETA_PRIORITY,
                    )
                    return
                self.on_task_request(bucket.contents.popleft())

    # -- tasks with an ETA

    def hold(self, request: Request, until: float) -> None:
        """Keep *request* until the POSIX time *until*, with one more message prefetched."""
        self.qos.increment_eventually()
        state.task_scheduled(request)
        self._held[request] = self.timer.call_after(
            max(until - time(), 0), self.apply_eta_task, (request,), priority=ETA_PRIORITY
        )

    def apply_eta_task(self, task: Request) -> None:
        """Run a request whose time has come; its rate limit counts from now."""
        self._held.pop(task, None)
        task_reserved(task)
        self.qos.decrement_eventually()
        bucket = self.task_buckets.get(task.type)
        if bucket is not None:
            self.throttle(task, bucket)
        else:
            self.on_task_request(task)
