"""How many messages the broker may send ahead, over the life of a worker.

A part of `celery.worker.consumer.Consumer`. The count is that of the pool's processes times a
multiplier; it follows the pool, and after a lost connection it leaves room for what still runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery.utils.log import get_logger
from celery.worker.state import active_requests

if TYPE_CHECKING:
    from celery.app.base import Celery
    from celery.worker.request import Request

logger = get_logger("celery.worker.consumer.consumer")


class Prefetch:
    """The prefetch count of a consumer."""

    app: Celery
    pool: Any
    qos: Any
    controller: Any
    qos_global: bool | None
    initial_prefetch_count: int
    prefetch_multiplier: int
    carried: set[Request]
    _was_ready: bool

    @property
    def max_prefetch_count(self) -> int:
        """Prefetch count when nothing is held back: that of a fresh start."""
        return int(self.pool.num_processes * self.prefetch_multiplier)

    def _reduce_prefetch(self) -> None:
        """After a lost connection, leave room for what still runs."""
        if not self.app.conf.worker_enable_prefetch_count_reduction or self.pool is None:
            return
        if self.qos_global is False:
            logger.info(
                "Skipping prefetch count reduction after connection restart because "
                "per-consumer QoS (apply_global=False) is in effect: the count of a running "
                "consumer could not be raised again."
            )
            return
        limit = self.max_prefetch_count
        if not limit:
            return
        self.carried = set(active_requests)
        self.initial_prefetch_count = max(
            self.prefetch_multiplier, limit - len(self.carried) * self.prefetch_multiplier
        )
        if self.carried:
            logger.info(
                "Temporarily reducing the prefetch count to %s: %s tasks still run. "
                "It grows back to %s as they end.",
                self.initial_prefetch_count,
                len(self.carried),
                limit,
            )

    def restore_prefetch(self) -> None:
        """Raise the prefetch count for each task that ended of those a lost connection left."""
        ended = [request for request in self.carried if request not in active_requests]
        for request in ended:
            self.carried.discard(request)
        if ended and self.qos is not None:
            room = self.max_prefetch_count - self.qos.value
            step = min(len(ended) * self.prefetch_multiplier, room)
            if step > 0:
                self.qos.increment_eventually(step)
            if not self.carried:
                self.initial_prefetch_count = self.max_prefetch_count
                logger.info("Resuming normal operations following a restart.")

    def on_qos_known(self) -> None:
        """Undo a reduction that the new connection can't take back."""
        if self.qos_global is False and self.pool is not None and self._was_ready:
            self.carried = set()
            if self.max_prefetch_count:
                self.initial_prefetch_count = self.max_prefetch_count

    def update_prefetch_count(self, by: int = 0) -> int | None:
        """Follow a pool that grew (or shrank, *by* negative) by some processes.

        Returns:
            The new count, or None where it can't change.
        """
        slots = getattr(self.controller, "semaphore", None)
        if slots is not None and self.pool is not None:
            slots.resize(slots.limit + by)
        if not self.qos_global or self.qos is None or not self.max_prefetch_count:
            return None
        change = by * self.prefetch_multiplier
        if change > 0:
            return int(self.qos.increment_eventually(change))
        return int(self.qos.decrement_eventually(-change))

    _update_prefetch_count = update_prefetch_count
