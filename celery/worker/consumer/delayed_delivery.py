"""Step that sets up native delayed delivery: RabbitMQ keeps ETA tasks until they are due.

Only with quorum queues, where the worker can't raise its prefetch count for each task that
it would hold itself. The publishing side of it is in `celery.app.amqp`.
"""

from __future__ import annotations

from typing import Any

from kombu.common import Broadcast
from kombu.transport.native_delayed_delivery import (
    bind_queue_to_native_delayed_delivery_exchange,
    declare_native_delayed_delivery_exchanges_and_queues,
)
from kombu.utils.functional import retry_over_time

from celery import bootsteps
from celery.exceptions import ImproperlyConfigured
from celery.utils.log import get_logger
from celery.utils.quorum_queues import detect_quorum_queues
from celery.worker.consumer.tasks import Tasks

__all__ = ("DelayedDelivery",)

logger = get_logger(__name__)

#: Seconds between two attempts, attempts for each broker, and what is tried again.
RETRY_INTERVAL = 1.0
MAX_RETRIES = 3
RETRIED_EXCEPTIONS: tuple[type[BaseException], ...] = (
    ConnectionRefusedError,
    ConnectionError,
    OSError,
)
VALID_QUEUE_TYPES = {"classic", "quorum"}


class DelayedDelivery(bootsteps.StartStopStep):
    """Declares the delay exchanges and queues on every broker, and binds our queues to them."""

    name: str
    requires = (Tasks,)

    def include_if(self, c: Any) -> bool:
        """Take part when a quorum queue is consumed."""
        return bool(
            detect_quorum_queues(c.app, c.app.connection_for_write().transport.driver_type)[0]
        )

    def start(self, c: Any) -> None:
        """Set up all brokers.

        Raises:
            ImproperlyConfigured: ``broker_native_delayed_delivery_queue_type`` names no type.
        """
        queue_type = c.app.conf.broker_native_delayed_delivery_queue_type
        if queue_type not in VALID_QUEUE_TYPES:
            raise ImproperlyConfigured(
                "broker_native_delayed_delivery_queue_type must be "
                f"{' or '.join(sorted(VALID_QUEUE_TYPES))}, not {queue_type!r}"
            )
        for url in self._broker_urls(c):
            try:
                retry_over_time(
                    self._set_up,
                    RETRIED_EXCEPTIONS,
                    args=(c, url, queue_type),
                    errback=_log_attempt,
                    max_retries=MAX_RETRIES,
                    interval_start=RETRY_INTERVAL,
                    interval_step=RETRY_INTERVAL,
                )
            except RETRIED_EXCEPTIONS as exc:
                logger.warning("Cannot set up delayed delivery on one broker: %r", exc)

    def _broker_urls(self, c: Any) -> list[str]:
        urls = c.app.conf.broker_url
        if isinstance(urls, str):
            urls = urls.split(";")
        return [url.strip() for url in urls or () if url.strip()] or [c.conninfo.as_uri(True)]

    def _set_up(self, c: Any, url: str, queue_type: str) -> None:
        with c.app.connection_for_write(url=url) as connection:
            connection.ensure_connection(max_retries=1)
            declare_native_delayed_delivery_exchanges_and_queues(connection, queue_type)
            for queue in c.app.amqp.queues.consume_from.values():
                # A broadcast queue is one of many copies: a delayed message would
                # reach each of them again.
                if not isinstance(queue, Broadcast):
                    bind_queue_to_native_delayed_delivery_exchange(connection, queue)


def _log_attempt(exc: BaseException, intervals: Any, retries: int) -> float:
    logger.warning("Setting up delayed delivery failed (attempt %s): %r", retries + 1, exc)
    return RETRY_INTERVAL
