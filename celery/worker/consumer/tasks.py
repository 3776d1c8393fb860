"""Step that consumes task messages."""

from __future__ import annotations

from typing import Any

from kombu.common import QoS

from celery import bootsteps
from celery.utils.log import get_logger
from celery.utils.quorum_queues import detect_quorum_queues
from celery.worker import state
from celery.worker.consumer.mingle import Mingle

__all__ = ("Tasks",)

logger = get_logger(__name__)


class Tasks(bootsteps.StartStopStep):
    """Opens the task consumer with its prefetch count; the event loop begins to consume."""

    name: str
    requires = (Mingle,)

    def __init__(self, c: Any, **kwargs: Any) -> None:
        c.task_consumer = c.qos = None
        super().__init__(c, **kwargs)

    def start(self, c: Any) -> None:
        """Declare the queues and say how many messages may be sent to us at once."""
        c.update_strategies()
        c.qos_global = apply_global = self.qos_global(c)
        c.on_qos_known()
        channel = c.connection.default_channel
        channel.basic_qos(0, c.initial_prefetch_count, apply_global)
        consumer = c.task_consumer = c.app.amqp.TaskConsumer(
            c.connection, on_decode_error=c.on_decode_error
        )

        c.forget_ahead()

        def set_prefetch_count(prefetch_count: int) -> Any:
            return consumer.qos(
                prefetch_count=prefetch_count and prefetch_count + c.ahead,
                apply_global=apply_global,
            )

        c.qos = QoS(
            set_prefetch_count,
            c.initial_prefetch_count,
            max_prefetch=c.app.conf.worker_eta_task_limit,
        )
        c.may_look_ahead = bool(
            apply_global
            and c.initial_prefetch_count
            and c.app.conf.worker_eta_task_limit is None
            and c.connection.transport.driver_type == "amqp"
        )
        if c.app.conf.worker_disable_prefetch:
            self._fetch_only_when_free(c)

    def stop(self, c: Any) -> None:
        """Stop consuming."""
        if c.task_consumer is not None:
            bootsteps._quietly(c.task_consumer.cancel)

    def shutdown(self, c: Any) -> None:
        """Stop consuming and close the channel, which gives back what was not settled."""
        consumer, c.task_consumer = c.task_consumer, None
        if consumer is not None:
            bootsteps._quietly(consumer.cancel)
            if consumer.channel is not None:
                bootsteps._quietly(consumer.channel.close)

    def info(self, c: Any) -> dict[str, Any]:
        """Return the prefetch count."""
        return {"prefetch_count": c.qos.value if c.qos is not None else "N/A"}

    def qos_global(self, c: Any) -> bool:
        """Say whether the prefetch count is one for the whole channel, and so can change.

        Quorum queues know only a count for each consumer, fixed when it starts.
        """
        if c.app.conf.worker_detect_quorum_queues:
            found, name = detect_quorum_queues(c.app, c.connection.transport.driver_type)
            if found:
                logger.info(
                    "Global QoS is disabled. Prefetch count is now static: %s is a quorum queue.",
                    name,
                )
                return False
        return not c.connection.qos_semantics_matches_spec

    def _fetch_only_when_free(self, c: Any) -> None:
        """Take a message only while a process is free (``worker_disable_prefetch``)."""
        if c.connection.transport.driver_type != "redis":
            logger.warning(
                "worker_disable_prefetch has no effect: only the Redis transport can do it."
            )
            return
        limiter = c.task_consumer.channel.qos
        may_consume = limiter.can_consume
        pool = c.pool

        def can_consume() -> bool:
            return len(state.reserved_requests) < pool.num_processes and bool(may_consume())

        limiter.can_consume = can_consume
