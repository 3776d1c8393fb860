"""Requests that wait in the worker: for a token of their rate limit, or for their ETA.

A part of `celery.worker.consumer.Consumer`.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from math import inf
from time import time
from typing import TYPE_CHECKING, Any

from kombu.transport.virtual import Channel as VirtualChannel
from kombu.utils.limits import TokenBucket

from celery.exceptions import InvalidTaskError, NotRegistered
from celery.utils.time import rate
from celery.worker import state
from celery.worker.consumer._packed import Packed
from celery.worker.request import Request
from celery.worker.state import task_reserved
from celery.worker.strategy import ETA_PRIORITY, proto1_to_proto2

if TYPE_CHECKING:
    from celery.app.base import Celery
    from celery.app.task import Task


#: Requests that wait here, beyond which others wait in the broker, or as their message alone.
MOST_HELD = 1000

#: Messages of the latter kind that are received again in one go.
MOST_UNPACKED = 100

#: When the timer of those wakes: never.
NO_TIMER: tuple[float, Any] = (inf, None)

#: Tasks that are shown of those in each queue of the broker, and of those put away here.
MOST_SHOWN = 1000


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
    hostname: str
    task_consumer: Any
    timer: Any
    qos: Any
    disable_rate_limits: bool
    is_throttling: bool
    task_buckets: dict[str, RateBucket | None]
    on_task_request: Callable[[Request], Any]
    _rate_lock: threading.RLock
    on_task_received: Callable[[Any], None]
    call_soon: Callable[..., Any]
    wake: Callable[[], None]
    _held: dict[Request, Any]
    _packed: Packed
    _packed_timer: tuple[float, Any]

    def bucket_for_task(self, type: Task) -> RateBucket | None:
        """Return a token bucket for the task's rate limit, None when it has none."""
        limit = rate(getattr(type, "rate_limit", None))
        return RateBucket(limit, capacity=1) if limit else None

    def reset_rate_limits(self) -> None:
        """Make the buckets anew; requests that wait in the old ones move over."""
        with self._rate_lock:
            old = dict(self.task_buckets)
            self.is_throttling = False
            for name, task in self.app.tasks.items():
                bucket = None if self.disable_rate_limits else self.bucket_for_task(task)
                self.task_buckets[name] = bucket
                self.is_throttling = self.is_throttling or bucket is not None
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
        """Have *request* wait until the POSIX time *until*.

        Where the broker can, it does that, and delivers the message again. Otherwise it waits
        here, with one more message prefetched; among many others as nothing but its message,
        which is then received once more.
        """
        delay_s = until - time()
        message = request.message
        is_crowded = len(self._held) >= MOST_HELD
        is_virtual = isinstance(message.channel, VirtualChannel)
        leave = getattr(message, "leave", None)
        if leave is not None and leave(delay_s, is_crowded):
            return
        if self.qos.prev == self.qos.value:
            # The loop tells the broker with its next turn, and may be about to wait.
            self.wake()
        self.qos.increment_eventually()
        # A virtual channel keeps the message itself: nothing would be won.
        if is_crowded and not is_virtual and self._packed.add(until, request.id, message):
            self._arm_packed()
            return
        state.task_scheduled(request)
        self._held[request] = self.timer.call_after(
            max(delay_s, 0), self.apply_eta_task, (request,), priority=ETA_PRIORITY
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

    def _arm_packed(self) -> None:
        due = self._packed.next_due
        if due is None or due >= self._packed_timer[0]:
            return
        self._disarm_packed()
        entry = self.timer.call_after(
            max(due - time(), 0), self.call_soon, (self._receive_packed,), priority=ETA_PRIORITY
        )
        self._packed_timer = due, entry

    def _disarm_packed(self) -> None:
        entry, self._packed_timer = self._packed_timer[1], NO_TIMER
        if entry is not None:
            entry.cancel()

    def _receive_packed(self) -> None:
        self._packed_timer = NO_TIMER
        for message in self._packed.take_due(time(), MOST_UNPACKED):
            self.qos.decrement_eventually()
            self.on_task_received(message)
        self._arm_packed()

    def forget_held(self) -> None:
        """Let go of all that waits for its ETA; the broker has it, too."""
        for entry in list(self._held.values()):
            entry.cancel()
        self._held.clear()
        self._packed.clear()
        self._disarm_packed()

    # -- those that wait as nothing but a message

    def waiting_messages(self, task_ids: Sequence[str] | None = None) -> list[Request]:
        """Return requests for messages that wait in the broker, or put away here; to look at.

        Every worker that consumes from a queue can see what the broker keeps for it.

        Args:
            task_ids: Look for these, instead of those that are due next.
        """
        messages = self._packed.look(MOST_SHOWN, task_ids)
        look = getattr(self._task_channel(), "delayed_messages", None)
        if look is not None:
            messages += look(list(self.app.amqp.queues.consume_from), MOST_SHOWN, task_ids)
        found = []
        for message in messages:
            with suppress(InvalidTaskError, NotRegistered):
                found.append(self._request_to_look_at(message))
        return found

    def _request_to_look_at(self, message: Any) -> Request:
        old: dict[str, Any] = {}
        if "task" not in message.headers:
            # Version 1 has everything in the body.
            body, headers, decoded, utc = proto1_to_proto2(message, message.payload)
            old = {"body": body, "headers": headers, "decoded": decoded, "utc": utc}
        return Request(message, app=self.app, hostname=self.hostname, **old)

    def recall(self, task_ids: Collection[str]) -> None:
        """Have tasks that the broker keeps until their ETA delivered now, being revoked."""
        recall = getattr(self._task_channel(), "recall", None)
        if recall is not None:
            recall(list(self.app.amqp.queues.consume_from), task_ids)

    def _task_channel(self) -> Any:
        return None if self.task_consumer is None else self.task_consumer.channel
