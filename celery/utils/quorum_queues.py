"""Find out whether an app uses quorum queues, which change how prefetch and ETA work."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from celery.app.base import Celery


def detect_quorum_queues(app: Celery, driver_type: str) -> tuple[bool, str]:
    """Say whether any queue of *app* is a quorum queue, and which.

    Args:
        driver_type: Kind of broker as the kombu transport names it; only ``"amqp"`` has them.

    Returns:
        ``(True, name of the first)`` or ``(False, "")``.
    """
    if driver_type == "amqp":
        for name, queue in app.amqp.queues.items():
            if (queue.queue_arguments or {}).get("x-queue-type") == "quorum":
                return True, name
    return False, ""
