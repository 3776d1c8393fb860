"""How many messages the broker may send ahead, over the life of a worker.

A part of `celery.worker.consumer.Consumer`. The count is that of the pool's processes times a
multiplier; it follows the pool, and after a lost connection it leaves room for what still runs.

RabbitMQ sends so many and then waits for acknowledgements, which takes a while. Where tasks take
no time, or all that comes is put away until its ETA, that while is what a worker spends its time
with. So then the broker is asked for some more (`Prefetch.ahead`), as long as that lasts; what it
has sent of them when tasks begin to take long is given back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery.utils.log import get_logger
from celery.worker import state
from celery.worker.state import active_requests, reserved_requests

if TYPE_CHECKING:
    from celery.app.base import Celery
    from celery.worker.request import Request

logger = get_logger("celery.worker.consumer.consumer")

#: Further messages for each process of a pool whose tasks take no time.
AHEAD_EACH = 16

#: Further messages while all that comes is put away.
AHEAD_OF_HELD = 1024

#: Seconds without a task that begins after which those that run take long.
LONG_S = 0.1


def messages_ahead(is_brisk: bool, processes: int, only_held: bool) -> int:
    """Return how many messages more than the prefetch count the broker may send.

    Args:
        is_brisk: Tasks take no time.
        only_held: There is no task that runs or could, and messages with an ETA come.
    """
    if only_held:
        return AHEAD_OF_HELD
    return AHEAD_EACH * processes if is_brisk else 0


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
    timer: Any
    _held: Any
    _packed: Any
    _was_ready: bool

    #: Messages that the broker may send beyond the prefetch count.
    ahead = 0
    #: Whether it may ever be asked for such.
    may_look_ahead = False
    #: Whether tasks wait for their rate limit, with a place in the prefetch count.
    is_throttling = False
    #: Whether all that comes is put away until its ETA; and how much was so far, each time that
    #: was looked at.
    _is_filling = False
    _held_seen = _held_before = 0
    #: Tasks begun when that was last looked at.
    _begun_before = 0
    _ahead_timer: Any = None

    def look_ahead(self) -> None:
        """Decide how many messages beyond the prefetch count are of use; once in a turn."""
        held = len(self._held) + len(self._packed)
        if reserved_requests:
            self._is_filling = False
        elif held > self._held_seen:
            self._is_filling = True
        self._held_seen = held
        slots = self.controller.semaphore
        ahead = 0
        if not (slots is None or self.carried or self.is_throttling):
            ahead = messages_ahead(slots.is_brisk, slots.limit, self._is_filling)
        if ahead != self.ahead:
            self.ahead = ahead
            # Has the broker be told, with the count.
            self.qos.prev = None
            if self._ahead_timer is None:
                self._held_before, self._begun_before = -1, -1
                self._ahead_timer = self.timer.call_repeatedly(LONG_S, self._watch_ahead)

    def _watch_ahead(self) -> None:
        """Give back what should not have been asked for, where tasks take long after all."""
        held, begun = len(self._held) + len(self._packed), state.all_total_count[0]
        is_stuck = begun == self._begun_before and bool(active_requests)
        if held == self._held_before:
            self._is_filling = False
        self._held_before, self._begun_before = held, begun
        slots = self.controller.semaphore
        if is_stuck:
            slots.slow_down()
        self.look_ahead()
        surplus = sum(not request.acknowledged for request in reserved_requests)
        surplus -= max(self.qos.value - held, 1)
        if is_stuck and surplus > 0:
            for request in slots.take_back(surplus):
                state.task_forgotten(request)
                request.give_back()
        elif not self.ahead and surplus <= 0:
            self.forget_ahead()

    def forget_ahead(self) -> None:
        """Ask for nothing beyond the prefetch count."""
        self.ahead = 0
        timer, self._ahead_timer = self._ahead_timer, None
        if timer is not None:
            timer.cancel()

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
