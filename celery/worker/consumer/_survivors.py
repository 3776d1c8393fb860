"""Tasks that outlive the connection on which their messages came.

A broker delivers again what was not settled on a connection that it lost. If such a message
comes back to this worker, its task may still run, or have ended meanwhile: there is no need to
run it a second time, only to settle the new delivery as the old one would have been.

This is safe because only the very same message counts: it says that it is delivered again, and
id, attempt and arguments are the same. It stays unsettled at the broker as long as the task
runs, so it is not lost if this worker dies too. If it goes to another worker, that one runs it,
as at any time before.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from time import monotonic
from typing import TYPE_CHECKING, Any

from celery.utils.log import get_logger
from celery.worker._settle import Settlement

if TYPE_CHECKING:
    from celery.worker.request import Request

__all__ = ("Survivors",)

logger = get_logger("celery.worker.consumer.consumer")

#: Seconds for which it is remembered how a task ended whose message has not come again.
REMEMBERED_S = 600.0
#: Tasks that are remembered at most.
REMEMBERED_AT_MOST = 1000

STILL_RUNS = (
    "Task %s[%s] was delivered again after the connection was lost. It still runs here and does "
    "not start again."
)
HAS_ENDED = (
    "Task %s[%s] was delivered again after the connection was lost. It has ended here meanwhile "
    "and does not run again."
)


class _Delivery:
    """Stands in for the lost delivery of a request, until the message comes again.

    Any thread may settle it; the loop attaches the new one.
    """

    def __init__(self, request: Request) -> None:
        self.request = request
        #: What the broker is to be told; None while the task runs.
        self.told: Settlement | None = None
        self.told_at = 0.0
        self._new: tuple[Callable[..., Any], Callable[..., Any]] | None = None
        self._lock = threading.Lock()
        if request.acknowledged:
            # Early, but perhaps the broker did not hear it.
            self._note(Settlement.ACK)
        request._on_ack = self.on_ack
        request._on_reject = self.on_reject

    def _note(self, told: Settlement) -> None:
        self.told = told
        self.told_at = monotonic()

    def on_ack(self, log: Any, errors: Any, multiple: bool = False) -> None:
        """Acknowledge the new delivery, once there is one."""
        with self._lock:
            self._note(Settlement.ACK)
            new = self._new
        if new is not None:
            new[0](log, errors)

    def on_reject(self, log: Any, errors: Any, requeue: bool = False) -> None:
        """Reject the new delivery, once there is one."""
        with self._lock:
            self._note(Settlement.REQUEUE if requeue else Settlement.REJECT)
            new = self._new
        if new is not None:
            new[1](log, errors, requeue)

    def attach(self, ack: Callable[..., Any], reject: Callable[..., Any]) -> Settlement | None:
        """Have *ack* or *reject* called when the task ends; answers how if it has."""
        with self._lock:
            if self.told is None:
                self._new = ack, reject
            return self.told

    @property
    def is_attached(self) -> bool:
        """Whether the message has come again."""
        return self._new is not None

    def detach(self) -> None:
        """Note that the new delivery was lost as well."""
        with self._lock:
            self._new = None


class Survivors:
    """The requests of lost connections that may be delivered again."""

    def __init__(self) -> None:
        #: By id of the task. Empty, and so of no cost, until a connection is lost.
        self.waiting: dict[str, _Delivery] = {}

    def note(self, requests: Iterable[Request]) -> None:
        """Remember *requests*, which the pool has, as the connection is lost."""
        for delivery in self.waiting.values():
            delivery.detach()
        for request in requests:
            if request._ended:
                # Cancelled with the connection: it is to run again.
                continue
            known = self.waiting.get(request.id)
            if known is None or known.request is not request:
                self.waiting[request.id] = _Delivery(request)
        self.forget_old()

    def forget_old(self) -> bool:
        """Forget tasks that ended long ago; say whether any are left."""
        now = monotonic()
        for task_id, delivery in tuple(self.waiting.items()):
            is_old = delivery.told is not None and now - delivery.told_at > REMEMBERED_S
            if is_old or len(self.waiting) > REMEMBERED_AT_MOST:
                del self.waiting[task_id]
        return bool(self.waiting)

    def take_over(
        self,
        message: Any,
        ack: Callable[..., Any],
        reject: Callable[..., Any],
        errors: tuple[type[BaseException], ...],
    ) -> bool:
        """Say whether *message* is one of these, and see to its settling if so.

        Args:
            ack, reject: Settle the message; called with a logger and *errors*.
            errors: To be expected of a lost connection.
        """
        headers = message.headers
        task_id = headers.get("id")
        delivery = self.waiting.get(task_id)
        if delivery is None or delivery.is_attached or not _is_same(message, delivery.request):
            return False
        request = delivery.request
        told = delivery.attach(ack, reject)
        if told is None:
            logger.warning(STILL_RUNS, request.name, request.id)
            return True
        del self.waiting[task_id]
        if told is Settlement.REQUEUE or monotonic() - delivery.told_at > REMEMBERED_S:
            return False
        logger.warning(HAS_ENDED, request.name, request.id)
        if told is Settlement.ACK:
            ack(logger, errors)
        else:
            reject(logger, errors, False)
        return True


def _is_same(message: Any, request: Request) -> bool:
    """Say whether *message* is the one of *request*, delivered again."""
    if not message.delivery_info.get("redelivered"):
        return False
    before = request._message
    headers = message.headers
    return bool(
        headers.get("task") == before.headers.get("task")
        and headers.get("retries") == before.headers.get("retries")
        and message.body == before.body
    )
