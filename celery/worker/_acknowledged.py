"""What a request tells the broker: that its message is done with, or is to come again."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from celery.utils.log import get_logger
from celery.worker._announced import Announced
from celery.worker._settle import End, Settlement, resolve, settle

if TYPE_CHECKING:
    from celery.app.task import Task

logger = get_logger("celery.worker.request")


class Acknowledged(Announced):
    """Base of `celery.worker.request.Request`, which keeps the values."""

    __slots__ = ("_connection_errors", "_on_ack", "_on_reject", "acknowledged")

    _on_ack: Callable[..., Any]
    _on_reject: Callable[..., Any]
    _connection_errors: tuple[type[BaseException], ...]

    if TYPE_CHECKING:
        _task: Task

    def _settle(self, end: End) -> None:
        self._tell(self._decide(end))

    def _decide(self, end: End) -> Settlement:
        task = self._task
        return settle(
            end,
            resolve(
                late=task.acks_late,
                on_failure_or_timeout=task.acks_on_failure_or_timeout,
                on_failure=task.acks_on_failure,
                on_timeout=task.acks_on_timeout,
                reject_on_worker_lost=task.reject_on_worker_lost,
            ),
        )

    def _tell(self, told: Settlement) -> None:
        if told is Settlement.ACK:
            self.acknowledge()
        elif told is not Settlement.KEEP:
            self.reject(requeue=told is Settlement.REQUEUE)

    def acknowledge(self) -> None:
        """Tell the broker that the message is done with; no effect once settled."""
        if not self.acknowledged:
            try:
                self._on_ack(logger, self._connection_errors)
            except BrokenPipeError:
                # kombu logs all errors of the connection, and raises this one again. It is not
                # ours to handle: the loop notices the lost connection, while a request whose
                # callback stops half-way would count as running for ever.
                logger.debug("Could not acknowledge %s: the connection is lost", self)
            self.acknowledged = True

    def reject(self, requeue: bool = False) -> None:
        """Tell the broker to drop the message, or to deliver it again."""
        if not self.acknowledged:
            self._on_reject(logger, self._connection_errors, requeue)
            self.acknowledged = True
            self.send_event("task-rejected", requeue=requeue)

    def give_back(self) -> None:
        """Have the message delivered again, to whoever is free; the task was not begun."""
        self._on_reject(logger, self._connection_errors, True)
        self.acknowledged = True
